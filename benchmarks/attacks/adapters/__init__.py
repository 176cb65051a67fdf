"""Adapters: the attacks of one library behind one signature.

A module of this folder has `PACKAGE`, the name on PyPI, and `ATTACKS`, by kind.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsrobust.evaluation.meter import Meter


@dataclass(frozen=True)
class Task:
    """What an attack shall do, the same for all libraries. All bounds are in l∞."""

    eps: float
    step_size: float  #: of attacks whose steps have one size
    steps: int
    seed: int
    dataset: str  #: our random numbers depend on it
    positions: NDArray[np.int64]  #: (N,), and on the images' places in it
    targets: int = 9  #: at most, of targeted attacks
    queries: int = 1000  #: of Square


#: Maps a classifier, images (N, 3, S, S) in [0, 1], labels (N,) and a task to (N, 3, S, S).
Run = Callable[[Meter, Tensor, Tensor, Task], Tensor]

#: The module of each library.
LIBRARIES = {
    "zsrobust": "ours",
    "pyautoattack": "original",
    "torchattacks": "torch_attacks",
    "foolbox": "fool_box",
    "art": "art_toolbox",
    "adv-lib": "adv_library",
}


def adapter(library: str) -> ModuleType:
    """Return the module of a library; raises ImportError if the library is not installed."""
    return import_module(f"adapters.{LIBRARIES[library]}")


def installed(library: str) -> str | None:
    """Return the version of a library, or None if it cannot be imported."""
    try:
        return version(adapter(library).PACKAGE)
    except (ImportError, PackageNotFoundError):
        return None


def seed_all(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and torch, which the libraries draw."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
