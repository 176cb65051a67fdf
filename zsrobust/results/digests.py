"""Digests: what a checkpoint carries, and where it is stored."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsrobust.core.files import slug

#: How torch calls the types of safetensors, as far as weights have them; and their bytes.
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
    """Return the digest that a checkpoint carries: of its metadata, and of the digest of its weights."""
    content = {
        **{key: value for key, value in metadata.items() if key != "digest"},
        "weights": weights,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_place(suite: str, recipe: Mapping[str, Any]) -> Path:
    """Return where the checkpoint of a stored recipe is in the folder of checkpoints, or will be."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return Path(slug(suite), f"{slug(recipe['objective'])}-{digest}.safetensors")


def read_weights(path: Path) -> tuple[dict[str, str], str]:
    """Return the metadata of a safetensors file, and the digest of its tensors: `zsrobust.classifier.weights_digest`.

    Raises ValueError for a file that is not whole, not all told of, or none.
    """
    content = memoryview(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(bytes(content[8 : 8 + size]))
    data = content[8 + size :]
    metadata = dict(header.pop("__metadata__", {}))
    digest, told = hashlib.sha256(), 0
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
        told += length
    if told != len(data) or not header:
        raise ValueError("it is cut short, or longer than it says")
    return metadata, digest.hexdigest()
