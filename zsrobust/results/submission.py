"""Submissions: results that somebody publishes, what they contain, and who ran them.

A submission is a folder of results with two files beside its cells. `SUBMISSION.json` lists the
cells with their digests, the red flags, the versions and the machines. `README.md` states the same
in words. All of it follows from the cells, except for who submits and when.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from tabulate import tabulate

from zsrobust.core.errors import ZSRobustError, counted, last_line
from zsrobust.core.files import exists, read_regular
from zsrobust.core.specs import split_spec
from zsrobust.core.values import Count, Line, Sha256, read_json
from zsrobust.results import store
from zsrobust.results.cell import Result
from zsrobust.results.findings import Verified
from zsrobust.results.flags import NOT_COMPUTED, look_up
from zsrobust.results.registered import registered
from zsrobust.results.repair import Cells
from zsrobust.settings import suites

FORMAT = "zsrobust-submission-1"
FILE = "SUBMISSION.json"
TEXT = "README.md"
SUFFIXES = (".json", ".npz", ".samples.npz")  #: of the files of a cell

Date = Annotated[
    str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", description="a date: 2026-11-28")
]

#: What an identity cannot lack if its number is to be repeated: details of the dataset.
OF_DATASET = ("images", "classes", "templates", "prompts", "digest")
#: The packages whose versions every result of ours stores.
PACKAGES = ("zsrobust", "torch")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder of results contains; all of it follows from the cells."""

    suites: tuple[Line, ...]
    protocols: tuple[Line, ...]
    machines: tuple[Line, ...]  #: the torch devices
    versions: Mapping[str, tuple[Line, ...]]  #: by package, all versions that measured a cell
    flags: Mapping[str, Count]  #: number of cells by red flag or note
    cells: Mapping[str, Sha256]  #: digest of each cell's JSON by its place, without suffix

    @classmethod
    def of(cls, results: Mapping[Path, Result]) -> "Contents":
        """Return the contents of results by their path."""
        found = results.values()
        versions: dict[str, set[str]] = {}
        for result in found:
            for package, version in result.versions.items():
                versions.setdefault(package, set()).add(version)
        flags = Counter(flag for result in found for flag in result.flags)
        cells = {
            result.path.as_posix(): hashlib.sha256(read_regular(path)).hexdigest()
            for path, result in results.items()
        }
        return cls(
            suites=tuple(sorted({result.identity.suite for result in found})),
            protocols=tuple(sorted({result.identity.protocol for result in found})),
            machines=tuple(sorted({result.device for result in found})),
            versions={name: tuple(sorted(versions[name])) for name in sorted(versions)},
            flags=dict(sorted(flags.items())),
            cells=dict(sorted(cells.items())),
        )


@dataclass(frozen=True, kw_only=True)
class Submission(Contents):
    """The content of `SUBMISSION.json`."""

    by: Line  #: who ran the cells
    date: Date  #: of the submission
    program: Line  #: the version of zsrobust that checked and wrote it
    contact: Line | None = None
    note: Line | None = None
    format: Literal["zsrobust-submission-1"] = "zsrobust-submission-1"

    @property
    def statement(self) -> str:
        """Who ran the cells, as one sentence."""
        contact = f" ({self.contact})" if self.contact else ""
        return (
            f"{self.by}{contact} ran these cells with zsrobust, and changed no file by hand. "
            f"Submitted on {self.date}, checked by zsrobust {self.program}."
        )

    def to_bytes(self) -> bytes:
        """Return the submission as JSON; fields that are None are left out."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return msgspec.json.format(msgspec.json.encode(values)) + b"\n"


def read(folder: Path) -> Submission | None:
    """Return what `SUBMISSION.json` states; None without this file.

    Raises ZSRobustError if the file is not valid.
    """
    path = folder / FILE
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ZSRobustError(f"{path} cannot be read: {error}.") from None
    return read_json(content, Submission, str(path))


def verify_submission(
    folder: Path, cells: Cells, files: Mapping[Path, str], found: Verified
) -> None:
    """Find what keeps results from being published, and where they differ from `SUBMISSION.json`.

    Red flags are no finding: they are a part of honest results, and are printed with them.
    """
    if not cells.results and not cells.unreadable:
        found.find(folder, "it has no cells", "zsrobust run")
    for path, result in cells.results.items():
        for wrong in _unfit(result):
            found.find(path, wrong, cells.command(path))
    there = {result.identity.suite for result in cells.results.values()}
    several = sorted({suites.firsts().get(name, name) for name in there})
    if len(several) > 1:
        named = f"it has cells of several suites: {', '.join(several)}"
        found.find(folder, named, "submit each suite's folder by itself")
    try:
        stated = read(folder)
    except ZSRobustError as error:
        found.find(folder / FILE, f"it is not valid ({error})", "zsrobust submit")
        return
    if stated is not None:
        _verify_statement(folder, stated, cells, found)
        _verify_extra(folder, cells, files, found)


def _unfit(result: Result) -> list[str]:
    """Return what is missing in a result that somebody else is to trust and repeat, in words."""
    if result.status == "failed":
        return [f"the cell failed: {last_line(result.error)}"]
    identity = result.identity
    fields = registered()["attacks"].get(split_spec(identity.attack.spec)[0], {})
    lacking = [f"attack.{name}" for name in fields if name not in identity.attack.details]
    lacking += [f"dataset.{name}" for name in OF_DATASET if name not in identity.dataset.details]
    if not identity.defense.details:
        lacking.append("defense")
    if identity.draws is None:
        lacking.append("draws")
    wrong = [f"its identity is not complete: {', '.join(lacking)}"] if lacking else []
    unknown = [name for name in PACKAGES if not result.versions.get(name)]
    if unknown:
        wrong.append(f"the versions of {' and '.join(unknown)} are missing")
    if not result.device:
        wrong.append("its machine is missing")
    if result.checks is None and NOT_COMPUTED not in result.flags:
        wrong.append("the measurements of its red flags are missing")
    return wrong


def _verify_statement(folder: Path, stated: Submission, cells: Cells, found: Verified) -> None:
    """Compare what a submission states with its cells."""
    path, actual = folder / FILE, Contents.of(cells.results)
    again = "write the submission again: zsrobust submit"
    places = {result.path.as_posix(): file for file, result in cells.results.items()}
    unreadable = {"/".join(store.place_of(file)) for file in cells.unreadable}
    for place in sorted(stated.cells.keys() - actual.cells.keys() - unreadable):
        found.find(folder / f"{place}.json", f"{FILE} lists it, and it is missing", again)
    for place, digest in actual.cells.items():
        if place not in stated.cells:
            found.find(places[place], f"{FILE} does not list it", again)
        elif stated.cells[place] != digest:
            found.find(places[place], f"{FILE} lists another digest", again)
    if stated.cells != actual.cells:
        return  # the rest follows from the cells
    for field in dataclasses.fields(Contents):
        if getattr(stated, field.name) != getattr(actual, field.name):
            found.find(path, f"its {field.name} are not those of the cells", again)


def _verify_extra(folder: Path, cells: Cells, files: Mapping[Path, str], found: Verified) -> None:
    """Find files of a submission that are no part of it."""
    known = {path.with_suffix(suffix) for path in cells.results for suffix in SUFFIXES}
    known |= {folder / FILE, folder / TEXT, *(each.path for each in found.findings)}
    for path in files:
        if path not in known:
            found.find(path, "this file is not part of a submission")


def files_of(results: Mapping[Path, Result]) -> dict[str, bytes]:
    """Return the content of all files of the cells, by their place in a folder of results."""
    return {
        f"{result.path.as_posix()}{suffix}": read_regular(path.with_suffix(suffix))
        for path, result in results.items()
        for suffix in SUFFIXES
        if exists(path.with_suffix(suffix))
    }


def describe(
    results: Mapping[Path, Result], contents: Contents, stated: Submission | None = None
) -> str:
    """Return what results contain and who ran them, as Markdown."""
    title = f"Results of {stated.by}" if stated else "Results of zsrobust"
    parts = [f"# {title}"]
    if stated:
        parts.append(stated.statement)
        parts += [stated.note] if stated.note else []
    versions = [f"{name} {' and '.join(each)}" for name, each in contents.versions.items()]
    about = {
        "Suites": ", ".join(contents.suites),
        "Protocols": ", ".join(contents.protocols),
        "Cells": str(len(contents.cells)),
        "Machines": ", ".join(contents.machines),
        "Versions": ", ".join(versions),
    }
    parts.append("\n".join(f"* {name}: {text}" for name, text in about.items()))
    parts.append(f"## Rows\n\n{_rows(results.values())}")
    lines = [
        f"* `{name}`, {counted(number, 'cell')}: {look_up(name).sentence}"
        for name, number in contents.flags.items()
    ]
    parts.append("\n".join(["## Red flags and notes", "", *(lines or ["There are none."])]))
    return "\n\n".join(parts) + "\n"


def _rows(results: Iterable[Result]) -> str:
    """Return a table of the defenses and attacks, with the number of their cells."""
    abouts = [result.identity.about for result in results]
    header = ("suite", "protocol", "defense", "attack", "eps")
    counts = Counter(tuple(str(about[key]) for key in header) for about in abouts)
    body = [[*(f"`{part}`" for part in row), number] for row, number in sorted(counts.items())]
    return tabulate(body, [*header, "cells"], tablefmt="github", disable_numparse=True)


def card(
    results: Mapping[Path, Result], contents: Contents, stated: Submission | None, repo: str
) -> str:
    """Return the card of a dataset repository with these results: front matter, and `describe`."""
    suite = contents.suites[0]
    return f"""---
pretty_name: {json.dumps(f"zsrobust results: {', '.join(contents.suites)}")}
tags: [clip, adversarial-robustness, zsrobust]
viewer: false
---

{describe(results, contents, stated)}
## Files

A cell is `SUITE/PROTOCOL/ATTACK/DEFENSE/DATASET.json` with counts, `DATASET.npz` with the
outcome of each image, and `DATASET.samples.npz` with a few sample images. The JSON has the digests
of both.

## Reading them

```sh
zsrobust table 1 --suite {suite} --results hf://{repo}
zsrobust verify hf://{repo}
```
"""
