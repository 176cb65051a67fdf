"""Stored results: how cells are written, read and checked.

A cell is up to three files side by side. `DATASET.json` is small and readable, with counts and
never percentages. `DATASET.npz` has the outcome of each image. `DATASET.samples.npz` has a few
sample images, if the dataset's images may be shown.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from zsrobust.core.errors import UNPRINTABLE, NoAnswerError, ZSRobustError
from zsrobust.core.files import (
    cannot_write,
    is_folder,
    leftovers,
    read_regular,
    remove,
    state_of,
    walk,
    write_atomically,
)
from zsrobust.core.hub import local
from zsrobust.core.values import fits
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.flags import is_name, named
from zsrobust.results.plausible import impossible_value
from zsrobust.results.seeds import method, train_seed

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "zsrobust-result-2"
MOST = 10**12  #: images of a cell; real datasets have far fewer
_TRAINING = {"epoch_seconds": float | None, "history": list[dict[str, float]] | None}
_FIELDS = {name: kind for name, kind in get_type_hints(Result).items() if name != "identity"}


def write(
    result: Result, outcomes: Outcomes | None, folder: Path, samples: Samples | None = None
) -> Path:
    """Write a cell under `folder` and return the path of its JSON file.

    The JSON file is written last. It has its own digest and the digests of the files beside it.
    Raises ZSRobustError for a result that `read` would refuse, for example with a two-line title.
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
    try:
        for suffix in (".json", *beside):
            for left in leftovers(path.with_suffix(suffix)):
                remove(left)
    except OSError as error:
        raise cannot_write(path, error) from error
    for suffix, data in content.items():
        write_atomically(path.with_suffix(suffix), data)
    write_atomically(path, laid_out(stored))
    for suffix in beside.keys() - content.keys():
        remove(path.with_suffix(suffix))
    return path


def _stored(result: Result) -> dict[str, Any]:
    """Return a result's JSON with its digest; raises ValueError for what `read` would refuse."""
    if not all(map(is_name, result.flags)):
        raise ValueError("a flag is not a name; add its text to messages")
    stored = {"format": FORMAT, **result.to_json()}
    _check(Result.from_json(result.to_json()))
    return {**stored, "digest": _digest(stored)}


def laid_out(stored: Mapping[str, Any]) -> bytes:
    """Return a result's JSON as bytes, in the layout that is written; `read` accepts any layout."""
    return (json.dumps(stored, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(stored: Mapping[str, Any]) -> str:
    """Return the sha256 of a result's JSON, which does not depend on its layout."""
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def outcomes_match(result: Result, path: Path) -> bool:
    """Return whether the outcomes stored beside a result are those that were counted."""
    digest = sha256_of(path.with_suffix(".npz"))
    return digest is not None and digest == result.outcomes


def sha256_of(path: Path) -> str | None:
    """Return the sha256 of a file's content; None if it is missing or not a regular file.

    Raises NoAnswerError: a file that was not reached is not missing.
    """
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()
    except OSError:
        return None


def read(path: Path) -> Result:
    """Return a stored result; raises ZSRobustError for a file that is damaged or not a result.

    Only a regular file is opened. A link, a named pipe or a device is not a result.
    """
    try:
        stored = json.loads(read_regular(path))
        if stored.pop("format") != FORMAT:
            raise ValueError("another format")
        if stored.pop("digest") != _digest({"format": FORMAT, **stored}):
            raise ValueError("edited: its digest does not fit")
        result = Result.from_json(stored)
        _check(result)
        if result.path.parts != place_of(path):
            raise ValueError("its identity belongs elsewhere")
        flags, messages = named(result.flags, result.messages)  # older results store sentences
        return replace(result, flags=flags, messages=messages)
    except NoAnswerError:
        raise
    except (*DAMAGED, ZSRobustError) as error:
        raise ZSRobustError(
            f"{path} is not a result of zsrobust ({str(error) or type(error).__name__}). "
            "Move it away, or delete it."
        ) from None


#: The exceptions that a damaged file raises while it is read.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _check(result: Result) -> None:
    """Raise ValueError for a wrong type, for impossible counts, and for text of several lines."""
    training = {name: result.training.get(name) for name in _TRAINING}
    for name, kind in {**_FIELDS, **_TRAINING}.items():
        if not fits(training[name] if name in training else getattr(result, name), kind):
            raise ValueError(f"{name} is of another type")
    if any("distance" not in epoch for epoch in training["history"] or []):
        raise ValueError("an epoch of its history has no distance")
    versions = (*result.versions, *result.versions.values())
    lines = (*result.flags, *(result.messages or ()), *versions, result.device)
    if any(map(UNPRINTABLE.search, lines)):
        raise ValueError("a flag, a message or a version is not one line")
    if not 0 <= result.images <= MOST or (result.status == "ok" and not result.images):
        raise ValueError("impossible number of images")
    most = result.attacked
    if not (0 <= result.clean_correct <= result.images and 0 <= result.robust_correct <= most):
        raise ValueError("impossible counts")
    if not 0 <= (result.successes or 0) <= most - result.robust_correct:
        raise ValueError("impossible number of successes")
    for count in (result.largest_class, result.most_predicted):
        if count is not None and not 0 < count <= result.images:
            raise ValueError("impossible counts of a class")
    if wrong := impossible_value(result):
        raise ValueError(wrong)
    json.dumps(result.to_json(), ensure_ascii=False, allow_nan=False).encode()


def place_of(path: Path) -> tuple[str, ...]:
    """Return the place that the path of a JSON file gives: up to five parts, without suffix."""
    folder = os.path.realpath(path.parent)
    return Path(folder, path.name.removesuffix(".json")).parts[-5:]


def check_folder(folder: Path) -> None:
    """Raise ZSRobustError, with the next command, if a results folder is missing."""
    if not is_folder(folder):
        command = shlex.join(["zsrobust", "run", "--results", str(folder)])
        raise ZSRobustError(f"The results folder {folder} is missing. Next: {command}")


@dataclass(frozen=True)
class Store:
    """A results folder that a run reads and writes, and a baseline that it only reads."""

    folder: Path
    baseline: Path | None = None  #: the folder of cells that are missing in `folder`

    def __post_init__(self) -> None:
        if self.baseline and os.path.realpath(self.baseline) == os.path.realpath(self.folder):
            object.__setattr__(self, "baseline", None)  # the run writes this folder

    def __str__(self) -> str:
        return " and ".join(str(folder) for folder in self.folders)

    def find(self, place: Path) -> Path | None:
        """Return the file of a cell by its relative place; None if all folders lack it.

        Raises the errors of `state_of`: a file that was not reached is not missing.
        """
        for folder in self.folders:
            if state_of(folder / place, follow=False):  # `read` refuses a link
                return folder / place
        return None

    @property
    def folders(self) -> list[Path]:
        """The folders to read, `folder` first."""
        return [self.folder] if self.baseline is None else [self.folder, self.baseline]

    def paths(self) -> list[Path]:
        """Return the JSON files of all cells, sorted; those in `folder` replace the baseline's."""
        found: dict[tuple[str, ...], Path] = {}
        for folder in reversed(self.folders):
            found |= {path.parts[-5:]: path for path in paths(folder)}
        return sorted(found.values())

    def load(self) -> "pd.DataFrame":
        """Return the DataFrame of `load_results`."""
        return frame_of((path, read(path)) for path in self.paths())


def paths(folder: str | Path) -> list[Path]:
    """Return the JSON files of the cells under a results folder or a suite's folder, sorted.

    Links below the folder are not followed. A link in the place of a cell, or of a folder of cells,
    is returned like a cell, and `read` refuses it: no cell is left out without an error.
    """
    folder, found = Path(folder), []
    for path, wrong in walk(folder, depth=4):
        depth = len(path.relative_to(folder).parts)
        linked = wrong and depth < 5 and os.path.islink(path) and is_folder(path)
        if linked or (path.suffix == ".json" and depth in (4, 5)):
            found.append(path)
    return sorted(found)


def load_results(
    folder: str | Path = "results", baseline: str | Path | None = None
) -> "pd.DataFrame":
    """Return a DataFrame with one row for each cell stored under `folder`, which may be empty.

    `folder` may also be the folder of one suite, or hf://OWNER/NAME[@REVISION] on the hub. Cells
    that are missing there are loaded from the folder `baseline`, if it is given.

    Columns: suite protocol defense defense_title attack eps dataset dataset_title seed limit images
    clean_correct robust_correct status epoch_seconds history seconds flags versions path made
    knowledge classes largest_class most_predicted memory deployed plan attacked successes
    cost method train_seed.
    `defense` and `attack` are spec strings. `history` is the history of the training, a dictionary
    per epoch. `flags` lists names of red flags and notes, whose words
    `zsrobust.results.flags.look_up` returns. `knowledge` is what the attack knows about a test-time
    defense, "adaptive" or "oblivious", and "" for other defenses.
    `classes` is the number of the dataset's classes, `largest_class` that of the images of the most
    frequent one, and `most_predicted` that of the adversarial images of the class predicted most
    often. `memory` is the peak memory of a training step, in bytes. Each of the four is None where
    a result does not store it. `deployed` is the digest of the defense, checkpoint included.
    `plan` is what an attack ran and skipped for this number of classes, and None for an attack
    without a plan. `successes` is the number of `attacked` images that are predicted as a targeted
    attack's target, and None for other attacks. `cost` is what a test-time defense costs, by name;
    see `Result.cost`. `method` is the spec of the defense without its training seed, and
    `train_seed` that seed, which is missing for a defense without training.

    Raises ZSRobustError for a JSON file that is not a result, or was edited.
    """
    return Store(local(folder), None if baseline is None else local(baseline)).load()


def frame_of(cells: Iterable[tuple[Path, Result]]) -> "pd.DataFrame":
    """Return the DataFrame of `load_results` for results that were read before."""
    import pandas as pd  # half a second, which a command without tables does not need

    return pd.DataFrame([record_of(path, result) for path, result in cells], columns=COLUMNS)


_COUNTS = ["images", "clean_correct", "robust_correct", "status"]
_OF_CLASSES = ("largest_class", "most_predicted")
COLUMNS = [
    *("suite", "protocol", "defense", "defense_title", "attack", "eps", "dataset", "dataset_title"),
    *("seed", "limit", *_COUNTS, "epoch_seconds", "history", "seconds", "flags", "versions"),
    *("path", "made", "knowledge", "classes", *_OF_CLASSES, "memory", "deployed", "plan"),
    *("attacked", "successes", "cost", "method", "train_seed"),
]


def record_of(path: Path, result: Result) -> dict[str, Any]:
    """Return the record of a result: a row of the DataFrame of `load_results`."""
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
        "classes": identity.dataset.classes,
        **{name: getattr(result, name) for name in _OF_CLASSES},
        "memory": _memory(result),
        "deployed": identity.deployed,
        "plan": identity.attack.details.get("plan"),
        "attacked": result.attacked,
        "successes": result.successes,
        "cost": result.cost,
        "method": method(identity.defense),
        "train_seed": train_seed(identity.defense),
    }


def _memory(result: Result) -> float | None:
    """Return the largest peak memory of an epoch, in bytes; older results do not store it."""
    epochs = result.training.get("history") or []
    return max((epoch["memory"] for epoch in epochs if epoch.get("memory")), default=None)
