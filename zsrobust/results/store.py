"""Storing results: what is written, read and checked. No torch here.

A cell is files side by side: `DATASET.json`, small and readable, with counts and never percentages; `DATASET.npz`, the
outcome of every image; and `DATASET.samples.npz`, an image or two to look at, where the dataset's images may be shown.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError
from zsrobust.core.files import leftovers, write_atomically
from zsrobust.core.values import fits
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.flags import is_name, named

FORMAT = "zsrobust-result-2"
MOST = 10**12  #: images, more than any set has
_TRAINING = {"epoch_seconds": float, "history": list[dict[str, float]]}
_FIELDS = {name: kind for name, kind in get_type_hints(Result).items() if name != "identity"}


def write(
    result: Result, outcomes: Outcomes | None, folder: Path, samples: Samples | None = None
) -> Path:
    """Write a cell under `folder` and return the path of its JSON file.

    That file is written last, with its own digest and those of the files beside it. Raises
    ZSRobustError for a result that could not be read again, for example one with a title of two lines.
    """
    path = folder / result.path.with_name(result.path.name + ".json")
    beside = {".npz": outcomes, ".samples.npz": samples}
    content = {suffix: each.to_bytes() for suffix, each in beside.items() if each is not None}
    digests = {suffix: hashlib.sha256(data).hexdigest() for suffix, data in content.items()}
    complete = replace(result, outcomes=digests.get(".npz"), samples=digests.get(".samples.npz"))
    try:
        stored = _stored(complete)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ZSRobustError(f"{path}: this result cannot be stored: {error}.") from error
    for suffix in (".json", *beside):
        for left in leftovers(path.with_suffix(suffix)):
            left.unlink(missing_ok=True)
    for suffix, data in content.items():
        write_atomically(path.with_suffix(suffix), data)
    write_atomically(path, laid_out(stored))
    for suffix in beside.keys() - content.keys():
        path.with_suffix(suffix).unlink(missing_ok=True)
    return path


def _stored(result: Result) -> dict[str, Any]:
    """Return what the JSON file of a result holds; raises ValueError for what could not be read again."""
    if not all(map(is_name, result.flags)):
        raise ValueError("a flag is not a name; write its text into messages")
    stored = {"format": FORMAT, **result.to_json()}
    _check(Result.from_json(result.to_json()))
    return {**stored, "digest": _digest(stored)}


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
    """Read one cell; raises ZSRobustError for a file that is not a whole result of zsrobust."""
    try:
        stored = json.loads(path.read_bytes())
        if stored.pop("format") != FORMAT:
            raise ValueError("another format")
        if stored.pop("digest") != _digest({"format": FORMAT, **stored}):
            raise ValueError("edited: its digest does not fit")
        result = Result.from_json(stored)
        _check(result)
        flags, messages = named(result.flags, result.messages)  # older results hold sentences
        result = replace(result, flags=flags, messages=messages)
        if (
            result.path.parts
            != path.resolve().with_name(path.name.removesuffix(".json")).parts[-5:]
        ):
            raise ValueError("its identity belongs elsewhere")
        return result
    except (*_DAMAGED, ZSRobustError) as error:
        raise ZSRobustError(
            f"{path} is not a result of zsrobust ({str(error) or type(error).__name__}). "
            "Move it away, or delete it."
        ) from None


#: What a damaged file raises while it is read.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _check(result: Result) -> None:
    """Raise ValueError for a field of another type, for impossible counts, for text of more than a line."""
    for name, kind in _FIELDS.items():
        if not fits(getattr(result, name), kind):
            raise ValueError(f"{name} is of another type")
    for name, kind in _TRAINING.items():
        if not fits(result.training.get(name), kind | None):
            raise ValueError(f"{name} is of another type")
    if any("distance" not in epoch for epoch in result.training.get("history") or []):
        raise ValueError("an epoch of its history has no distance")
    lines = (
        *result.flags,
        *(result.messages or ()),
        *result.versions,
        *result.versions.values(),
        result.device,
    )
    if any(map(UNPRINTABLE.search, lines)):
        raise ValueError("a flag, a message or a version is not one line")
    if not 0 <= result.images <= MOST or (result.status == "ok" and not result.images):
        raise ValueError("impossible number of images")
    most = result.images if result.identity.attacks_everything else result.clean_correct
    if not (0 <= result.clean_correct <= result.images and 0 <= result.robust_correct <= most):
        raise ValueError("impossible counts")
    json.dumps(result.to_json(), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True)
class Store:
    """A folder of results that a run reads and writes, and a baseline that it only reads."""

    folder: Path
    baseline: Path | None = None  #: cells that are not in the folder are taken from here

    def __post_init__(self) -> None:
        if self.baseline and self.baseline.resolve() == self.folder.resolve():
            object.__setattr__(self, "baseline", None)  # it is to be written

    def __str__(self) -> str:
        return " and ".join(str(folder) for folder in self.folders)

    def find(self, place: Path) -> Path | None:
        """Return the file of a cell by its relative place; None where no folder has it."""
        for folder in self.folders:
            if (folder / place).exists():
                return folder / place
        return None

    @property
    def folders(self) -> list[Path]:
        """The folders that are read, the own one first."""
        return [self.folder] if self.baseline is None else [self.folder, self.baseline]

    def paths(self) -> list[Path]:
        """Return the JSON files of all cells, sorted; a cell of the own folder replaces the baseline's."""
        found: dict[tuple[str, ...], Path] = {}
        for folder in reversed(self.folders):
            found |= {path.parts[-5:]: path for path in paths(folder)}
        return sorted(found.values())

    def load(self) -> pd.DataFrame:
        """Return the DataFrame of `load_results`."""
        return frame_of((path, read(path)) for path in self.paths())


def paths(folder: str | Path) -> list[Path]:
    """Return the JSON files of the cells under a results folder, or under the folder of a suite in one, sorted."""
    folder = Path(folder)
    return sorted([*folder.glob("*/*/*/*/*.json"), *folder.glob("*/*/*/*.json")])


def load_results(
    folder: str | Path = "results", baseline: str | Path | None = None
) -> pd.DataFrame:
    """Return a DataFrame with a row for every cell stored under `folder`; empty if there is none.

    `folder` may also be the folder of one suite. A cell that is missing there is taken from the folder
    `baseline`, if one is given.

    Columns: suite protocol defense defense_title attack eps dataset dataset_title seed limit images
    clean_correct robust_correct status epoch_seconds history seconds flags versions path made knowledge.
    `defense` and `attack` are spec strings; `history` is that of the training, a dictionary an epoch;
    `flags` has the names of red flags and notes; `zsrobust.results.flags.look_up` has their words.
    `knowledge` is what the attack knew of a test-time defense, "adaptive" or "oblivious"; it is empty for
    other defenses.

    Raises ZSRobustError for a JSON file that is not a result, or was edited.
    """
    return Store(Path(folder), None if baseline is None else Path(baseline)).load()


def frame_of(cells: Iterable[tuple[Path, Result]]) -> pd.DataFrame:
    """Return the DataFrame of `load_results` for results that are read already."""
    return pd.DataFrame([_row(path, result) for path, result in cells], columns=COLUMNS)


_COUNTS = ["images", "clean_correct", "robust_correct", "status"]
COLUMNS = [
    *("suite", "protocol", "defense", "defense_title", "attack", "eps", "dataset", "dataset_title"),
    *("seed", "limit", *_COUNTS, "epoch_seconds", "history", "seconds", "flags", "versions"),
    *("path", "made", "knowledge"),
]


def _row(path: Path, result: Result) -> dict[str, Any]:
    identity = result.identity
    return {
        **identity.about,
        **{name: getattr(result, name) for name in (*_COUNTS, "seconds", "flags", "versions")},
        "defense_title": identity.defense.title,
        "dataset_title": identity.dataset.title,
        "epoch_seconds": result.training.get("epoch_seconds"),
        "history": result.training.get("history"),
        "path": str(path),
        "made": identity.row,
        "knowledge": identity.defense.knowledge,
    }
