"""The torch device of a command."""

import torch

from zsrobust.core.errors import ZSRobustError


def choose(device: str | None) -> str:
    """Return the named device; without a name, cuda if present, else cpu.

    Raises ZSRobustError if torch does not know the device or cannot compute on it.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(chosen)
        torch.ones(1, device=found).sum().item()  # fails on meta, which stores no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ZSRobustError(
            f"The device {chosen!r} is not usable: {reason} Try: --device cpu"
        ) from None
    if found.type == "cpu" and found.index:  # torch takes any number for the one CPU
        raise ZSRobustError(
            f"The device {chosen!r} is not valid: the CPU has no number. Try: --device cpu"
        )
    return chosen
