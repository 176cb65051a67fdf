"""The processes that torchrun starts: which of them this is, and what they tell one another.

Only the first prepares, asks, decides, stores and prints; the others follow. Without torchrun there
is one, the first, and nothing here does anything.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from zsrobust.core.errors import ZSRobustError

T = TypeVar("T")

PATIENCE = timedelta(
    days=30
)  # with one another: the first may download, wait for another run, or ask a person

_size, _rank = 1, 0


def size() -> int:
    """Return the number of processes that do this together."""
    return _size


def rank() -> int:
    """Return which of them this is, from 0."""
    return _rank


def leads() -> bool:
    """Return whether this is the first, or the only one."""
    return _rank == 0


@contextmanager
def together(device: str | None) -> Iterator[str | None]:
    """Within it, the processes of torchrun are one run; yields this one's device.

    Each takes the GPU of its own number and NCCL, or, on the CPU or a device with a number, gloo.
    When one fails, it alone says why, and the others end.
    """
    global _size, _rank
    if _size > 1 or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
        yield device
        return
    from torch.distributed.rendezvous import rendezvous

    store, mine, of = next(rendezvous("env://"))
    try:
        device, backend = _place(device, int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(
            backend, store=store, rank=mine, world_size=of, timeout=PATIENCE
        )
        _size, _rank = of, mine
        yield device
        distributed.destroy_process_group()
    except BaseException as error:
        if not _first_to_fail(store):
            raise SystemExit(1) from error
        raise
    finally:
        _size, _rank = 1, 0


def _place(device: str | None, number: int) -> tuple[str, str]:
    """Return the device of a process by its number, and the backend for its tensors."""
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        if number >= torch.cuda.device_count():
            raise ZSRobustError(
                f"No GPU for process {number}: this machine has {torch.cuda.device_count()}. "
                f"Next: torchrun --nproc-per-node {torch.cuda.device_count() or 1}, or --device cpu"
            )
        torch.cuda.set_device(number)
        return f"cuda:{number}", "cpu:gloo,cuda:nccl"
    return device or "cpu", "gloo"


def _first_to_fail(store: Any) -> bool:
    """Return whether no process failed before this one, as torchrun's store reports."""
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:
        return False


def decided(make: Callable[[], T]) -> T:
    """Return in every process what the first makes, or raise its ZSRobustError."""
    if _size == 1:
        return make()
    said: list[Any] = [None, None]
    if leads():
        try:
            said[0] = make()
        except ZSRobustError as error:
            said[1] = error
    distributed.broadcast_object_list(said)
    if said[1] is not None:
        raise said[1]
    return said[0]  # type: ignore[no-any-return]  # a T of the first process: the broadcast is not typed


@contextmanager
def led(context: AbstractContextManager[T]) -> Iterator[T]:
    """Within it, the first process is in the context, for all; what entering it raises, all do."""
    with ExitStack() as stack:
        yield decided(lambda: stack.enter_context(context))


@contextmanager
def first() -> Iterator[None]:
    """Within it, the first process works before the others, who find done what it did."""
    if leads():
        yield
    decided(lambda: None)
    if not leads():
        yield


def gathered(part: T) -> list[T]:
    """Return what all processes give, in their order, to the first; nothing to the others."""
    if _size == 1:
        return [part]
    parts: list[Any] = [None] * _size
    distributed.gather_object(part, parts if leads() else None)
    return parts if leads() else []
