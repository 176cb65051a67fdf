"""Published weights: the image tower is a file, a folder or a repository of the hub.

`weights:PLACE` is whatever `read_tower` can read; entries of published.toml, and a user's own, are
defenses by their names.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import is_file, is_folder
from zsrobust.core.hub import check_network
from zsrobust.core.values import Line, Name, check, read_toml
from zsrobust.defenses import Defense, Tower, defenses
from zsrobust.defenses.weight_files import read_tower
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip

CONFIG = "open_clip_config.json"
#: The weights in a folder; the first of these that exists counts.
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
#: What ends so is a file, never a hub id.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".tar", ".ckpt")
Sha256 = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="64 hexadecimal digits, in lower case")
]
HUB_ID = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class Weights(Defense):
    """A defense that is made already: its image tower is read, not trained."""

    where: str = ""  #: a file, a folder, a hub id; or the page from which it is fetched by hand
    backbone: str | None = None  #: whose text tower it belongs to, as a suite names it
    revision: str | None = None  #: of a hub id
    sha256: str | None = None  #: of the file
    license: str | None = None
    note: str | None = None

    def configure(self, fields: Mapping[str, str], where: str) -> "Weights":
        """Return the defense of `weights:PLACE`; an entry has no fields."""
        if self.where:
            super().configure(fields, where)
            return self
        if fields.keys() != {""}:
            raise ZSRobustError(
                f"{where} takes a file, a folder or a hub id, and nothing else: weights:FILE"
            )
        place = Path(fields[""])
        return dataclasses.replace(
            self, where=fields[""], title=place.stem if is_file(place) else place.name
        )

    def tower(self, workshop: Workshop) -> Tower:
        """Return the tower; raises ZSRobustError for a suite with another backbone."""
        suite = workshop.suite
        if self.backbone and not _agree(self.backbone, suite.backbone):
            raise ZSRobustError(
                f"{self.title} needs the backbone {self.backbone}; the suite {suite.name} has "
                f"{suite.backbone}. "
                f'Run it with a suite whose file says: backbone = "{self.backbone}"'
            )
        if self.where.startswith(("https://", "http://")):
            raise ZSRobustError(
                f"{self.title} is fetched by hand: {self.where} Then run it as weights:FILE"
            )
        place = f"{self.where}@{self.revision}" if self.revision else self.where
        return Tower(*load_tower(place, workshop.clip, self.sha256))


def load_tower(
    place: str, clip: Clip, sha256: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the image tower at a place, frozen, and what identifies it.

    `place` is a file, an open_clip folder, or a hub id, which is downloaded if it is not here;
    `sha256` is what the file must have. Raises ZSRobustError if it has another, if there is
    nothing, and for what does not belong to the backbone.
    """
    path, config = _find(place)
    found = {}
    if sha256 or config is None:
        with path.open("rb") as file:
            found["file_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 and found["file_sha256"] != sha256:
            raise ZSRobustError(
                f"{path} has the sha256 {found['file_sha256']}, not {sha256}. Fetch it again."
            )
    encoder, identity = read_tower(path, config, clip)
    return encoder, {**identity, **found}


def _find(place: str) -> tuple[Path, dict[str, Any] | None]:
    """Return the file of weights at a place, and the configuration beside it or None."""
    path = Path(os.path.expanduser(place))
    if is_file(path):
        return path, None
    if not is_folder(path):
        match = HUB_ID.fullmatch(place)
        if match is None or place.endswith(SUFFIXES):
            raise ZSRobustError(
                f"No weights at {place}. Give a file, an open_clip folder, or a hub id: "
                "weights:ORG/NAME"
            )
        path = _download(match[1], match[2])
    try:
        config = json.loads((path / CONFIG).read_bytes())
        return next(path / name for name in FILES if (path / name).is_file()), config
    except (OSError, ValueError, RecursionError, StopIteration):
        raise ZSRobustError(
            f"{place} is not an open_clip folder: {CONFIG}, or {' or '.join(FILES)}, is missing."
        ) from None


def _download(repo: str, revision: str | None) -> Path:
    """Return the folder of a repository's snapshot, with its configuration and weights."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(repo, CONFIG, revision=revision), str):
            check_network(
                f"{repo} is neither a file nor a folder, its weights on the hub are not here"
            )
        folder = Path(hf_hub_download(repo, CONFIG, revision=revision)).parent
        for name in FILES:
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


def hub_error(what: str, error: Exception) -> ZSRobustError:
    """Return the hub's answer as one line, with what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    if isinstance(error, GatedRepoError):
        reason = "it is gated. Accept its terms on its page, and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = (
            "there is no such repository, or it is not yours to see. If it should be, set HF_TOKEN"
        )
    elif isinstance(error, RevisionNotFoundError):
        reason = "it has no such revision"
    elif (
        isinstance(error, HfHubHTTPError)
        and error.response is not None
        and error.response.status_code in (401, 403)
    ):
        reason = "you may not. Set HF_TOKEN to a token that may"
    return ZSRobustError(f"{what}: {reason}.")


def _agree(needed: str, backbone: str) -> bool:
    """Return whether a suite's backbone is the needed one, or a file of its architecture."""
    architecture, _, tag = backbone.partition("/")
    return backbone == needed or (architecture == needed.partition("/")[0] and is_file(tag))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The fields of published weights in a TOML file; see `Weights`."""

    title: Line
    paper: Line
    where: Line
    backbone: Line | None = None
    revision: Line | None = None
    sha256: Sha256 | None = None
    license: Line | None = None
    note: Line | None = None


def register_weights(name: str, fields: Mapping[str, Any], folder: Path = Path()) -> None:
    """Register published weights as a defense; a path among its fields is relative to `folder`.

    Raises ZSRobustError for a field that is missing, unknown or not valid, and for a taken name.
    """
    check(name, Name, "The name of the weights")
    given = vars(check(fields, Published, f"The weights {name}"))
    beside = folder / given["where"]
    if is_file(beside) or is_folder(beside):
        given = {**given, "where": str(beside)}
    defenses.register(name)(Weights(**given))


defenses.register("weights")(
    Weights(title="published weights", paper="weights:FILE, weights:FOLDER or weights:ORG/NAME")
)

_FILE = resources.files("zsrobust.defenses").joinpath("published.toml")
for _name, _fields in read_toml(_FILE.read_bytes(), dict[str, Any], _FILE.name).items():
    register_weights(_name, _fields)
