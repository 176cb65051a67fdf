"""Verification: whether files are as they were stored, and the commands that repair them. No torch here.

A result stores the digest of its own JSON, and those of its outcomes and samples. A checkpoint stores
the digest of its weights and metadata. A cell of a trained defense names its checkpoint, by recipe
and weights. Verification computes no cell and changes no file.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.files import TEMPORARY, slug
from zsrobust.core.specs import parse_eps
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.digests import checkpoint_place, read_weights, seal
from zsrobust.results.identity import FLOAT32, Identity
from zsrobust.results.selection import Selection, known_suite
from zsrobust.results.store import laid_out

#: The metadata of checkpoints that were stored before they had a digest.
OLDER = {"recipe", "sources", "prompts", "history"}

#: The names of our checkpoints, and of trainings that are not done.
OURS = re.compile(r".+-[0-9a-f]{16}\.(safetensors|partial)")

CLAIM = re.compile(r"\..+\.claim(\.[0-9a-f]{16})?")


@dataclass(frozen=True)
class Finding:
    """A file that is not what was stored, or is not there."""

    path: Path
    wrong: str
    remedy: str  #: the command that computes it again, or removes it

    def __str__(self) -> str:
        return f"{self.path}: {self.wrong}. Next: {self.remedy}"


@dataclass
class Verified:
    """What was looked at, and what was found."""

    cells: int = 0
    checkpoints: int = 0
    prepared: int = 0
    unsealed: int = 0  #: checkpoints that are older than their digest
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: what could not be verified

    def find(self, path: Path, wrong: str, remedy: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(path, wrong, remedy))

    @property
    def summary(self) -> str:
        """One line: how much was looked at, and how much of it is not as it was stored."""
        counts = {
            "cell": self.cells,
            "checkpoint": self.checkpoints,
            "prepared dataset": self.prepared,
        }
        looked = ", ".join(
            counted(count, name) for name, count in counts.items() if count or name == "cell"
        )
        return f"{looked}: {counted(len(self.findings), 'finding') if self.findings else 'all as they were stored'}"

    @property
    def lines(self) -> list[str]:
        """What to print: a line a finding, notes, the summary."""
        return [*map(str, self.findings), *(f"note: {note}" for note in self.notes), self.summary]


def verify(folder: Path, checkpoints: Path | None = None) -> Verified:
    """Return what was verified in a folder of results: its digests, its counts, and its checkpoints.

    Raises ZSRobustError if the folder is missing.
    """
    if not folder.is_dir():
        raise ZSRobustError(f"No folder of results {folder}. Next: zsrobust run --results {folder}")
    found = Verified()
    cells = _Cells(folder)
    for path, wrong in cells.unreadable.items():
        found.find(path, wrong, cells.command(path))
    unsealed = sum(_verify_cell(path, result, cells, found) for path, result in cells.read.items())
    found.cells = len(cells.read) + len(cells.unreadable)
    if unsealed:
        found.notes.append(
            f"{counted(unsealed, 'cell')} stored before samples had a digest: "
            "only the checksums of zip verify these samples"
        )
    _verify_rest(folder, cells, found)
    if checkpoints is not None:
        _verify_checkpoints(checkpoints, cells, found)
    return found


class _Cells:
    """The cells under a folder, and the commands that compute them."""

    def __init__(self, folder: Path) -> None:
        """Read them all."""
        self.folder = folder
        self.read: dict[Path, Result] = {}
        self.unreadable: dict[Path, str] = {}
        for path in store.paths(folder):
            try:
                self.read[path] = store.read(path)
            except ZSRobustError as error:
                self.unreadable[path] = str(error).partition("zsrobust (")[2].rpartition(").")[
                    0
                ] or str(error)
        # What a folder is named after, by its name, for cells that do not say it any more.
        named = ("suite", "protocol", "attack", "defense", "dataset")
        self._called = {
            slug(result.about[key]): result.about[key]
            for result in self.read.values()
            for key in named
        }

    def command(
        self, path: Path, result: Result | None = None, dataset: bool = True, force: bool = True
    ) -> str:
        """Return the command that computes a cell; without `dataset`, those beside it, too.

        It removes the file where neither its content nor its place names a cell.
        """
        about = result.about if result else self._about(path)
        if about is None:
            return f"rm {shlex.quote(str(path))}"
        selection = Selection(
            suite=known_suite(about["suite"]),
            attack=about["attack"],
            eps=parse_eps(about["eps"]),
            **{name: about[name] for name in ("protocol", "limit", "seed")},
        )
        return selection.command(
            [about["defense"]],
            dataset=about["dataset"] if dataset else None,
            precision=_lower(result.identity.search) if result else None,
            force=force,
        )

    def _about(self, path: Path) -> dict[str, Any] | None:
        """Return what a cell that cannot be read is: by its content where its place agrees, else by its place."""
        place = path.resolve().with_name(path.name.removesuffix(".json")).parts[-5:]
        try:
            stored = Identity.from_json(json.loads(path.read_bytes())["identity"])
            if stored.path.parts == place:
                return stored.about
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ZSRobustError):
            pass  # the content is damaged
        return self._about_place(place)

    def _about_place(self, place: tuple[str, ...]) -> dict[str, Any] | None:
        """Return what a cell is by its place; None where the place does not name a cell."""
        if len(place) < 5:
            return None
        suite, protocol, attack, defense, name = place
        attack, _, bound = attack.rpartition("-eps=")
        eps = re.sub(r"^(\d+)-(\d+)$", r"\1/\2", bound)  # 6/255 is 6-255 there, 1e-05 is as it is
        named = re.fullmatch(
            r"(?P<dataset>.+?)(\.limit=(?P<limit>\d+))?(\.seed=(?P<seed>\d+))?", name
        )
        try:
            parse_eps(eps)
        except ZSRobustError:
            return None
        if named is None or not attack:
            return None
        dataset, limit, seed = named.group("dataset", "limit", "seed")
        places = {
            "suite": suite,
            "protocol": protocol,
            "attack": attack,
            "defense": defense,
            "dataset": dataset,
        }
        called = {key: self._called.get(place, place) for key, place in places.items()}
        return {
            **called,
            "eps": eps,
            "limit": int(limit) if limit else None,
            "seed": int(seed) if seed else 0,
        }


def _lower(search: str) -> str | None:
    return None if search == FLOAT32 else search


def _verify_cell(path: Path, result: Result, cells: _Cells, found: Verified) -> bool:
    """Verify what lies in a cell's files; return whether it has samples without a digest."""

    def wrong(what: str, file: Path = path) -> None:
        found.find(file, what, cells.command(path, result))

    content = path.read_bytes()
    if laid_out(json.loads(content)) != content:
        wrong("it is not laid out as it was written, though its content is the same")
    beside, sampled = path.with_suffix(".npz"), path.with_suffix(".samples.npz")
    if result.status == "ok":
        if not beside.is_file():
            wrong("the outcomes are gone", beside)
        elif not store.outcomes_match(result, path):
            wrong("not the outcomes that the result was counted from", beside)
        else:
            _count(path, result, wrong)
    elif beside.exists():
        wrong("outcomes of a cell that failed", beside)
    if result.samples is not None:
        if not sampled.is_file():
            wrong("the samples are gone", sampled)
        elif hashlib.sha256(sampled.read_bytes()).hexdigest() != result.samples:
            wrong("not the samples of this result", sampled)
        return False
    try:
        return Samples.read(path) is not None
    except ZSRobustError:
        wrong("the samples are damaged", sampled)
        return False


def _count(path: Path, result: Result, wrong: Callable[..., None]) -> None:
    """Count again from the outcomes."""
    try:
        outcomes = Outcomes.read(path)
    except ZSRobustError:
        wrong("the outcomes cannot be read", path.with_suffix(".npz"))
        return
    right = outcomes.right(result.everything)
    counted = {
        "images": len(outcomes.labels),
        "clean_correct": int(right.clean.sum()),
        "robust_correct": int(right.robust.sum()),
    }
    for name, number in counted.items():
        if getattr(result, name) != number:
            wrong(f"{name} is {getattr(result, name)}, and its outcomes say {number}")


def _verify_rest(folder: Path, cells: _Cells, found: Verified) -> None:
    """Verify that nothing else is there that looks like a cell, or a part of one."""
    known = {*cells.read, *cells.unreadable}
    sidecars = {path.with_suffix(suffix) for path in known for suffix in (".npz", ".samples.npz")}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        remove = f"rm {shlex.quote(str(path))}"
        if path.suffix == ".npz" and path not in sidecars and not path.name.startswith("."):
            found.find(
                path, "there is no result beside it: a run was killed before it wrote that", remove
            )
        elif (
            path.suffix == ".json"
            and path not in known
            and store.FORMAT.encode() in path.read_bytes()[:100]
        ):
            found.find(path, "a result where nothing reads it", remove)
    first: dict[Path, Path] = {}
    for path, result in cells.read.items():
        if first.setdefault(result.path, path) != path:
            found.find(
                path, f"the same cell as {first[result.path]}", f"rm {shlex.quote(str(path))}"
            )
    _verify_hidden(files, found)


def _verify_hidden(files: Iterable[Path], found: Verified) -> None:
    """Tell of what runs left that were killed, but not of what is under way."""
    there = {path.parent for path in files if CLAIM.fullmatch(path.parent.name)}
    dead = {claim for claim in there if claims.abandoned(claim)}
    for claim in sorted(dead):
        found.find(
            claim,
            "the claim of a run that was killed",
            f"rm -r {shlex.quote(str(claim))}, or run again",
        )
    if under_way := sorted(there - dead):
        found.notes.append(
            f"{len(under_way)} files are being made, or were by a run on another machine: {under_way[0]}"
        )
    busy = {claim.parent for claim in under_way}
    for path in files:
        if TEMPORARY.fullmatch(path.name) and path.parent not in busy:
            found.find(
                path, "half written: a run was killed meanwhile", f"rm {shlex.quote(str(path))}"
            )


def _verify_checkpoints(folder: Path, cells: _Cells, found: Verified) -> None:
    """Verify the checkpoints, and that each cell of a trained defense was made from one of them."""
    made: dict[tuple[Path, str], list[Path]] = {}
    for path, result in cells.read.items():
        defense = result.identity.defense
        if defense.checkpoint and defense.recipe:
            place = checkpoint_place(result.identity.suite, defense.recipe)
            made.setdefault((folder / place, defense.checkpoint), []).append(path)
    if not folder.is_dir():
        if made:
            found.notes.append(
                f"the folder {folder} is missing: {counted(len(made), 'checkpoint')} of these cells not verified. "
                "Next: zsrobust verify --checkpoints FOLDER"
            )
        return

    def again(user: Path) -> str:
        return cells.command(user, cells.read[user], dataset=False, force=False)

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    ours = [path for path in files if OURS.fullmatch(path.name)]
    weights: dict[Path, str | None] = {}
    for path in ours:
        user = next((some[0] for (place, _), some in made.items() if place == path), None)
        remove = f"rm {shlex.quote(str(path))}"
        try:
            weights[path] = _read_sealed(path, found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            weights[path] = None
            wrong = f"damaged ({error or type(error).__name__})"
            found.find(
                path,
                wrong,
                f"{remove}; {again(user)}" if user else f"{remove}, and it is trained again",
            )
    for (path, digest), users in sorted(made.items()):
        which = f"{counted(len(users), 'cell')}, first {users[0]}"
        if path not in weights:
            found.find(path, f"the checkpoint of these cells is gone: {which}", again(users[0]))
        elif weights[path] not in (None, digest):
            found.find(path, f"its weights are not those of these cells: {which}", again(users[0]))
    found.checkpoints = sum(path.suffix == ".safetensors" for path in ours)
    if found.unsealed:
        found.notes.append(
            f"{counted(found.unsealed, 'checkpoint')} stored before checkpoints had a digest: "
            "only the cells made from them verify them"
        )
    _verify_hidden(files, found)


def _read_sealed(path: Path, found: Verified) -> str:
    """Return the digest of a checkpoint's weights, or of a training that is not done; raises ValueError if it is damaged."""
    metadata, weights = read_weights(path)
    named = checkpoint_place("", json.loads(metadata["recipe"])).with_suffix(path.suffix).name
    older = path.suffix == ".safetensors" and metadata.keys() <= OLDER
    found.unsealed += older
    if path.name != named or (not older and metadata["digest"] != seal(metadata, weights)):
        raise ValueError("its digest does not fit")
    return weights
