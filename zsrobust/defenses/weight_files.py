"""Files of weights: their tensors by name, from the formats that papers publish.

Tensors are all that is read of a file: none gets to run code.
"""

import pickle
import re
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.models.tensors import opened, read_tensors

#: Parameters of a whole CLIP that a training changed, and nothing else: AdvFLYP's checkpoints
#: (arXiv 2604.11576; Sxing2/AdvFLYP of d4de144, code/main.py:257).
PARTIAL = "partial_state_dict"
#: Names under which files keep a state dict, the tower's own first.
WRAPPERS = ("vision_encoder_state_dict", PARTIAL, "state_dict", "model_state_dict")


class StateDict(NamedTuple):
    """The tensors of a file by name, and whether they are those of a part of the model."""

    weights: dict[str, Tensor]
    partial: bool


class _Skipped:
    """Replaces numpy's numbers beside the weights, such as an accuracy; it calls no numpy."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


SKIPPED = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def read_state_dict(path: Path) -> StateDict:
    """Return the state dict in a file, without the prefix `module.`; raises ZSRobustError."""
    partial = False
    content: Any = _tensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    prompts = content.get("add_prompter") if isinstance(content, dict) else None
    if isinstance(prompts, dict) and any(
        isinstance(each, Tensor) and each.numel() for each in prompts.values()
    ):
        raise ZSRobustError(
            f"{path} holds visual prompts, without which its tower is another. Only towers can be "
            "read."
        )
    for _ in WRAPPERS:  # one within the other at most; a pickle may hold itself
        inside = [
            name
            for name in WRAPPERS
            if isinstance(content, dict) and isinstance(content.get(name), dict)
        ]
        partial |= PARTIAL in inside[:1]
        content = content[inside[0]] if inside else content
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise ZSRobustError(
            f"{path} holds no state dict: neither tensors by name, nor {', '.join(WRAPPERS)}."
        )
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return StateDict(dict(content), partial)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return read_tensors(path)[1]
    except NoAnswerError:
        raise
    except Exception as error:  # of a dtype that torch lacks, say
        raise ZSRobustError(f"{path} is damaged, or no safetensors file: {error}.") from None


def _check_archive(path: Path) -> None:
    """Raise ZSRobustError for a TorchScript archive, and for a compressed one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # torch says what is wrong with it
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise ZSRobustError(
            f"{path} is a TorchScript archive, which is code (as OpenAI's are). Save its tensors: "
            "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pt')"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ZSRobustError(
            f"{path} is refused: it would unpack to more than it holds. Save it with torch.save."
        )


def _unpickle(path: Path) -> Any:
    """Return what torch reads of a file without running any code that it names."""
    _check_archive(path)
    safe: Any = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    try:
        with (
            warnings.catch_warnings(),
            safe([(_Skipped, name) for name in SKIPPED]) if safe else nullcontext(),
        ):
            warnings.simplefilter("ignore")  # of old storages and the like
            return torch.load(opened(path), map_location="cpu", weights_only=True)
    except NoAnswerError:
        raise
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and (
            named := re.search(r"GLOBAL ([\w.]+)", str(error))
        ):
            raise ZSRobustError(
                f"{path} is refused: to read it is to call {named[1]}. Nothing was called."
            ) from None
        reason = (
            f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            if str(error)
            else type(error).__name__
        )
        raise ZSRobustError(f"{path} is damaged, or no file of weights: {reason}") from None
