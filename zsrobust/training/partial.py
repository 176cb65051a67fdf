"""Interrupted trainings: everything the next step needs, in one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import write_atomically
from zsrobust.core.values import check_fields, read_json
from zsrobust.models.clip import weights_digest
from zsrobust.results.digests import seal

FORMAT = "zsrobust-partial-2"


@dataclass(frozen=True)
class Partial:
    """A training between two steps."""

    done: int  #: steps
    loss: float  #: of the epoch so far, summed over its images
    correct: float | None  #: images of the epoch so far; None where the objective classifies none
    seconds: float  #: of the epoch so far
    history: list[dict[str, float]]  #: of the epochs before
    tensors: dict[str, Tensor]  #: weights, buffers, and the optimizer's state

    def write(self, path: Path, made_from: Mapping[str, str]) -> None:
        """Write it with what it was made from; raises ZSRobustError if it cannot be written."""
        numbers = json.dumps(
            {name: value for name, value in vars(self).items() if name != "tensors"}
        )
        metadata = {"format": FORMAT, **made_from, "numbers": numbers}
        metadata["digest"] = seal(metadata, weights_digest(self.tensors))
        write_atomically(path, safetensors.torch.save(self.tensors, metadata))

    @classmethod
    def read(cls, path: Path, made_from: Mapping[str, str]) -> "Partial":
        """Read one; raises ZSRobustError if it is damaged or has other sources."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if metadata["format"] != FORMAT or metadata["digest"] != seal(
                metadata, weights_digest(tensors)
            ):
                raise ValueError("its digest does not fit")
            numbers = read_json(metadata["numbers"], dict[str, Any], "its numbers")
            partial = cls(**numbers, tensors=tensors)
            check_fields(partial, "its numbers")
        except (
            OSError,
            KeyError,
            ValueError,
            TypeError,
            ZSRobustError,
            safetensors.SafetensorError,
        ) as error:
            raise ZSRobustError(f"{path.name} is damaged ({error})") from None
        other = [name for name, value in made_from.items() if metadata.get(name) != value]
        if other:
            raise ZSRobustError(f"{path.name} was made from other {', '.join(other)}")
        return partial
