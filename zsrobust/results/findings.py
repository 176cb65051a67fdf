"""Findings of a verification: files that differ from what was stored, and how to repair them."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zsrobust.core import claims
from zsrobust.core.errors import counted
from zsrobust.core.files import TEMPORARY

CLAIM = re.compile(r"\..+\.claim(\.[0-9a-f]{16})?")


@dataclass(frozen=True)
class Finding:
    """A file that differs from what was stored, or is missing."""

    path: Path
    wrong: str
    remedy: str  #: the command that recomputes or removes the file

    def __str__(self) -> str:
        return f"{self.path}: {self.wrong}. Next: {self.remedy}"


@dataclass
class Verified:
    """How many files were verified, and the findings."""

    cells: int = 0
    checkpoints: int = 0
    prepared: int = 0
    undigested: int = 0  #: checkpoints stored before checkpoints had a digest
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: what could not be verified

    def find(self, path: Path, wrong: str, remedy: str = "") -> None:
        """Add a finding; its remedy is to remove the file, unless another one is given."""
        self.findings.append(Finding(path, wrong, remedy or removal(path)))

    @property
    def summary(self) -> str:
        """One line: how many cells and other files were verified, and how many findings."""
        looked = counted(self.cells, "cell")
        if self.checkpoints:
            looked += f", {counted(self.checkpoints, 'checkpoint')}"
        if self.prepared:
            looked += f", {counted(self.prepared, 'prepared dataset')}"
        if self.findings:
            return f"{looked}: {counted(len(self.findings), 'finding')}"
        return f"{looked}: all as they were stored"

    @property
    def lines(self) -> list[str]:
        """The lines to print: one for each finding, then the notes, then the summary."""
        return [*map(str, self.findings), *(f"note: {note}" for note in self.notes), self.summary]


def removal(path: Path) -> str:
    """Return the command that removes a file."""
    return shlex.join(["rm", str(path)])


def verify_unfinished(files: Iterable[Path], found: Verified) -> None:
    """Find what killed runs left behind. Files that a run is writing now get a note."""
    all_claims = {path.parent for path in files if CLAIM.fullmatch(path.parent.name)}
    dead = {claim for claim in all_claims if claims.abandoned(claim)}
    for claim in sorted(dead):
        remedy = f"{shlex.join(['rm', '-r', str(claim)])}, or run again"
        found.find(claim, "the claim of a run that was killed", remedy)
    under_way = sorted(all_claims - dead)
    if under_way:
        found.notes.append(
            f"{counted(len(under_way), 'file')} being written, or claimed by a run on another "
            f"machine: {under_way[0]}"
        )
    busy = {claim.parent for claim in under_way}
    for path in files:
        if TEMPORARY.fullmatch(path.name) and path.parent not in busy:
            found.find(path, "half written: a run was killed while it wrote this file")
