"""How these benchmarks measure: ours and a named peer in turn, in one process; medians."""

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


def ratio(ours: Callable[[], Any], peer: Callable[[], Any], repeat: int = 3) -> dict[str, Any]:
    """Return the median seconds of both, run in turn, and how many times faster ours is."""
    return ratios({"ours": ours}, peer, repeat)["ours"]


def ratios(
    ours: dict[str, Callable[[], Any]], peer: Callable[[], Any], repeat: int = 3
) -> dict[str, dict[str, Any]]:
    """Return the median seconds of each of ours and of the peer, run in turn, and the ratio.

    One turn more warms everything up, but where there is one only: for what takes minutes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in [*ours, "the peer"]}
    for turn in range(repeat + (repeat > 1)):
        for name, run in {**ours, "the peer": peer}.items():
            taken = seconds_of(run)
            if turn or repeat == 1:
                seconds[name].append(taken)
    theirs = statistics.median(seconds["the peer"])
    found = {}
    for name in ours:
        taken = statistics.median(seconds[name])
        every = {"ours": seconds[name], "peer": seconds["the peer"]}
        found[name] = {
            "seconds": {"ours": taken, "peer": theirs},
            "all": every,
            "ratio": theirs / taken,
        }
    return found


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes, with what it left running on the device."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    names = ("torch", "open_clip_torch", "pyautoattack")
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    """Return the name of the processor, where Linux tells it."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    return f"{len(names)} cores of {names[0]}" if names else platform.machine()


def store(name: str, about: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a benchmark; write them beside other settings of the same machine."""
    RESULTS.mkdir(exist_ok=True)
    path, content = RESULTS / f"{name}.json", {"about": about, "machine": machine()}
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    kept = stored["rows"] if stored.get("machine") == content["machine"] else []
    kept = [row for row in kept if _setting(row) not in [_setting(each) for each in rows]]
    path.write_text(
        json.dumps({**content, "rows": [*kept, *rows]}, indent=1) + "\n", encoding="utf-8"
    )
    table = Table(title=about)
    for key in dict.fromkeys(key for row in rows for key in row):
        if key != "all":
            table.add_column(key)
    for row in rows:
        table.add_row(*(shown(row.get(column.header, "")) for column in table.columns))
    Console().print(table)


def _setting(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row was measured with, without what was found."""
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, str) or key in ("classes", "batch", "images")
    }


def shown(value: Any) -> str:
    """Return a value as a table has it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def device() -> str:
    """Return where to measure."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def vit(classes: int) -> tuple[Clip, ZeroShotClassifier, list[str]]:
    """Return ViT-B/32 with random weights, a classifier of so many classes, and their prompts."""
    torch.manual_seed(0)
    clip = load_clip("ViT-B-32-quickgelu/openai", device(), weights=False)
    prompts = [f"This is a photo of a thing of kind {number}" for number in range(classes)]
    return (
        clip,
        clip.classifier([[prompt] for prompt in prompts]).eval().requires_grad_(False),
        prompts,
    )


def pictures(number: int, side: int = 224) -> torch.Tensor:
    """Return random pictures, (N, 3, S, S) in [0, 1], with some structure in them."""
    coarse = torch.from_numpy(np.random.RandomState(0).rand(number, 3, 7, 7)).float()
    return (
        torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
        .clamp(0, 1)
        .to(device())
    )


def half_right(classifier: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return labels by which every second image is right: a clean accuracy of 50%."""
    with torch.no_grad():
        logits = classifier(images)
    ranked = logits.argsort(1, descending=True)
    rows = torch.arange(len(images), device=images.device)
    return ranked[rows, rows % 2]
