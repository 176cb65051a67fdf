"""Stored values of a set-up that is right, and the tolerance of a comparison in float32."""

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import is_file
from zsrobust.core.values import Count, Sha256, Text, Whole, read_json

SKETCH = 8  #: numbers of a class's row of the text head: the first ones
IMAGES = 4  #: images whose embeddings are stored

#: The unit roundoff of float32, and the probability that one sum is farther off than `tolerance`
#: assumes.
ROUNDOFF, RARE = 2.0**-24, 1e-6


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The counts of a cell."""

    images: Count
    clean: Whole  #: correct without attack
    robust: Whole  #: correct under PGD-10 at the suite's eps


@dataclass(frozen=True, kw_only=True)
class OnDataset:
    """The values on one dataset's test split. Arrays are float32 in base64."""

    texts: Text  #: (K, SKETCH): rows of the text head, of unit norm before they were cut
    labels: Sha256  #: of all labels
    embeddings: Text  #: (IMAGES, D): of the first images of the subset, of unit norm
    clip: Counts  #: of the undefended model


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The values of a trained defense."""

    deployed: Text  #: `Identity.deployed`; another machine's training differs in the last bits
    counts: Mapping[str, Counts]  #: by dataset


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a suite whose set-up is right."""

    weights: Sha256  #: of the backbone, its activation and its preprocessing
    datasets: Mapping[str, OnDataset]
    trained: Mapping[str, Trained] = field(default_factory=dict)  #: by defense

    def to_json(self) -> str:
        """Return the content of a file of stored values."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=1).decode() + "\n"


def load(name: str | None) -> Known | None:
    """Return the values that a suite's field `calibration` names: one of ours, or a JSON file.

    None if the suite names none. Raises ZSRobustError for a file that is missing or not valid.
    """
    if name is None:
        return None
    see = "Write it: zsrobust calibrate --store FILE.json"
    if name.endswith(".json"):
        if not is_file(name):
            raise ZSRobustError(f"The file of stored values {name} is missing. {see}")
        return read_json(Path(name).read_bytes(), Known, name, see)
    place = resources.files(__package__).joinpath(f"{name}.json")
    if not place.is_file():
        raise ZSRobustError(
            f"calibration = {name!r} is not valid: expected mini, or a file FILE.json. {see}"
        )
    return read_json(place.read_bytes(), Known, place.name, see)


def packed(rows: Tensor) -> str:
    """Return float32 numbers as text."""
    return base64.b64encode(rows.cpu().numpy().astype("<f4").tobytes()).decode()


def unpacked(text: str, rows: int) -> Tensor:
    """Return the numbers of a text, (rows, D) float32; raises ZSRobustError if they do not fit."""
    try:
        found = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        return torch.from_numpy(found.reshape(rows, -1).copy())
    except ValueError:
        raise ZSRobustError(
            f"The stored values are not {rows} rows of float32. Write them again: "
            "zsrobust calibrate --store FILE.json"
        ) from None


def digest(labels: NDArray[np.int64]) -> str:
    """Return the sha256 of labels, in their order."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def tolerance(tower: nn.Module) -> float:
    """Return the largest distance of a unit embedding between two computations in float32.

    A sum of n rounded products is off by at most λ √n u of its size, with u = 2^-24, except with
    probability 2 exp(-λ² / 2) (Higham & Mary 2019, A new approach to probabilistic rounding error
    analysis). Each weight matrix of the tower is such a sum, as long as a row. The
    errors of all matrices are added, as if they ran one after the other and no layer reduced an
    error. Both computations are off, which doubles it. Nothing here was fitted to measured
    differences. Half precision has u = 2^-11, 8192 times as much.
    """
    factor = math.sqrt(2 * math.log(2 / RARE))
    sums = [each[0].numel() for each in tower.parameters() if each.ndim >= 2]
    return 2 * factor * ROUNDOFF * sum(map(math.sqrt, sums))
