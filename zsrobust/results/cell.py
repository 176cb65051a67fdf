"""One cell: its counts, the outcome of each image, and a few sample images."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.files import read_regular, state_of
from zsrobust.core.intervals import wilson
from zsrobust.results import shown
from zsrobust.results.identity import Identity

LARGEST = 2**28  #: bytes of the arrays in one file; real files are far smaller
_CLASSES = 2**20  #: classes of a dataset; real datasets have far fewer


class Right(NamedTuple):
    """Which images of a cell were classified correctly: arrays of shape (N,)."""

    clean: NDArray[np.bool_]  #: without attack
    robust: NDArray[np.bool_]  #: robust; an image that is clean but not robust is broken


@dataclass(frozen=True)
class Outcomes:
    """What happened to each image, in the order of the (sub)set: arrays of shape (N,)."""

    labels: NDArray[np.int64]
    clean: NDArray[np.int64]  #: class predicted on the clean image
    adversarial: NDArray[np.int64]  #: class predicted on the adversarial image
    perturbation: NDArray[np.float32]  #: size in the attack's norm; 0 for images not attacked
    classes: NDArray[np.str_] | None = None  #: (K,) names of the classes
    #: class that a targeted attack drives the image to, -1 if it was not attacked; None for others
    targets: NDArray[np.int64] | None = None

    @property
    def clean_correct(self) -> int:
        """Number of images classified correctly without attack."""
        return int(self.right(attacked_all=False).clean.sum())

    @property
    def robust_correct(self) -> int:
        """Number of images classified correctly both without and under attack."""
        return int(self.right(attacked_all=False).robust.sum())

    @property
    def successes(self) -> int | None:
        """Number of images predicted as a targeted attack's target; None for other attacks."""
        return None if self.targets is None else int((self.adversarial == self.targets).sum())

    def right(self, attacked_all: bool) -> Right:
        """Return which images count as clean and which as robust. Only this defines "robust".

        A robust image is classified correctly both without and under attack. If the protocol
        attacks all images, a robust image is classified correctly under attack.
        """
        clean, adversarial = self.clean == self.labels, self.adversarial == self.labels
        return Right(clean, adversarial if attacked_all else clean & adversarial)

    @property
    def class_counts(self) -> dict[str, int]:
        """Images of the most frequent label, and images predicted as one class under attack.

        The names are those of the fields of `Result`. The second count is that of the class that
        is predicted most often on adversarial images.
        """
        return {
            "largest_class": int(np.unique(self.labels, return_counts=True)[1].max()),
            "most_predicted": int(np.unique(self.adversarial, return_counts=True)[1].max()),
        }

    def mean_per_class(self, attacked_all: bool = False) -> tuple[float, float]:
        """Return clean and robust accuracy in [0, 1], each the mean over classes with images."""
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
        """Return the outcomes stored beside the result at `path`.

        Raises ZSRobustError if the file is missing or damaged.
        """
        path = path.with_suffix(".npz")
        with _reading(path):
            found = cls(**_unpack(path))
            arrays = (found.labels, found.clean, found.adversarial, found.perturbation)
            kinds, shapes = [array.dtype.kind for array in arrays], {a.shape for a in arrays}
            if (
                kinds != ["i", "i", "i", "f"]
                or shapes != {(len(found.labels),)}
                or shapes == {(0,)}
            ):
                raise ValueError("its arrays do not fit together")
            known = _CLASSES
            if found.classes is not None:
                if found.classes.dtype.kind != "U" or found.classes.ndim != 1:
                    raise ValueError("its class names are not valid")
                known = len(found.classes)
            if not ((found.labels >= 0) & (found.labels < known)).all():
                raise ValueError("some labels belong to no class")
            for each in (found.clean, found.adversarial):
                if not ((each >= 0) & (each < known)).all():
                    raise ValueError("some predictions are of no class")
            if (aims := found.targets) is not None:
                if aims.dtype.kind != "i" or aims.shape != found.labels.shape:
                    raise ValueError("its targets do not fit the labels")
                if not ((aims >= -1) & (aims < known)).all():
                    raise ValueError("some targets are of no class")
            if not (np.isfinite(found.perturbation) & (found.perturbation >= 0)).all():
                raise ValueError("some perturbations are not finite, or negative")
            return found


@dataclass(frozen=True)
class Samples:
    """Sample images that were attacked: the first broken ones and the first that survived."""

    positions: NDArray[np.int64]  #: (k,) in the order of the (sub)set
    pixels: NDArray[np.uint8]  #: (k, 3, S, S) the clean images
    change: NDArray[np.int8]  #: (k, 3, S, S) adversarial minus clean; 127 means `scale`
    scale: float  #: the largest change of a pixel, in [0, 1]

    def to_bytes(self) -> bytes:
        """Return the samples as the bytes of an `.npz` file."""
        return _pack({**vars(self), "scale": np.float64(self.scale)})

    @classmethod
    def read(cls, path: Path) -> "Samples | None":
        """Return the samples stored beside the result at `path`; None without such a file.

        Raises ZSRobustError if the file is damaged.
        """
        path = path.with_suffix(".samples.npz")
        if state_of(path, follow=False) is None:
            return None
        with _reading(path):
            arrays = _unpack(path)
            scale = float(arrays.pop("scale"))
            positions, pixels, change = (arrays[n] for n in ("positions", "pixels", "change"))
            shape = (len(positions), 3, *[pixels.shape[-1]] * 2)
            kinds = [each.dtype.str.lstrip("<") for each in (positions, pixels, change)]
            if kinds != ["i8", "|u1", "|i1"] or not pixels.shape == change.shape == shape:
                raise ValueError("its arrays do not fit together")
            if not pixels.shape[-1]:
                raise ValueError("its images have no pixels")
            if not 0 < scale <= 1:
                raise ValueError("its scale is not in (0, 1]")
            return cls(positions, pixels, change, scale)


def _pack(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(path: Path) -> dict[str, Any]:
    file = io.BytesIO(read_regular(path))
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST >> 20} MB")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged archive raises into a ZSRobustError that names the file."""
    try:
        yield
    except NoAnswerError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ZSRobustError(
            f"{path} is missing or damaged ({reason}). Run the cell again."
        ) from None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One cell: its identity, its counts (never percentages), and how they were measured."""

    identity: Identity
    status: Literal["ok", "failed"] = "ok"
    images: int = 0
    clean_correct: int = 0
    robust_correct: int = 0
    largest_class: int | None = None  #: images of the most frequent label
    most_predicted: int | None = None  #: adversarial images of the class predicted most often
    successes: int | None = None  #: images predicted as a targeted attack's target
    flags: list[str] = field(default_factory=list)  #: names of red flags and notes: `flags.toml`
    seconds: float = 0.0
    forward: int = 0  #: images that passed through the classifier
    backward: int = 0  #: images whose gradient was taken
    training: dict[str, Any] = field(default_factory=dict)  #: seconds per epoch, and the history
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None  #: the traceback of a failed cell
    outcomes: str | None = None  #: sha256 of the `.npz` file
    samples: str | None = None  #: sha256 of the `.samples.npz` file
    #: Images broken in the lower precision of the search, but not in float32.
    disagreements: int | None = None
    batch_size: int | None = None  #: images per call of the classifier, at the end
    #: The upper bounds estimated before the run: seconds, passes forward and backward.
    predicted: dict[str, float] | None = None
    checks: dict[str, float] | None = None  #: the measurements behind the red flags
    #: What a test-time defense costs: `passes` through the image tower for one image, `seconds` of
    #: an image with it and `plain_seconds` without, and `memory`, the peak bytes of one image.
    cost: dict[str, float] | None = None
    #: Texts of foreign warnings, and why red flags were not computed; one line each.
    messages: list[str] | None = None

    @property
    def path(self) -> Path:
        """The cell's place in the results folder: a relative path without suffix."""
        return self.identity.path

    @property
    def attacked(self) -> int:
        """The number of images that were attacked: the correct ones, or all."""
        return self.images if self.identity.attacks_everything else self.clean_correct

    @property
    def clean_accuracy(self) -> float:
        """The share of images classified correctly without attack, in [0, 1]; nan if it failed."""
        return self._share(self.clean_correct)

    @property
    def robust_accuracy(self) -> float:
        """The share of robust images of all images, in [0, 1]; nan if it failed."""
        return self._share(self.robust_correct)

    @property
    def clean_interval(self) -> tuple[float, float]:
        """The 95% interval (Wilson's) of clean accuracy, in [0, 1]; nan if it failed."""
        return self._interval(self.clean_correct)

    @property
    def robust_interval(self) -> tuple[float, float]:
        """The 95% interval (Wilson's) of robust accuracy, in [0, 1]; nan if it failed."""
        return self._interval(self.robust_correct)

    def _share(self, correct: int) -> float:
        return math.nan if self.status == "failed" else correct / self.images

    def _interval(self, correct: int) -> tuple[float, float]:
        return (math.nan, math.nan) if self.status == "failed" else wilson(correct, self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return one flat row: what was measured, the counts, and the accuracies in [0, 1].

        The keys are suite protocol seed attack eps defense dataset limit, named as in
        `load_results`, then status images clean_correct robust_correct clean_accuracy clean_low
        clean_high robust_accuracy robust_low robust_high flags seconds forward backward. `to_json`
        returns what is stored.
        """
        counted = ("status", "images", "clean_correct", "robust_correct")
        row = self.identity.about | {name: getattr(self, name) for name in counted}
        for metric in ("clean", "robust"):
            low, high = getattr(self, f"{metric}_interval")
            row[f"{metric}_accuracy"] = getattr(self, f"{metric}_accuracy")
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        row["flags"] = list(self.flags)
        return row | {name: getattr(self, name) for name in ("seconds", "forward", "backward")}

    def __repr__(self) -> str:
        """Return one line: what was measured, the images, and accuracies in percent."""
        return shown.line(self)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return shown.html([self])

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Result":
        """Return a stored result; raises ValueError or TypeError for a field that is not valid."""
        return cls(**{**stored, "identity": Identity.from_json(stored["identity"])})

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON stores it: fields that are None are left out."""
        stored = {**vars(self), "identity": self.identity.to_json()}
        return {name: value for name, value in stored.items() if value is not None}


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    found = {}
    for name in ("zsrobust", "torch", "open_clip_torch", "pyautoattack", "torchattacks"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
