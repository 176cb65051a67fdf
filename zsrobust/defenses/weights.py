"""Published weights: the image tower is a file, a folder or a repository of the hub.

`weights:PLACE` is whatever `read_tower` can read; entries of published.toml, and a user's own, are
defenses by their names.
"""

import dataclasses
import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import is_file, is_folder
from zsrobust.core.hub import Unreachable
from zsrobust.core.values import Line, Name, Sha256, check, read_toml
from zsrobust.defenses import Defense, Tower, defenses
from zsrobust.defenses.downloads import FOLDER, check_download
from zsrobust.defenses.fitting import read_clip, read_tower
from zsrobust.defenses.places import find
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip
from zsrobust.models.heads import of_texts
from zsrobust.results.printed import Printed
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

#: A file in a repository: a relative path, which stays inside.
Inside = Annotated[
    str,
    Meta(
        pattern=r"\A(?!.*\.\.)[\w.-]+(/[\w.-]+)*\Z",
        description="the name of a file in the repository",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Weights(Defense):
    """A defense that is made already: its image tower is read, not trained."""

    where: str = ""  #: a file, a folder, a hub id; or the page from which it is fetched by hand
    file: str | None = None  #: the weights in a folder or a repository that is not open_clip's
    backbone: str | None = None  #: whose text tower it belongs to, as a suite names it
    text: Literal["own"] | None = None  #: "own": heads come from the text tower in the same file
    revision: str | None = None  #: of a hub id
    sha256: str | None = None  #: of the file
    license: str | None = None
    note: str | None = None
    claims: tuple[Printed, ...] = ()  #: what its authors print of it

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
        """Return the tower; raises ZSRobustError for a suite with another backbone.

        Raises Unreachable for weights that only a browser can fetch.
        """
        suite, needed = workshop.suite, self.backbone
        if self.where.startswith(("https://", "http://")):
            named, note = _suite_with(needed, suite)
            raise Unreachable(
                f"{self.title} is fetched by hand. Open {self.where} in a browser, save the file, "
                f"and run: zsrobust run --suite {named} --defense weights:FILE{note}"
            )
        if needed and not _agree(needed, suite.backbone):
            named, note = _suite_with(needed, suite)
            raise ZSRobustError(
                f"{self.title} needs the backbone {needed}; the suite {suite.name} has "
                f"{suite.backbone}. Run it with --suite {named}{note}"
            )
        place = f"{self.where}@{self.revision}" if self.revision else self.where
        records = workshop.folder / FOLDER
        if self.text == "own":
            file, config, about = locate(place, self.sha256, self.file, records)
            own, identity = read_clip(file, config, workshop.clip)
            return Tower(own.encoder, {**identity, **about}, head=of_texts(own))
        return Tower(*load_tower(place, workshop.clip, self.sha256, self.file, records))


def _suite_with(backbone: str | None, given: Suite) -> tuple[str, str]:
    """Return the name of a suite with a backbone, and what its file must say if it is not known."""
    if backbone is None or _agree(backbone, given.backbone):
        return shlex.quote(given.asked or given.name), ""
    for name in suites.names():
        if suites.load(name).backbone == backbone and name not in suites.firsts():
            return name, ""
    return "FILE.toml", f' (FILE.toml is a suite with backbone = "{backbone}")'


def load_tower(
    place: str,
    clip: Clip,
    sha256: str | None = None,
    file: str | None = None,
    records: Path | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the image tower at a place, frozen, and what identifies it.

    `place` is a file, an open_clip folder, or a hub id, which is downloaded if it is not here; with
    `file`, the weights are this file of a folder or a repository. `sha256` is what the file of
    weights must have. Without it, what the hub gave must be the file of its first download, as
    recorded in the folder `records`. Raises ZSRobustError if it is another, if there is nothing,
    and for what does not belong to the backbone.
    """
    path, config, about = locate(place, sha256, file, records)
    encoder, identity = read_tower(path, config, clip)
    return encoder, {**identity, **about}


def locate(
    place: str, sha256: str | None = None, file: str | None = None, records: Path | None = None
) -> tuple[Path, dict[str, Any] | None, dict[str, str]]:
    """Return the file of weights at a place, the configuration beside it, and the file's digest.

    The configuration is None outside of an open_clip folder. The digest is empty if the tower's own
    identifies it. Raises ZSRobustError as `load_tower` does.
    """
    found = find(place, file)
    download = None if sha256 or records is None else found.download
    about = {}
    if sha256 or download or found.config is None:
        with found.path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if sha256 and digest != sha256:
            raise ZSRobustError(
                f"{found.path} has the sha256 {digest}, not {sha256}. Fetch it again."
            )
        if records is not None and download:
            check_download(records, download, digest)
        if sha256 or found.config is None:  # a record leaves the tower's identity as it is
            about["file_sha256"] = digest
    return found.path, found.config, about


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
    file: Inside | None = None
    backbone: Line | None = None
    text: Literal["own"] | None = None
    revision: Line | None = None
    sha256: Sha256 | None = None
    license: Line | None = None
    note: Line | None = None
    claims: tuple[Printed, ...] = ()


def register_weights(name: str, fields: Mapping[str, Any], folder: Path = Path()) -> None:
    """Register published weights as a defense; a path among its fields is relative to `folder`.

    Raises ZSRobustError for a field that is missing, unknown or not valid, and for a taken name.
    """
    check(name, Name, "The name of the weights")
    entry = check(fields, Published, f"The weights {name}")
    if entry.file and "://" in entry.where:
        raise ZSRobustError(
            f"The weights {name}: file = {entry.file!r} is not valid beside a link; where must "
            "be a folder or a hub id. Leave file out."
        )
    beside = folder / entry.where
    where = str(beside) if is_file(beside) or is_folder(beside) else entry.where
    defenses.register(name)(Weights(**{**vars(entry), "where": where}))


defenses.register("weights")(
    Weights(title="published weights", paper="weights:FILE, weights:FOLDER or weights:ORG/NAME")
)

_FILE = resources.files("zsrobust.defenses").joinpath("published.toml")
for _name, _fields in read_toml(_FILE.read_bytes(), dict[str, Any], _FILE.name).items():
    register_weights(_name, _fields)
