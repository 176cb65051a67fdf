"""Counts what makes the host wait for a GPU, on a machine without one."""

import torch
from torch.overrides import TorchFunctionMode

INDEXING = ("__getitem__", "__setitem__")
#: Calls that read a tensor, or whose result has a size that only the device knows.
READING = (
    "__bool__", "__float__", "__index__", "__int__", "allclose", "argwhere", "cpu", "equal", "is_nonzero", "item",
    "masked_select", "nonzero", "tolist", "unique", "unique_consecutive",
)  # fmt: skip
UPLOADING = ("as_tensor", "new_tensor", "tensor")  # they wait until the host's numbers are copied


class Waits(TorchFunctionMode):
    """Counts these calls, and indexing with masks, in everything that Python calls within it.

    It does not see copies by `to`: on a CPU, nothing tells the host's tensors from the device's.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        name = getattr(function, "__name__", "")
        if name in INDEXING:
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            self.count += any(is_mask(each) for each in index)
        elif name in UPLOADING:
            self.count += not isinstance(arguments[-1], torch.Tensor)
        else:
            self.count += name in READING
        return function(*arguments, **(keywords or {}))


def is_mask(index):
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool
