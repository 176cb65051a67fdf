"""Digests of checkpoints, and the places where checkpoints are stored."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsrobust.core.files import patiently, slug

#: The types of weights in safetensors files: their names in torch, and their sizes in bytes.
TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


def seal(metadata: Mapping[str, str], weights: str) -> str:
    """Return the digest that a checkpoint stores: of its metadata and of its weights' digest."""
    content = {key: value for key, value in metadata.items() if key != "digest"}
    content["weights"] = weights
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_place(suite: str, recipe: Mapping[str, Any]) -> Path:
    """Return the place of a recipe's checkpoint, relative to the folder of checkpoints."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return Path(slug(suite), f"{slug(recipe['objective'])}-{digest}.safetensors")


def read_weights(path: Path) -> tuple[dict[str, str], str]:
    """Return the metadata of a safetensors file and the digest of its tensors, without torch.

    The digest is that of `zsrobust.models.clip.weights_digest`. Raises ValueError for a file that
    is damaged, or has bytes that belong to no tensor, or has no tensors. Raises NoAnswerError.
    """
    content = memoryview(patiently(Path.read_bytes, path))
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(bytes(content[8 : 8 + size]))
    data = content[8 + size :]
    metadata = dict(header.pop("__metadata__", {}))
    digest, covered = hashlib.sha256(), 0
    for name, about in sorted(header.items()):
        kind, width = TYPES[about["dtype"]]
        begin, end = about["data_offsets"]
        length = width
        for side in about["shape"]:
            length *= side
        if end - begin != length or not 0 <= begin <= end <= len(data):
            raise ValueError(f"{name} does not fit its place")
        digest.update(f"{name} {tuple(about['shape'])} torch.{kind}".encode())
        digest.update(data[begin:end])
        covered += length
    if covered != len(data) or not header:
        raise ValueError("its length is not that of its tensors")
    return metadata, digest.hexdigest()
