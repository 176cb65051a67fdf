"""Files of tensors."""

import json
from pathlib import Path

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
    content = patiently(Path.read_bytes, path)
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__") or {}), tensors


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file; no code of the file is run."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return weights
