"""The gallery: clean, magnified and adversarial images as PNG. No torch here."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsrobust.reporting.report.cells import class_name
from zsrobust.results.cell import Outcomes, Samples

LARGEST = 112  #: pixels a side; larger images are shown reduced


class Picture(NamedTuple):
    """An image and its words."""

    caption: str
    alt: str
    png: str  #: in base64


class Sample(NamedTuple):
    """An attacked image: its fate, its pictures, and the predictions of the model."""

    fate: str
    pictures: Sequence[Picture]
    predicted: Sequence[tuple[str, str, bool]]  #: when, the class, and whether it is wrong


def samples_of(samples: Samples, outcomes: Outcomes | str) -> list[Sample]:
    """Return the samples of a cell, with the predictions before and after the attack.

    The perturbation is magnified: its largest change turns mid-gray into black or white.
    """
    return [
        _sample(position, pixels / 255, change / 127, samples.scale, outcomes)
        for position, pixels, change in zip(
            samples.positions.tolist(), samples.pixels, samples.change, strict=True
        )
    ]


def _sample(
    position: int,
    clean: NDArray[np.float64],
    change: NDArray[np.float64],
    scale: float,
    outcomes: Outcomes | str,
) -> Sample:
    """Return one sample; `change` is (3, S, S) in [-1, 1], and `scale` the pixels of a 1."""
    true, before, after = _predicted(outcomes, position)
    step = _step(clean.shape[-1])
    reduced = f", shown at 1/{step} of its size" if step > 1 else ""
    magnified = round(0.5 / scale)
    taken = f", taken for {after}" if after else ""
    pictures = [
        ("clean", f"Clean image {position}: {true or 'unknown'}{reduced}", clean),
        (f"change × {magnified}", f"Perturbation, magnified {magnified} times", 0.5 + change / 2),
        ("adversarial", f"Adversarial image: {true or 'unknown'}{taken}", clean + change * scale),
    ]
    fate = "Attacked"
    if true:
        fate = "Survived" if after == true else "Broken"
    predicted = [("true", true), ("before", before), ("after", after)] if true else []
    return Sample(
        fate,
        [Picture(caption, alt, _png(image)) for caption, alt, image in pictures],
        [(when, name, name != true) for when, name in predicted],
    )


def _predicted(outcomes: Outcomes | str, position: int) -> tuple[str, str, str]:
    """Return an image's true class and both predicted classes, "" if they are not stored."""
    if isinstance(outcomes, str) or not 0 <= position < len(outcomes.labels):
        return "", "", ""
    true, before, after = (
        class_name(outcomes, int(each[position]))
        for each in (outcomes.labels, outcomes.clean, outcomes.adversarial)
    )
    return true, before, after


def _step(side: int) -> int:
    return -(-side // LARGEST)


def _png(image: NDArray[np.float64]) -> str:
    """Return an image (3, S, S), with its values clipped to [0, 1], as a PNG in base64."""
    step = _step(image.shape[-1])
    side = image.shape[-1] // step * step
    blocks = image[:, :side, :side].reshape(3, side // step, step, side // step, step)
    pixels = (blocks.mean(axis=(2, 4)).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
