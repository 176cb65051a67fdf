"""Measurement: ours and a named peer, in turn and in one process, as medians of seconds."""

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from zsrobust.models.clip import Clip, load_clip
from zsrobust.models.zeroshot import ZeroShotClassifier

RESULTS = Path(__file__).parent / "results"


def options(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of options whose help is the docstring of a benchmark."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=text, formatter_class=raw)


def ratio(ours: Callable[[], Any], peer: Callable[[], Any], repeat: int = 3) -> dict[str, Any]:
    """Return the median seconds of both, all seconds, and how many times faster ours is."""
    return ratios({"ours": ours}, peer, repeat)["ours"]


def ratios(
    ours: dict[str, Callable[[], Any]], peer: Callable[[], Any], repeat: int = 3
) -> dict[str, dict[str, Any]]:
    """Return the same for each of ours; one more turn warms up, unless `repeat` is 1."""
    seconds: dict[str, list[float]] = {name: [] for name in [*ours, "the peer"]}
    for turn in range(repeat + (repeat > 1)):
        for name, run in {**ours, "the peer": peer}.items():
            taken = seconds_of(run)
            if turn or repeat == 1:
                seconds[name].append(taken)
    found = {}
    for name in ours:
        every = {"ours": seconds[name], "peer": seconds["the peer"]}
        medians = {side: statistics.median(each) for side, each in every.items()}
        ratio = medians["peer"] / medians["ours"]
        found[name] = {"seconds": medians, "all": every, "ratio": ratio}
    return found


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds of a call, including its work that the device finishes later."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Return the device, the threads, the versions and the date of a measurement."""
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "pyautoattack")}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    """Return the name of the processor on Linux, or else the type of machine."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    return f"{len(names)} cores of {names[0]}" if names else platform.machine()


def store(name: str, about: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a benchmark, and add them to those of the same machine in its file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = {"about": about, "machine": machine()}
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    kept = stored["rows"] if stored.get("machine") == content["machine"] else []
    kept = [row for row in kept if _setting(row) not in [_setting(each) for each in rows]]
    content["rows"] = [*kept, *rows]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(about, rows)


def show(about: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a benchmark."""
    table = Table(title=about)
    for key in dict.fromkeys(key for row in rows for key in row):
        if key != "all":
            table.add_column(key)
    for row in rows:
        table.add_row(*(shown(row.get(column.header, "")) for column in table.columns))
    Console().print(table)


def _setting(row: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a row, without its numbers."""
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, str) or key in ("classes", "batch", "images")
    }


def shown(value: Any) -> str:
    """Return a value as text for a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def device() -> str:
    """Return the device of the measurements: "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def vit(
    classes: int, backbone: str = "ViT-B-32-quickgelu/openai"
) -> tuple[Clip, ZeroShotClassifier, list[str]]:
    """Return a CLIP with random weights, a classifier of `classes` classes, and its prompts."""
    torch.manual_seed(0)
    clip = load_clip(backbone, device(), weights=False)
    prompts = [f"This is a photo of a thing of kind {number}" for number in range(classes)]
    classifier = clip.classifier([[prompt] for prompt in prompts])
    return clip, classifier.eval().requires_grad_(False), prompts


def pictures(number: int, side: int = 224) -> torch.Tensor:
    """Return random smooth pictures, (N, 3, S, S) in [0, 1]."""
    coarse = torch.from_numpy(np.random.RandomState(0).rand(number, 3, 7, 7)).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return smooth.clamp(0, 1).to(device())


def half_right(classifier: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return labels, (N,), for which the clean accuracy is 50%."""
    with torch.no_grad():
        logits = classifier(images)
    ranked = logits.argsort(1, descending=True)
    rows = torch.arange(len(images), device=images.device)
    return ranked[rows, rows % 2]
