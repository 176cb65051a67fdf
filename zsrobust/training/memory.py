"""Peak memory of a training step: the bytes of the tensors that live at the same time."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


def with_peak_bytes(work: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """Return what `work` returns, and the most bytes that its tensors occupy at one time.

    On a GPU, its allocator counts. Elsewhere, every storage is counted from the operation that
    makes it until it is freed. What an operation allocates and frees inside stays out.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device) - before
    with _Counter() as counter:
        result = work()
    return result, counter.peak


class _Counter(TorchDispatchMode):
    """Counts the bytes of living storages that were made while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
        self.living: dict[int, int] = {}  #: bytes by storage
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._key(each) for each in tree_leaves((args, kwargs)) if _is_plain(each)}
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if _is_plain(each) and self._key(each) not in given:
                self._add(each)
        return made

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), self._key(tensor)
        if key in self.living:
            return
        self.living[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.living.pop(key, 0)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
