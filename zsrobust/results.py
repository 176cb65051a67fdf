"""Results: what one cell found, its complete identity, and how it is stored. No torch here.

A cell is files side by side: `DATASET.json`, small and readable, with counts and never percentages; `DATASET.npz`, the
outcome of every image; and `DATASET.samples.npz`, an image or two to look at, where the dataset's images may be shown.
"""

import glob
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zsrobust.registry import UNPRINTABLE, ZSRobustError, field_types, fits, parse_eps

FORMAT = "zsrobust-result-2"

#: How a file is called until `write_atomically` gives it its name.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")
MOST = 10**12  #: images, more than any set has
LARGEST = 2**28  #: bytes of arrays beside a result, far more than any has
_CLASSES = 2**20  #: more classes than any set has
#: Types of what is read of an identity, and of a training.
_IDENTITY = {
    **dict.fromkeys(("suite", "protocol", "defense.spec", "defense.title", "attack.spec", "attack.eps"), str),
    **dict.fromkeys(("dataset.name", "dataset.title"), str),
    "dataset.limit": int | None,
    "seed": int,
}
_TRAINING = {"epoch_seconds": float, "history": list[dict[str, float]]}


@dataclass(frozen=True)
class Outcomes:
    """What happened to each image, in the order of the (sub)set: four arrays of shape (N,), and the names of the classes."""

    labels: NDArray[np.int64]
    clean: NDArray[np.int64]  #: class predicted on the clean image
    adversarial: NDArray[np.int64]  #: class predicted on the adversarial image
    perturbation: NDArray[np.float32]  #: size of the perturbation in the attack's norm; 0 where not attacked
    classes: NDArray[np.str_] | None = None  #: (K,) names of the classes

    @property
    def clean_correct(self) -> int:
        """Number of images classified correctly without attack."""
        return int((self.clean == self.labels).sum())

    @property
    def robust_correct(self) -> int:
        """Number of images classified correctly both without and under attack."""
        return int(((self.clean == self.labels) & (self.adversarial == self.labels)).sum())

    @property
    def adversarial_correct(self) -> int:
        """Number of images classified correctly under attack, whatever they were without."""
        return int((self.adversarial == self.labels).sum())

    def mean_per_class(self, everything: bool = False) -> tuple[float, float]:
        """Return clean and robust accuracy, each the mean over the classes that have images, in [0, 1].

        Robust is correct both without and under attack; or, with `everything`, under attack.
        """
        images = np.bincount(self.labels)
        right = self.clean == self.labels
        safe = (right | everything) & (self.adversarial == self.labels)
        shares = [np.bincount(self.labels, weights=each)[images > 0] / images[images > 0] for each in (right, safe)]
        return float(shares[0].mean()), float(shares[1].mean())

    def to_bytes(self) -> bytes:
        """Return the outcomes as the bytes of an `.npz` file."""
        return _pack({name: array for name, array in vars(self).items() if array is not None})

    @classmethod
    def read(cls, path: Path) -> "Outcomes":
        """Read the outcomes beside a result; raises ZSRobustError if they are missing or damaged."""
        path = path.with_suffix(".npz")
        with _whole(path):
            found = cls(**_unpack(path))
            arrays = (found.labels, found.clean, found.adversarial, found.perturbation)
            shapes = {array.shape for array in arrays}
            if [array.dtype.kind for array in arrays] != [*"iiif"] or shapes != {(len(found.labels),)} or shapes == {(0,)}:
                raise ValueError("its arrays do not fit together")
            if found.classes is not None and (found.classes.dtype.kind != "U" or found.classes.ndim != 1):
                raise ValueError("its classes are no names")
            known = _CLASSES if found.classes is None else len(found.classes)
            if not ((found.labels >= 0) & (found.labels < known)).all():
                raise ValueError("it has labels of no class")
            return found


@dataclass(frozen=True)
class Samples:
    """A few attacked images to look at: the first that the attack broke, and the first that survived."""

    positions: NDArray[np.int64]  #: (k,) in the order of the (sub)set
    pixels: NDArray[np.uint8]  #: (k, 3, S, S) the clean images
    change: NDArray[np.int8]  #: (k, 3, S, S) adversarial minus clean; 127 stands for `scale`
    scale: float  #: the largest change of a pixel, in [0, 1]

    def to_bytes(self) -> bytes:
        """Return the samples as the bytes of an `.npz` file."""
        return _pack({**vars(self), "scale": np.float64(self.scale)})

    @classmethod
    def read(cls, path: Path) -> "Samples | None":
        """Read the samples beside a result, None if there are none; raises ZSRobustError if they are damaged."""
        path = path.with_suffix(".samples.npz")
        if not path.exists():
            return None
        with _whole(path):
            arrays = _unpack(path)
            found = cls(arrays["positions"], arrays["pixels"], arrays["change"], float(arrays["scale"]))
            side = found.pixels.shape[-1]
            shape = (len(found.positions), 3, side, side)
            kinds = [array.dtype.str.lstrip("<") for array in (found.positions, found.pixels, found.change)]
            if kinds != ["i8", "|u1", "|i1"] or not found.pixels.shape == found.change.shape == shape or not side:
                raise ValueError("its arrays do not fit together")
            if not 0 < found.scale <= 1:
                raise ValueError("its scale is not in (0, 1]")
            return found


def _pack(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise ValueError(f"it would unpack to more than {LARGEST >> 20} MB")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged archive raises all kinds
        reason = str(error) or type(error).__name__
        raise ZSRobustError(f"{path} is missing or damaged ({reason}). Run the cell again.") from None


@dataclass
class Result:
    """One cell: identity, counts, and how they came about."""

    identity: dict[str, Any]  #: suite, protocol, defense, attack, dataset, seed: everything the numbers depend on
    status: Literal["ok", "failed"] = "ok"
    images: int = 0
    clean_correct: int = 0
    robust_correct: int = 0
    flags: list[str] = field(default_factory=list)  #: red flags, printed as footnotes
    seconds: float = 0.0
    forward: int = 0  #: images that passed through the classifier
    backward: int = 0  #: images whose gradient was taken
    training: dict[str, Any] = field(default_factory=dict)  #: seconds an epoch and its history, where it was trained
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None  #: the traceback of a failed cell
    outcomes: str | None = None  #: sha256 of the `.npz` file
    samples: str | None = None  #: sha256 of the `.samples.npz` file; None, too, in results that are older than this field
    disagreements: int | None = None  #: images broken in the lower precision of the search, and not in float32
    batch_size: int | None = None  #: images that the classifier got at once, in the end
    predicted: dict[str, float] | None = None  #: the most that it could take: seconds, and passes forward and backward
    checks: dict[str, float] | None = None  #: what was measured for red flags, on a small sample: see `zsrobust.flags`

    @property
    def everything(self) -> bool:
        """Whether also what was misclassified was attacked, so that robust is what is right in the end."""
        return bool(self.identity.get("switches", {}).get("attacked") == "all")

    @property
    def about(self) -> dict[str, Any]:
        """The cell's suite, protocol, attack, eps, defense, dataset, seed and limit, named as in `load_results`."""
        identity = self.identity
        return {
            **{name: identity[name] for name in ("suite", "protocol", "seed")},
            "attack": identity["attack"]["spec"],
            "eps": identity["attack"]["eps"],
            "defense": identity["defense"]["spec"],
            "dataset": identity["dataset"]["name"],
            "limit": identity["dataset"]["limit"],
        }

    @property
    def path(self) -> Path:
        """The cell's place in the results folder, as a relative path without suffix."""
        identity = self.identity
        attack = slug(f"{identity['attack']['spec']}-eps={identity['attack']['eps']}")
        subset = "" if identity["dataset"]["limit"] is None else f".limit={identity['dataset']['limit']}"
        seed = f".seed={identity['seed']}" if identity["seed"] else ""
        cell = slug(identity["dataset"]["name"]) + subset + seed
        return Path(slug(identity["suite"]), slug(identity["protocol"]), attack, slug(identity["defense"]["spec"]), cell)


def one_line(text: str) -> str:
    """Return a text without what is no part of a line."""
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def slug(text: str) -> str:
    """Return `text` as one safe folder name: letters, digits and "._=+-" stay, everything else becomes "-".

    One of more than 200 characters is cut, and ends in a digest of the whole text.
    """
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).lstrip(".") or "-"
    if len(name) <= 200:
        return name
    return f"{name[:183]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields in which two identities differ; titles are for print and never compared."""
    for key in sorted((stored.keys() | asked.keys()) - {"title"}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is seen whole or not at all; raises ZSRobustError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
            try:
                temporary.write(content)
                temporary.flush()
                os.fsync(temporary.fileno())
                os.chmod(temporary.name, 0o644)
                os.replace(temporary.name, path)
            except BaseException:
                Path(temporary.name).unlink(missing_ok=True)  # it may have its name already
                raise
    except OSError as error:
        raise ZSRobustError(f"Cannot write {path}: {error.strerror}. Choose another folder.") from error


def leftovers(path: Path) -> list[Path]:
    """Return what killed processes left of the writing of a file: no one reads it, and who may write the file removes it."""
    found = path.parent.glob(f"{glob.escape(f'.{path.name}.')}*")
    return [left for left in found if (match := TEMPORARY.fullmatch(left.name)) and match["name"] == path.name]


def check_writable(folder: Path) -> None:
    """Raise ZSRobustError now, and not after an hour, if nothing can be stored in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, so that nothing is left of it
    except OSError as error:
        raise ZSRobustError(f"Cannot write {folder}: {error.strerror}. Choose another folder.") from error


def write(result: Result, outcomes: Outcomes | None, folder: Path, samples: Samples | None = None) -> Path:
    """Write a cell under `folder` and return the path of its JSON file, which is written last, with its own digest.

    Raises ZSRobustError for what could not be read again, a title of two lines say.
    """
    path = folder / result.path.with_name(result.path.name + ".json")
    try:
        _check(result)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ZSRobustError(f"{path}: this result cannot be stored: {error}.") from error
    for left in [left for suffix in (".json", ".npz", ".samples.npz") for left in leftovers(path.with_suffix(suffix))]:
        left.unlink(missing_ok=True)
    if outcomes is not None:
        content = outcomes.to_bytes()
        result.outcomes = hashlib.sha256(content).hexdigest()
        write_atomically(path.with_suffix(".npz"), content)
    if samples is not None:
        content = samples.to_bytes()
        result.samples = hashlib.sha256(content).hexdigest()
        write_atomically(path.with_suffix(".samples.npz"), content)
    stored = {"format": FORMAT, **{key: value for key, value in asdict(result).items() if value is not None}}
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
    return outcomes.exists() and hashlib.sha256(outcomes.read_bytes()).hexdigest() == result.outcomes


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
        _row(path, result)  # every field that a table reads is there
        if result.path.parts != path.resolve().with_name(path.name.removesuffix(".json")).parts[-5:]:
            raise ValueError("its identity belongs elsewhere")
        return result
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ZSRobustError) as error:
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
    if any(map(UNPRINTABLE.search, (*result.flags, *result.versions, *result.versions.values(), result.device))):
        raise ValueError("a flag, or a version, is more than a line")
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
    `knowledge` is what the attack knew of a test-time defense, "adaptive" or "oblivious"; "" for other defenses.
    Raises ZSRobustError for a JSON file that is not a result, or was edited.
    """
    return frame_of((path, read(path)) for path in paths(folder))


def frame_of(cells: Iterable[tuple[Path, Result]]) -> pd.DataFrame:
    """Return the DataFrame of `load_results` for results that are read already."""
    return pd.DataFrame([_row(path, result) for path, result in cells], columns=COLUMNS)


COLUMNS = [
    "suite", "protocol", "defense", "defense_title", "attack", "eps", "dataset", "dataset_title", "seed", "limit",
    "images", "clean_correct", "robust_correct", "status", "epoch_seconds", "history", "seconds", "flags", "versions",
    "path", "made", "knowledge",
]  # fmt: skip


def _row(path: Path, result: Result) -> dict[str, Any]:
    identity = result.identity
    return {
        **result.about,
        "defense_title": identity["defense"]["title"],
        "dataset_title": identity["dataset"]["title"],
        **{name: getattr(result, name) for name in ("images", "clean_correct", "robust_correct", "status")},
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
    attack = {key: value for key, value in identity["attack"].items() if key != "plan"}  # it follows from the classes
    made = [defense, attack, *(more for name in ("switches", "search") if (more := identity.get(name)))]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
