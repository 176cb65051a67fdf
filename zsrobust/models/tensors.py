"""Files of tensors."""

import io
import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import patiently
from zsrobust.core.values import check


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file, which is read whole.

    safetensors hides the number of an error of the file system, so Python reads the bytes. Raises
    NoAnswerError, OSError for a file that cannot be read, and SafetensorError or ValueError for one
    that is damaged.
    """
    content = patiently(Path.read_bytes, path)
    tensors = safetensors.torch.load(content)
    return _metadata(content[8 : 8 + int.from_bytes(content[:8], "little")]), tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, of which only the header is read.

    Raises NoAnswerError, OSError for a file that cannot be read, and ValueError for one that is
    damaged.
    """

    def read(path: Path) -> bytes:
        with path.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            return content.read(length)

    return _metadata(patiently(read, path))


def _metadata(header: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file; raises ValueError."""
    try:
        found = json.loads(header)
        return check(found.get("__metadata__") or {}, dict[str, str], "its metadata")
    except (AttributeError, RecursionError, ZSRobustError):
        raise ValueError("its header is not one of safetensors") from None


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
