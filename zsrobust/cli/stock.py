"""The datasets on this machine, and those to download. This module does not import torch."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zsrobust.core.files import cache_folder
from zsrobust.core.hub import Unreachable, check_network
from zsrobust.datasets import Dataset, Split, cache, catalogue

STATES = {"prepared": "prepared", "local": "present", "hub": "missing", "missing": "missing"}


def describe() -> str:
    """Return a table of the catalogue's datasets, with one row for each split."""
    header = ["name", "split", "images", "state", "size", "where"]
    sides = ("left", "left", "right", "left", "right", "left")
    rows = [row for dataset in catalogue.listed().values() for row in _rows(dataset)]
    table = tabulate(rows, header, tablefmt="plain", colalign=sides)
    return (
        f"{table}\n\nTo prepare some: zsrobust data cifar10 dtd tiny_imagenet:train; "
        "all: zsrobust data --suite paper"
    )


def _rows(dataset: Dataset) -> Iterator[list[Any]]:
    splits: list[tuple[Split, int | None]] = [("test", dataset.size), ("train", dataset.train_size)]
    for split, images in splits:
        if images is None:
            continue
        state = dataset.state(split, None)
        size = "" if state.size is None else f"{state.size / 1e9:.2f} GB"
        place, word = state.place, STATES[state.where]
        if state.where == "prepared":
            place = f"from {cache.read_about(Path(place))['source']}"
        elif state.where == "hub":
            place = f"{place} on the hub"
        elif wrong := dataset.wrong(split) if state.where == "local" else "":
            word, place = "not usable", f"{place}: {wrong}"
        yield [dataset.name, split, f"{images:,}", word, size, place]


def check_available(names: Sequence[str]) -> None:
    """Raise Unreachable if test splits must be downloaded and the network does not answer.

    The error is one line that names all of them. Names outside the catalogue are skipped.
    """
    known = catalogue.listed()
    chosen = [known[name] for name in names if name in known]
    absent = [each for each in chosen if each.state("test", None).where == "hub"]
    try:
        if sum(dataset.to_download("test") for dataset in absent):
            check_network("They must be downloaded")
    except Unreachable as error:
        missing = ", ".join(dataset.name for dataset in absent)
        root = os.environ.get("ZSROBUST_DATA")
        looked = f"in {root}" if root else "in no data root, as ZSROBUST_DATA is not set"
        raise Unreachable(
            f"{len(absent)} of {len(names)} datasets are not on this machine: {missing}. "
            f"Looked in {cache_folder()} and {looked}. "
            f"The hub cannot be reached ({error.__cause__ or error}). "
            "Set --data-root to the folder of your copies, or run once with the network: "
            "zsrobust data --suite paper. `--suite mini` needs no data."
        ) from error
