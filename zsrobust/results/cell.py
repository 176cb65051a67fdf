"""One cell: its counts, the outcome of every image, and a few images to look at."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import ZSRobustError
from zsrobust.results.identity import Identity

LARGEST = 2**28  #: bytes of arrays beside a result, far more than any has
_CLASSES = 2**20  #: more classes than any set has


class Right(NamedTuple):
    """Which images of a cell were classified correctly: arrays of shape (N,)."""

    clean: NDArray[np.bool_]  #: without attack
    robust: NDArray[
        np.bool_
    ]  #: what counts as robust; an image that is clean but not robust is broken


@dataclass(frozen=True)
class Outcomes:
    """What happened to each image, in the order of the (sub)set: four arrays of shape (N,), and the names of the classes."""

    labels: NDArray[np.int64]
    clean: NDArray[np.int64]  #: class predicted on the clean image
    adversarial: NDArray[np.int64]  #: class predicted on the adversarial image
    perturbation: NDArray[
        np.float32
    ]  #: size of the perturbation in the attack's norm; 0 where not attacked
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

    def right(self, attacked_all: bool) -> Right:
        """Return which images count as clean and which as robust. This is the only definition of "robust".

        Robust is correct both without and under attack. Under a protocol that attacks all images, it is correct under
        attack, whatever the model predicted before.
        """
        clean, adversarial = self.clean == self.labels, self.adversarial == self.labels
        return Right(clean, adversarial if attacked_all else clean & adversarial)

    def mean_per_class(self, attacked_all: bool = False) -> tuple[float, float]:
        """Return clean and robust accuracy, each the mean over the classes that have images, in [0, 1]."""
        images = np.bincount(self.labels)
        clean, robust = (
            np.bincount(self.labels, weights=each)[images > 0] / images[images > 0]
            for each in self.right(attacked_all)
        )
        return float(clean.mean()), float(robust.mean())

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
            if (
                [array.dtype.kind for array in arrays] != [*"iiif"]
                or shapes != {(len(found.labels),)}
                or shapes == {(0,)}
            ):
                raise ValueError("its arrays do not fit together")
            if found.classes is not None and (
                found.classes.dtype.kind != "U" or found.classes.ndim != 1
            ):
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
            found = cls(
                arrays["positions"], arrays["pixels"], arrays["change"], float(arrays["scale"])
            )
            side = found.pixels.shape[-1]
            shape = (len(found.positions), 3, side, side)
            kinds = [
                array.dtype.str.lstrip("<")
                for array in (found.positions, found.pixels, found.change)
            ]
            if (
                kinds != ["i8", "|u1", "|i1"]
                or not found.pixels.shape == found.change.shape == shape
                or not side
            ):
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
        raise ZSRobustError(
            f"{path} is missing or damaged ({reason}). Run the cell again."
        ) from None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One cell: its identity, its counts, and how they came about. Counts, never percentages."""

    identity: Identity
    status: Literal["ok", "failed"] = "ok"
    images: int = 0
    clean_correct: int = 0
    robust_correct: int = 0
    flags: list[str] = field(
        default_factory=list
    )  #: names of red flags and notes, see `flags.toml`
    seconds: float = 0.0
    forward: int = 0  #: images that passed through the classifier
    backward: int = 0  #: images whose gradient was taken
    training: dict[str, Any] = field(default_factory=dict)  #: seconds per epoch, and the history
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None  #: the traceback of a failed cell
    outcomes: str | None = None  #: sha256 of the `.npz` file
    samples: str | None = None  #: sha256 of the `.samples.npz` file
    #: Images broken in the lower precision of the search, and not in float32.
    disagreements: int | None = None
    batch_size: int | None = None  #: images that the classifier got at once, in the end
    #: An upper bound that was estimated before: seconds, passes forward and backward.
    predicted: dict[str, float] | None = None
    checks: dict[str, float] | None = None  #: the measurements behind the red flags
    #: Texts of foreign warnings, and why red flags were not computed; one line each.
    messages: list[str] | None = None

    @property
    def path(self) -> Path:
        """The cell's place in the results folder: a relative path without suffix."""
        return self.identity.path

    @property
    def about(self) -> dict[str, Any]:
        """The cell's names and numbers; see `Identity.about`."""
        return self.identity.about

    @property
    def everything(self) -> bool:
        """Whether misclassified images are attacked, too: robust is then correct under attack."""
        return self.identity.attacks_everything

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Result":
        """Return a stored result; raises ValueError or TypeError for a field that is not valid."""
        return cls(**{**stored, "identity": Identity.from_json(stored["identity"])})

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON stores it: fields that are None are left out."""
        stored = {**vars(self), "identity": self.identity.to_json()}
        return {name: value for name, value in stored.items() if value is not None}


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {}
    for name in ("zsrobust", "torch", "open_clip_torch", "pyautoattack", "torchattacks"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
