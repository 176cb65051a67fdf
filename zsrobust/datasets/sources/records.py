"""What a source of images gives: its class names, and one record an image, read as a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Record:
    """One image as its source holds it, not decoded yet."""

    where: str  #: names the image in an error: its file, or its row
    image: (
        bytes | Path | NDArray[np.uint8]
    )  #: an encoded file's content or path, or pixels (H, W, 3)
    label: int | str  #: an index into the source's names, or a class name


@dataclass(frozen=True)
class Opened:
    """A source opened for one split."""

    names: Sequence[str] | None  #: class names in the order of its labels; None where it has none
    records: Iterator[Record]  #: in the source's order, which is fixed
    count: int | None = None  #: of records, where it is known before they are read
