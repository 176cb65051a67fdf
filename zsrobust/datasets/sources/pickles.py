"""Pickles of CIFAR, read as plain values and arrays. No code runs from a pickle."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import ZSRobustError


class Stored:
    """Replaces numpy's arrays and dtypes in a pickle: stores their parts, and runs no code."""

    def __init__(self, *arguments: object) -> None:
        """Take what numpy's constructors take, and ignore it."""
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8]:
        """Return the array of bytes that this stands for."""
        _, shape, _, fortran, content = self.state
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def encode(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 3 wrote in a form for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"the encoding {encoding!r}")
    return text.encode(encoding)


class Unpickler(pickle._Unpickler):
    """Reads plain values and numpy arrays of a pickle, of Python 2 or 3; it runs no code."""

    allowed: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): Stored,
        ("numpy._core.multiarray", "_reconstruct"): Stored,
        ("numpy", "ndarray"): Stored,
        ("numpy", "dtype"): Stored,
        ("_codecs", "encode"): encode,
    }

    def __init__(self, file: IO[bytes], path: Path) -> None:
        """Take an open file, and the path that an error names."""
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of numpy's; raises ZSRobustError for anything else."""
        if (module, name) not in self.allowed:
            raise ZSRobustError(
                f"{self.path} holds code ({module}.{name}), refused. Delete it, and download it "
                "again."
            )
        return self.allowed[module, name]
