"""Unfinished trainings: all that the next step depends on, in a file beside the checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.files import write_atomically
from zsrobust.core.values import check_fields, read_json
from zsrobust.models.clip import weights_digest
from zsrobust.models.tensors import read_tensors
from zsrobust.results.digests import seal

FORMAT = "zsrobust-partial-2"


@dataclass(frozen=True)
class Partial:
    """A training between two steps."""

    done: int  #: steps done
    loss: float  #: of the epoch so far, summed over its images
    correct: float | None  #: images of the epoch so far; None if the objective does not classify
    seconds: float  #: of the epoch so far
    history: list[dict[str, float]]  #: of the finished epochs
    tensors: dict[str, Tensor]  #: weights, buffers, and the optimizer's state

    def write(self, path: Path, made_from: Mapping[str, str]) -> None:
        """Write the state with its sources; raises ZSRobustError if the file cannot be written."""
        numbers = {name: value for name, value in vars(self).items() if name != "tensors"}
        metadata = {"format": FORMAT, **made_from, "numbers": json.dumps(numbers)}
        metadata["digest"] = seal(metadata, weights_digest(self.tensors))
        write_atomically(path, safetensors.torch.save(self.tensors, metadata))

    @classmethod
    def read(cls, path: Path, made_from: Mapping[str, str]) -> "Partial":
        """Return a file's state; raises ZSRobustError if it is damaged or has other sources.

        Raises NoAnswerError for a file that was not reached.
        """
        try:
            metadata, tensors = read_tensors(path)
            sealed = seal(metadata, weights_digest(tensors))
            if metadata["format"] != FORMAT or metadata["digest"] != sealed:
                raise ValueError("its format or its digest does not match")
            numbers = read_json(metadata["numbers"], dict[str, Any], "its numbers")
            partial = cls(**numbers, tensors=tensors)
            check_fields(partial, "its numbers")
        except NoAnswerError:
            raise
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
