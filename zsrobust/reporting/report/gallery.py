"""The gallery: clean image, perturbation magnified, adversarial image, as PNG in data URIs. No torch here."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsrobust.reporting.report.data import Pool, class_name
from zsrobust.results.cell import Outcomes, Samples

LARGEST = 112  #: pixels a side; larger images are shown reduced

#: Characters that all images together may take. What comes after is noted, and not shown.
BUDGET = 16_000_000


def pictures(samples: Samples, outcomes: Outcomes | str, pool: Pool) -> list[dict[str, Any]]:
    """Return the samples of a cell, their images by number in `pool`, with what the model said before and after.

    The perturbation is scaled so that its largest change reaches from mid-gray to black or white.
    """
    found = []
    for position, pixels, change in zip(
        samples.positions.tolist(), samples.pixels, samples.change, strict=True
    ):
        clean, moved = pixels / 255, change / 127
        images = (clean, 0.5 + moved / 2, clean + moved * samples.scale)
        found.append(
            {
                "position": position,
                "images": [pool.number(_png(each)) for each in images],
                "magnified": round(0.5 / samples.scale),
                "reduced": _step(pixels.shape[-1]),
                **_said(outcomes, position),
            }
        )
    return found


def _said(outcomes: Outcomes | str, position: int) -> dict[str, str]:
    if isinstance(outcomes, str) or not 0 <= position < len(outcomes.labels):
        return {}
    labels = {"true": outcomes.labels, "before": outcomes.clean, "after": outcomes.adversarial}
    return {name: class_name(outcomes, int(each[position])) for name, each in labels.items()}


def _step(side: int) -> int:
    return -(-side // LARGEST)


def _png(image: NDArray[np.float64]) -> str:
    """Return an image (3, S, S), its values cut to [0, 1], as a PNG in base64."""
    step = _step(image.shape[-1])
    side = image.shape[-1] // step * step
    blocks = image[:, :side, :side].reshape(3, side // step, step, side // step, step)
    pixels = (blocks.mean(axis=(2, 4)).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
