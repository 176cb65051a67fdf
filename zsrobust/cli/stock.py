"""What `zsrobust data` shows: where the images of each dataset are, and how large. No torch here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zsrobust.datasets import Split
from zsrobust.datasets.cache import read_about
from zsrobust.datasets.catalogue import entries

STATES = {"prepared": "prepared", "local": "present", "hub": "missing", "missing": "missing"}


def describe() -> str:
    """Return a table of the datasets of the catalogue, a row a split."""
    header = ["name", "split", "images", "state", "size", "where"]
    table = tabulate(
        _rows(),
        header,
        tablefmt="plain",
        colalign=("left", "left", "right", "left", "right", "left"),
    )
    return f"{table}\n\nTo prepare some: zsrobust data cifar10 dtd tiny_imagenet:train; all: zsrobust data --suite paper"


def _rows() -> Iterator[list[Any]]:
    splits: list[Split] = ["test", "train"]
    for name, entry in entries.items():
        for split, size in zip(splits, (entry.size, entry.train_size), strict=True):
            if size is not None:
                state = entry.state(split, None)
                gigabytes = f"{state.size / 1e9:.2f} GB" if state.size is not None else ""
                place = f"{state.place} on the hub" if state.where == "hub" else state.place
                if state.where == "prepared":
                    place = f"from {read_about(Path(place))['source']}"
                yield [name, split, f"{size:,}", STATES[state.where], gigabytes, place]
