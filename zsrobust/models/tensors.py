"""Files of tensors."""

import io
import json
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from zsrobust.core.files import patiently


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file, which is read whole.

    safetensors hides the number of an error of the file system, so Python reads the bytes. Raises
    NoAnswerError, OSError for a file that cannot be read, and SafetensorError or ValueError for one
    that is damaged.
    """
    content = opened(path)
    tensors = safetensors.torch.load(content.getvalue())
    return _metadata(content), tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; raises the errors of `read_tensors`."""

    def read(path: Path) -> dict[str, str]:
        with path.open("rb") as content:
            return _metadata(content)

    return patiently(read, path)


def _metadata(content: BinaryIO) -> dict[str, str]:
    """Return the metadata in a safetensors file; raises ValueError for one that is damaged."""
    header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    return dict(header.get("__metadata__") or {})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file; no code of the file is run.

    Raises NoAnswerError, OSError for a file that cannot be read, and the errors of both formats.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[1]
    weights: dict[str, Tensor] = torch.load(opened(path), weights_only=True, map_location="cpu")
    return weights


def opened(path: Path) -> io.BytesIO:
    """Return the content of a file, read whole; raises NoAnswerError and OSError."""
    return io.BytesIO(patiently(Path.read_bytes, path))
