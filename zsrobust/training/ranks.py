"""The processes of torchrun: the rank of this one, and what the processes exchange.

Only the first process prepares, asks, decides, stores and prints. The others follow. Without
torchrun, there is one process, and the functions of this module change nothing.
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

#: Timeout of the other processes: the first may download, wait for another run, or ask a person.
PATIENCE = timedelta(days=30)

_size, _rank = 1, 0


def size() -> int:
    """Return the number of processes in this run."""
    return _size


def rank() -> int:
    """Return the number of this process, from 0."""
    return _rank


def leads() -> bool:
    """Return whether this is the first or the only process."""
    return _rank == 0


@contextmanager
def together(device: str | None) -> Iterator[str | None]:
    """Join the processes of torchrun to one run; yields the device of this process.

    Each process takes the GPU of its own number, and NCCL. On the CPU or on a device with a number,
    it takes gloo. If a process fails, it alone reports the error, and the others end. A single
    process yields `device`.
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
    """Return the device of the process with this number on its machine, and its backend."""
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        if number >= torch.cuda.device_count():
            raise ZSRobustError(
                f"Process {number} lacks a GPU: this machine has {torch.cuda.device_count()}. "
                f"Next: torchrun --nproc-per-node {torch.cuda.device_count() or 1}, or --device cpu"
            )
        torch.cuda.set_device(number)
        return f"cuda:{number}", "cpu:gloo,cuda:nccl"
    return device or "cpu", "gloo"


def _first_to_fail(store: Any) -> bool:
    """Return whether this process failed first; False if torchrun's store does not answer."""
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:
        return False


def decided(make: Callable[[], T]) -> T:
    """Return what `make` returns in the first process, in all; raises its ZSRobustError in all."""
    if _size == 1:
        return make()
    answer: list[Any] = [None, None]
    if leads():
        try:
            answer[0] = make()
        except ZSRobustError as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]  # type: ignore[no-any-return]  # a T of the first process: the broadcast is not typed


@contextmanager
def led(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enter the context in the first process only; its ZSRobustError is raised in all processes."""
    with ExitStack() as stack:
        yield decided(lambda: stack.enter_context(context))


@contextmanager
def first() -> Iterator[None]:
    """Run the block in the first process, and then in the others."""
    if leads():
        yield
    decided(lambda: None)
    if not leads():
        yield


def gathered(part: T) -> list[T]:
    """Return the parts of all processes, by rank, in the first process; [] in the others."""
    if _size == 1:
        return [part]
    parts: list[Any] = [None] * _size
    distributed.gather_object(part, parts if leads() else None)
    return parts if leads() else []
