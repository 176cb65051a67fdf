"""Seals: whether an attack changed the classifier that judges it.

An attack shares our process, so it can reach weights, hooks and methods. A seal catches mistakes
and simple cheats. It is not a sandbox.
"""

from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

PIECE = 2**22  #: numbers of a tensor that are added up at once, which bounds the memory
#: Any odd factor makes the sum depend on the order of the numbers (Knuth's, from TAOCP 6.4).
FACTOR = 2654435761
#: The kinds of class attributes that decide what a call computes.
METHODS = (FunctionType, property, staticmethod, classmethod)


class Seal:
    """The state of some modules at one moment: tensors, parts, hooks and methods."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """Record the state of the modules and of all their parts."""
        self._modules = modules
        self._methods = {
            kind: {name: value for name, value in vars(kind).items() if isinstance(value, METHODS)}
            for kind in _kinds(modules)
        }
        self._state = self._read()

    def accept(self) -> bool:
        """Return whether the modules changed, and ignore what changed from now on.

        A classifier that counts its calls in a buffer changes itself, without any attack.
        """
        now = self._read()
        changed = _differing(self._state, now)
        self._state = {name: now[name] for name in now if name not in changed}
        return bool(changed)

    def changes(self) -> list[str]:
        """Return the names of what changed: tensors, parts, hooks and methods."""
        now = self._read()
        methods = [
            f"the method {name} of {kind.__name__}" for kind, name, _ in self._changed_methods()
        ]
        return methods + [name for name in self._state if now.get(name) != self._state[name]]

    def mend(self) -> None:
        """Restore the methods of classes. Weights need a reload."""
        for kind, name, method in list(self._changed_methods()):
            setattr(kind, name, method)

    def _changed_methods(self) -> Iterator[tuple[type, str, Any]]:
        for kind, methods in self._methods.items():
            for name, method in methods.items():
                if vars(kind).get(name) is not method:
                    yield kind, name, method

    def _read(self) -> dict[str, Any]:
        """Return the state by name: values that can be compared."""
        state: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for number, module in enumerate(self._modules):
            prefix = f"target {number}: " if number else ""
            for path, part in module.named_modules():
                _read_part(part, prefix, path, state, tensors)
        sums = [checksum(tensor) for tensor in tensors.values()]
        read = torch.stack([each.cpu() for each in sums]).tolist() if sums else []
        return state | dict(zip(tensors, read, strict=True))


def _read_part(
    part: nn.Module, prefix: str, path: str, state: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Add one module's parts: tensors, and what can be compared as it is."""
    place = f"{prefix}{path}" or type(part).__name__
    dot = f"{prefix}{path}." if path else prefix
    state[f"the module {place}"] = (id(part), type(part))
    attributes = {**vars(part), **part._parameters, **part._buffers}
    for name, value in attributes.items():
        if isinstance(value, Tensor) and value.layout == torch.strided:
            tensors[f"{dot}{name}"] = value.detach()
            state[f"the shape of {dot}{name}"] = (value.shape, value.dtype)
        elif name.endswith("hooks") and isinstance(value, dict):
            state[f"the hooks of {place} ({name.strip('_')})"] = tuple(map(id, value.values()))
    state[f"the method forward of {place}"] = id(vars(part).get("forward"))


def checksum(tensor: Tensor) -> Tensor:
    """Return a sum of the tensor's bits that depends on their order, () int64, on its device."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    words = flat.view(torch.int32) if len(flat) % 4 == 0 else flat
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for number, piece in enumerate(words.split(PIECE)):
        order = torch.arange(len(piece), device=tensor.device) + number * PIECE
        total += ((order * FACTOR + 1) * piece.long()).sum()
    return total


def _kinds(modules: Sequence[nn.Module]) -> dict[type, None]:
    """Return the classes of the modules, of their parts, and the classes that they inherit from."""
    parts = [part for module in modules for part in module.modules()]
    return {kind: None for part in parts for kind in type(part).__mro__ if kind is not object}


def _differing(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
