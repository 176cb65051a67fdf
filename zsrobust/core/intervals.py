"""The interval of a proportion, which results and reports share. It imports nothing of zsrobust."""

import math


def wilson(correct: int, images: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95% by default), each end in [0, 1].

    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if images == 0:
        return 0.0, 1.0
    share = correct / images
    center = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    # At the ends, rounding must not push the interval off the share.
    low, high = min(share, (center - spread) / scale), max(share, (center + spread) / scale)
    return max(0.0, low), min(1.0, high)
