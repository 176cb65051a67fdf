"""Results: what one cell found, its complete identity, and how it is stored. No torch here.

A cell is files side by side: `DATASET.json`, small and readable, with counts and never percentages; `DATASET.npz`, the
outcome of every image; and `DATASET.samples.npz`, an image or two to look at, where the dataset's images may be shown.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zsrobust.registry import ZSRobustError

FORMAT = "zsrobust-result-2"


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
        return cls(**_unpack(path.with_suffix(".npz")))


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
        arrays = _unpack(path)
        return cls(arrays["positions"], arrays["pixels"], arrays["change"], float(arrays["scale"]))


def _pack(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(path: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ZSRobustError(f"{path} is missing or damaged ({error}). Run the cell again.") from None


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
    disagreements: int | None = None  #: images broken in the lower precision of the search, and not in float32
    batch_size: int | None = None  #: images that the classifier got at once, in the end
    predicted: dict[str, float] | None = None  #: the most that it could take: seconds, and passes forward and backward

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


def slug(text: str) -> str:
    """Return `text` as one safe folder name: letters, digits and "._=-" stay, everything else becomes "-"."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).lstrip(".") or "-"


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
                os.unlink(temporary.name)
                raise
    except OSError as error:
        raise ZSRobustError(f"Cannot write {path}: {error.strerror}. Choose another folder.") from error


def check_writable(folder: Path) -> None:
    """Raise ZSRobustError now, and not after an hour, if nothing can be stored in a folder."""
    probe = folder / ".writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)  # another run may have been here at the same time


def write(result: Result, outcomes: Outcomes | None, folder: Path, samples: Samples | None = None) -> Path:
    """Write a cell under `folder` and return the path of its JSON file, which is written last, with its own digest."""
    path = folder / result.path.with_name(result.path.name + ".json")
    if outcomes is not None:
        content = outcomes.to_bytes()
        result.outcomes = hashlib.sha256(content).hexdigest()
        write_atomically(path.with_suffix(".npz"), content)
    if samples is not None:
        write_atomically(path.with_suffix(".samples.npz"), samples.to_bytes())
    stored = {"format": FORMAT, **{key: value for key, value in asdict(result).items() if value is not None}}
    stored["digest"] = _digest(stored)
    write_atomically(path, (json.dumps(stored, indent=1, ensure_ascii=False) + "\n").encode())
    for suffix, missing in ((".npz", outcomes is None), (".samples.npz", samples is None)):
        if missing:
            path.with_suffix(suffix).unlink(missing_ok=True)
    return path


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
        if not whole or (counts[2] > counts[1] and not result.everything):
            raise ValueError("impossible counts")
        if result.status not in ("ok", "failed") or (result.status == "ok" and not result.images):
            raise ValueError("impossible status")
        _row(path, result)  # every field that a table reads is there
        if result.path.parts != path.resolve().with_name(path.name.removesuffix(".json")).parts[-5:]:
            raise ValueError("its identity belongs elsewhere")
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ZSRobustError(
            f"{path} is not a result of zsrobust ({error or type(error).__name__}). Move it away, or delete it."
        ) from None


def paths(folder: str | Path) -> list[Path]:
    """Return the JSON files of the cells under a results folder, or under the folder of a suite in one, sorted."""
    folder = Path(folder)
    return sorted([*folder.glob("*/*/*/*/*.json"), *folder.glob("*/*/*/*.json")])


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Return a DataFrame with a row for every cell stored under `folder`; empty if there is none.

    `folder` may also be the folder of one suite in it. Columns: suite protocol defense defense_title attack eps dataset
    dataset_title seed limit images clean_correct robust_correct status epoch_seconds history seconds flags versions path
    made. `defense` and `attack` are spec strings; `history` is that of the training, a dictionary an epoch.
    Raises ZSRobustError for a JSON file that is not a result, or was edited.
    """
    return frame_of((path, read(path)) for path in paths(folder))


def frame_of(cells: Iterable[tuple[Path, Result]]) -> pd.DataFrame:
    """Return the DataFrame of `load_results` for results that are read already."""
    return pd.DataFrame([_row(path, result) for path, result in cells], columns=COLUMNS)


COLUMNS = [
    "suite", "protocol", "defense", "defense_title", "attack", "eps", "dataset", "dataset_title", "seed", "limit",
    "images", "clean_correct", "robust_correct", "status", "epoch_seconds", "history", "seconds", "flags", "versions",
    "path", "made",
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
    }


def _made(identity: Mapping[str, Any]) -> str:
    """Return a digest of defense, attack and protocol's switches, which all cells of a row of a table must share."""
    defense = {key: value for key, value in identity["defense"].items() if key != "title"}
    attack = {key: value for key, value in identity["attack"].items() if key != "plan"}  # it follows from the classes
    made = [defense, attack, *(more for name in ("switches", "search") if (more := identity.get(name)))]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
