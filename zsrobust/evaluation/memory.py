"""Memory: how many images fit, and what happens where they do not."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.evaluation.meter import Meter

#: How many batches of images an attack that packs is given at once, so that its own stay full.
BATCHES = 4


def by_portions(
    meter: Meter,
    positions: NDArray[np.int64],
    batches: int,
    work: Callable[[NDArray[np.int64]], None],
) -> None:
    """Call `work` on the positions, some batches of them at a time; where memory runs out, again with half the batch."""
    done = 0
    while done < len(positions):
        portion = positions[done : done + batches * (meter.batch_size or len(positions))]
        try:
            work(portion)
            done += len(portion)
            continue
        except RuntimeError as error:
            if not _ran_out_of_memory(error) or not meter.batch_size or meter.batch_size == 1:
                raise
        meter.batch_size //= 2  # here, where the error no longer holds what the work had in memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _ran_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error is torch's for a GPU, its CPU allocator's, or cuBLAS's where memory runs out."""
    return any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )


def fitting(classifier: nn.Module, images: Tensor) -> int:
    """Return how many images the classifier can be attacked with at once, a power of two; `images` are two to try.

    On a GPU up to 512 in four fifths of what is free there, elsewhere up to 256 in 4 GiB.
    """
    room, most = 4 * 2**30, 256
    if images.device.type == "cuda":
        free = torch.cuda.mem_get_info(images.device)[0]
        held = torch.cuda.memory_reserved(images.device) - torch.cuda.memory_allocated(
            images.device
        )
        room, most = (free + held) * 4 // 5, 512
    try:
        kept = saved_bytes(classifier, images) - saved_bytes(classifier, images[:1])
    except RuntimeError as error:
        if not _ran_out_of_memory(error):
            raise
        return 1
    # Half as much again for what passes; originals, clones and adversarial images, of all batches.
    each = max(kept, 0) * 3 // 2 + 4 * BATCHES * images[0].nbytes
    return min(most, 1 << max(0, (room // each).bit_length() - 1))


def saved_bytes(classifier: nn.Module, images: Tensor) -> int:
    """Return how many bytes autograd keeps for the gradient with respect to images, shared ones once."""
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(part: Tensor) -> Tensor:
        storage = part.untyped_storage()
        kept[storage.data_ptr()] = (
            storage.nbytes(),
            part.detach(),
        )  # alive, so that its place is not taken again
        return part.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        classifier(images.clone().requires_grad_())
    return sum(size for size, _ in kept.values())
