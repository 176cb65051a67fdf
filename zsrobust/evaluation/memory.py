"""Memory: how many images fit, and smaller batches when memory runs out."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.evaluation.meter import Meter

#: Number of batches that an attack with `packs` receives at once, so that its own stay full.
BATCHES = 4


def by_portions(
    meter: Meter,
    positions: NDArray[np.int64],
    batches: int,
    work: Callable[[NDArray[np.int64]], None],
) -> None:
    """Call `work` on the positions, some batches at a time.

    When memory runs out, the same positions are tried again with half the batch size.
    """
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
        meter.batch_size //= 2  # outside `except`: the error keeps the memory of the work alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _ran_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of the GPU, of the CPU allocator or of cuBLAS is about memory."""
    signs = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return any(sign in str(error) for sign in signs)


def fitting(classifier: nn.Module, images: Tensor) -> int:
    """Return the number of images that can be attacked at once, a power of two.

    `images` are two images for the estimate. The bound on a GPU is 512 images in four fifths of the
    free memory. Elsewhere it is 256 images in 4 GiB.
    """
    room, most = 4 * 2**30, 256
    if images.device.type == "cuda":
        free = torch.cuda.mem_get_info(images.device)[0]
        allocated = torch.cuda.memory_allocated(images.device)
        cached = torch.cuda.memory_reserved(images.device) - allocated
        room, most = (free + cached) * 4 // 5, 512
    try:
        kept = saved_bytes(classifier, images) - saved_bytes(classifier, images[:1])
    except RuntimeError as error:
        if not _ran_out_of_memory(error):
            raise
        return 1
    # Half as much again for temporary tensors, and four copies of the images of all batches.
    each = max(kept, 0) * 3 // 2 + 4 * BATCHES * images[0].nbytes
    return min(most, 1 << max(0, (room // each).bit_length() - 1))


def saved_bytes(classifier: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd keeps for the images' gradient; shared storage counts once."""
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(part: Tensor) -> Tensor:
        storage = part.untyped_storage()
        # The reference keeps the tensor alive, so that no other tensor reuses its address.
        kept[storage.data_ptr()] = (storage.nbytes(), part.detach())
        return part.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        classifier(images.clone().requires_grad_())
    return sum(size for size, _ in kept.values())
