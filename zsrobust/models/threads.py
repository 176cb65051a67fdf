"""Torch's threads: one for small images, whose products are too small to share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 64  #: pixels a side


@contextmanager
def one_thread(device: torch.device | str, side: int) -> Iterator[int]:
    """Within it, torch has one thread on a CPU, if images of this side, in pixels, are small.

    Then sums are in one order, whatever the number of cores. Yields how many such processes the
    cores have room for: as many as torch had threads, or 1 where nothing changes.
    """
    before = torch.get_num_threads()
    if side > SMALL or torch.device(device).type != "cpu":
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
