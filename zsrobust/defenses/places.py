"""Places of weights: a file, an open_clip folder, or a repository of the hub."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import is_file, is_folder
from zsrobust.core.hub import check_network, hub_error

CONFIG = "open_clip_config.json"
#: The weights in a folder; the first of these that exists counts.
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
#: What ends so is a file, never a hub id.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".tar", ".ckpt")
HUB_ID = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Found:
    """A file of weights on this machine."""

    path: Path
    config: dict[str, Any] | None = None  #: of its open_clip folder; None outside of one
    #: The place on the hub from which it was downloaded: "ORG/NAME", "ORG/NAME@REVISION", with
    #: ":FILE" if a file was named; None for a file of the user's own.
    download: str | None = None


def find(place: str, file: str | None = None) -> Found:
    """Return the file of weights at a place; a hub id is downloaded if it is not here.

    `file` is the name of the weights in a folder or a repository that is not open_clip's. Raises
    ZSRobustError if there are no weights, or if the download fails.
    """
    path, download = Path(os.path.expanduser(place)), None
    if is_file(path) and file is None:
        return Found(path)
    if not is_folder(path):
        match = HUB_ID.fullmatch(place)
        if match is None or place.endswith(SUFFIXES):
            raise ZSRobustError(
                f"No weights at {place}. Give a file, an open_clip folder, or a hub id: "
                "weights:ORG/NAME"
            )
        repo, revision = match[1], match[2]
        download = repo + (f"@{revision}" if revision else "") + (f":{file}" if file else "")
        path = _download(repo, revision, file)
    if file is not None:
        if not is_file(path / file):
            raise ZSRobustError(f"No weights at {place}: {file} is missing there.")
        return Found(path / file, None, download)
    try:
        config = json.loads((path / CONFIG).read_bytes())
        weights = next(path / name for name in FILES if (path / name).is_file())
    except (OSError, ValueError, RecursionError, StopIteration):
        raise ZSRobustError(
            f"{place} is not an open_clip folder: {CONFIG}, or {' or '.join(FILES)}, is missing."
        ) from None
    return Found(weights, config, download)


def _download(repo: str, revision: str | None, file: str | None) -> Path:
    """Return the folder of a repository's snapshot, with its configuration and weights.

    With `file`, the folder has this file alone.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    first = file or CONFIG
    try:
        if not isinstance(try_to_load_from_cache(repo, first, revision=revision), str):
            check_network(
                f"{repo} is neither a file nor a folder, its weights on the hub are not here"
            )
        got = Path(hf_hub_download(repo, first, revision=revision))
        folder = got.parents[first.count("/")]
        for name in () if file else FILES:
            try:
                hf_hub_download(
                    repo, name, revision=folder.name
                )  # the same commit, whatever is pushed meanwhile
                break
            except EntryNotFoundError:
                if name == FILES[-1]:
                    raise
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        raise hub_error(f"Cannot download {repo}", error) from error
    return folder
