"""Downloads: the sha256 of the first download of a place, which later downloads must have.

Each place has one small JSON file in a folder beside the checkpoints, so that all runs that share
checkpoints share it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import exists, read_regular, slug, write_atomically
from zsrobust.core.values import Line, Sha256, read_json

FOLDER = "downloads"  #: of the records, in the folder of checkpoints


@dataclass(frozen=True, kw_only=True)
class Download:
    """The first download of a place."""

    place: Line  #: "ORG/NAME", "ORG/NAME@REVISION", or either with ":FILE"
    sha256: Sha256


def check_download(folder: Path, place: str, sha256: str) -> None:
    """Record the sha256 of the first download of a place in `folder`; compare it with later ones.

    Runs that download the same place at the same time agree on one record. Raises ZSRobustError if
    the sha256 differs from the record, if the record is not valid, and if it cannot be written.
    """
    path = record_of(folder, place)
    with claims.sole(path, lambda line: None):
        if not exists(path):
            first = Download(place=place, sha256=sha256)
            write_atomically(path, msgspec.json.format(msgspec.json.encode(first)) + b"\n")
    recorded = _read(path).sha256
    if recorded != sha256:
        raise ZSRobustError(
            f"{place} has changed: its sha256 is {sha256}, and the first download had {recorded}. "
            f"If its authors changed it on purpose, remove {path} and run again; otherwise remove "
            "the download from the cache of the hub, and run again."
        )


def record_of(folder: Path, place: str) -> Path:
    """Return where the first download of a place is recorded."""
    return folder / f"{slug(place)}.{hashlib.sha256(place.encode()).hexdigest()[:8]}.json"


def _read(path: Path) -> Download:
    see = "Remove it: the next run records the download again."
    try:
        content = read_regular(path)
    except OSError as error:
        raise ZSRobustError(f"{path} cannot be read: {error.strerror or error}. {see}") from None
    return read_json(content, Download, str(path), see)
