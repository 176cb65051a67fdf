"""The torch device of a command."""

import torch

from zsrobust.core.errors import ZSRobustError


def choose(device: str | None) -> str:
    """Return the device, or cuda where there is one, else cpu.

    Raises ZSRobustError for a device that torch does not know or that computes nothing.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(chosen)
        torch.ones(1, device=found).sum().item()  # meta has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ZSRobustError(f"No device {chosen!r}: {reason} Try: --device cpu") from None
    if found.type == "cpu" and found.index:  # torch takes any number for the one CPU
        raise ZSRobustError(f"No device {chosen!r}: there is one CPU. Try: --device cpu")
    return chosen
