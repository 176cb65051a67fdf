"""Results: what one cell found, its complete identity, and how it is stored. No torch here.

A cell is files side by side: `DATASET.json`, small and readable, with counts and never percentages; `DATASET.npz`, the
outcome of every image; and `DATASET.samples.npz`, an image or two to look at, where the dataset's images may be shown.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError
from zsrobust.core.files import leftovers, write_atomically
from zsrobust.core.specs import field_types, parse_eps
from zsrobust.core.values import fits
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.flags import is_name, named

FORMAT = "zsrobust-result-2"
MOST = 10**12  #: images, more than any set has
#: Types of what is read of an identity, and of a training.
_IDENTITY = {
    **dict.fromkeys(
        ("suite", "protocol", "defense.spec", "defense.title", "attack.spec", "attack.eps"), str
    ),
    **dict.fromkeys(("dataset.name", "dataset.title"), str),
    "dataset.limit": int | None,
    "seed": int,
}
_TRAINING = {"epoch_seconds": float, "history": list[dict[str, float]]}


def write(
    result: Result, outcomes: Outcomes | None, folder: Path, samples: Samples | None = None
) -> Path:
    """Write a cell under `folder` and return the path of its JSON file, which is written last, with its own digest.

    Raises ZSRobustError for what could not be read again, a title of two lines say.
    """
    path = folder / result.path.with_name(result.path.name + ".json")
    try:
        _check(result)
        if not all(map(is_name, result.flags)):
            raise ValueError("a flag is not a name; write its text into messages")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ZSRobustError(f"{path}: this result cannot be stored: {error}.") from error
    for left in [
        left
        for suffix in (".json", ".npz", ".samples.npz")
        for left in leftovers(path.with_suffix(suffix))
    ]:
        left.unlink(missing_ok=True)
    if outcomes is not None:
        content = outcomes.to_bytes()
        result.outcomes = hashlib.sha256(content).hexdigest()
        write_atomically(path.with_suffix(".npz"), content)
    if samples is not None:
        content = samples.to_bytes()
        result.samples = hashlib.sha256(content).hexdigest()
        write_atomically(path.with_suffix(".samples.npz"), content)
    stored = {
        "format": FORMAT,
        **{key: value for key, value in asdict(result).items() if value is not None},
    }
    stored["digest"] = _digest(stored)
    write_atomically(path, laid_out(stored))
    for suffix, missing in ((".npz", outcomes is None), (".samples.npz", samples is None)):
        if missing:
            path.with_suffix(suffix).unlink(missing_ok=True)
    return path


def laid_out(stored: Mapping[str, Any]) -> bytes:
    """Return a result's JSON as it is written; what lays it out otherwise changes nothing that is read."""
    return (json.dumps(stored, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(stored: Mapping[str, Any]) -> str:
    """Return the sha256 of a result's JSON, whatever its layout."""
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def outcomes_match(result: Result, path: Path) -> bool:
    """Return whether the outcomes beside a stored result are the ones that it was counted from."""
    outcomes = path.with_suffix(".npz")
    return (
        outcomes.exists() and hashlib.sha256(outcomes.read_bytes()).hexdigest() == result.outcomes
    )


def read(path: Path) -> Result:
    """Read one cell; raises ZSRobustError for a file that is not ours, or not whole."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != FORMAT:
            raise ValueError("another format")
        if stored.pop("digest") != _digest(stored):
            raise ValueError("edited: its digest does not fit")
        del stored["format"]
        result = Result(**stored)
        counts = (result.images, result.clean_correct, result.robust_correct)
        whole = all(type(count) is int and 0 <= count <= counts[0] for count in counts)
        if not whole or counts[0] > MOST or (counts[2] > counts[1] and not result.everything):
            raise ValueError("impossible counts")
        if result.status not in ("ok", "failed") or (result.status == "ok" and not result.images):
            raise ValueError("impossible status")
        _check(result)
        result.flags, result.messages = named(result.flags, result.messages)
        _row(path, result)  # every field that a table reads is there
        if (
            result.path.parts
            != path.resolve().with_name(path.name.removesuffix(".json")).parts[-5:]
        ):
            raise ValueError("its identity belongs elsewhere")
        return result
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        ZSRobustError,
    ) as error:
        raise ZSRobustError(
            f"{path} is not a result of zsrobust ({str(error) or type(error).__name__}). Move it away, or delete it."
        ) from None


def _check(result: Result) -> None:
    """Raise ValueError for a field that is not of its type, for a name that is more than a line, for no finite number."""
    for name, kind in field_types(result).items():
        if not fits(getattr(result, name), kind):
            raise ValueError(f"{name} is of another type")
    known: dict[str, Any] = result.identity
    for name, kind in _IDENTITY.items():
        part, _, key = name.rpartition(".")
        value = (known[part] if part else known)[key]
        if not fits(value, kind) or (isinstance(value, str) and UNPRINTABLE.search(value)):
            raise ValueError(f"{name} is of another type, or more than a line")
    for name, kind in _TRAINING.items():
        if not fits(result.training.get(name), kind | None):
            raise ValueError(f"{name} is of another type")
    if any("distance" not in epoch for epoch in result.training.get("history") or []):
        raise ValueError("an epoch of its history has no distance")
    if any(
        map(
            UNPRINTABLE.search,
            (
                *result.flags,
                *(result.messages or ()),
                *result.versions,
                *result.versions.values(),
                result.device,
            ),
        )
    ):
        raise ValueError("a flag, a message or a version is not one line")
    parse_eps(known["attack"]["eps"])
    json.dumps(asdict(result), ensure_ascii=False, allow_nan=False).encode()


def paths(folder: str | Path) -> list[Path]:
    """Return the JSON files of the cells under a results folder, or under the folder of a suite in one, sorted."""
    folder = Path(folder)
    return sorted([*folder.glob("*/*/*/*/*.json"), *folder.glob("*/*/*/*.json")])


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Return a DataFrame with a row for every cell stored under `folder`; empty if there is none.

    `folder` may also be the folder of one suite in it. Columns: suite protocol defense defense_title attack eps dataset
    dataset_title seed limit images clean_correct robust_correct status epoch_seconds history seconds flags versions path
    made knowledge. `defense` and `attack` are spec strings; `history` is that of the training, a dictionary an epoch.
    `flags` has the names of red flags and notes; `zsrobust.results.flags.look_up` has their words.
    `knowledge` is what the attack knew of a test-time defense, "adaptive" or "oblivious"; "" for other defenses.
    Raises ZSRobustError for a JSON file that is not a result, or was edited.
    """
    return frame_of((path, read(path)) for path in paths(folder))


def frame_of(cells: Iterable[tuple[Path, Result]]) -> pd.DataFrame:
    """Return the DataFrame of `load_results` for results that are read already."""
    return pd.DataFrame([_row(path, result) for path, result in cells], columns=COLUMNS)


COLUMNS = [
    "suite",
    "protocol",
    "defense",
    "defense_title",
    "attack",
    "eps",
    "dataset",
    "dataset_title",
    "seed",
    "limit",
    "images",
    "clean_correct",
    "robust_correct",
    "status",
    "epoch_seconds",
    "history",
    "seconds",
    "flags",
    "versions",
    "path",
    "made",
    "knowledge",
]


def _row(path: Path, result: Result) -> dict[str, Any]:
    identity = result.identity
    return {
        **result.about,
        "defense_title": identity["defense"]["title"],
        "dataset_title": identity["dataset"]["title"],
        **{
            name: getattr(result, name)
            for name in ("images", "clean_correct", "robust_correct", "status")
        },
        "epoch_seconds": result.training.get("epoch_seconds"),
        "history": result.training.get("history"),
        **{name: getattr(result, name) for name in ("seconds", "flags", "versions")},
        "path": str(path),
        "made": _made(identity),
        "knowledge": identity["defense"].get("knowledge", ""),
    }


def _made(identity: Mapping[str, Any]) -> str:
    """Return a digest of defense, attack and protocol's switches, which all cells of a row of a table must share."""
    defense = {key: value for key, value in identity["defense"].items() if key != "title"}
    attack = {
        key: value for key, value in identity["attack"].items() if key != "plan"
    }  # it follows from the classes
    made = [
        defense,
        attack,
        *(more for name in ("switches", "search") if (more := identity.get(name))),
    ]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
