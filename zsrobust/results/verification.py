"""Verification: whether files are as they were stored, and the commands that repair them.

A result stores the digest of its own JSON, and the digests of its outcomes and samples. A
checkpoint stores the digest of its weights and metadata. A cell of a trained defense names its
checkpoint by recipe and weights. Verification computes no cell and changes no file.
"""

import json
from collections.abc import Callable
from pathlib import Path

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.chance import contradictions
from zsrobust.results.checkpoints import verify_checkpoints
from zsrobust.results.findings import Verified, verify_unfinished
from zsrobust.results.repair import Cells


def verify(folder: Path, checkpoints: Path | None = None) -> Verified:
    """Return the findings in a results folder and, if it is given, in a folder of checkpoints.

    Raises ZSRobustError if the results folder is missing.
    """
    store.check_folder(folder)
    found, cells = Verified(), Cells(folder)
    found.cells = len(cells.results) + len(cells.unreadable)
    for path, wrong in cells.unreadable.items():
        found.find(path, wrong, cells.command(path))
    undigested = sum(
        _verify_cell(path, result, cells, found) for path, result in cells.results.items()
    )
    if undigested:
        found.notes.append(
            f"{counted(undigested, 'cell')} stored before samples had a digest: "
            "only the checksums of zip verify these samples"
        )
    _verify_other_files(folder, cells, found)
    if checkpoints is not None:
        verify_checkpoints(checkpoints, cells, found)
    return found


def _verify_cell(path: Path, result: Result, cells: Cells, found: Verified) -> bool:
    """Verify a cell's files; return whether it has samples without a digest."""

    def wrong(what: str, file: Path = path) -> None:
        found.find(file, what, cells.command(path))

    content = path.read_bytes()
    if store.laid_out(json.loads(content)) != content:
        wrong("its layout changed, though its content is the same")
    outcomes, samples = path.with_suffix(".npz"), path.with_suffix(".samples.npz")
    if result.status == "failed":
        if outcomes.exists():
            wrong("outcomes of a cell that failed", outcomes)
    elif not outcomes.is_file():
        wrong("the outcomes are missing", outcomes)
    elif not store.outcomes_match(result, path):
        wrong("these are not the outcomes that the result counts", outcomes)
    else:
        _verify_counts(path, result, wrong)
    if result.samples is not None:
        digest = store.sha256_of(samples)
        if digest is None:
            wrong("the samples are missing", samples)
        elif digest != result.samples:
            wrong("these are not the samples of the result", samples)
        return False
    try:
        return Samples.read(path) is not None
    except ZSRobustError:
        wrong("the samples are damaged", samples)
        return False


def _verify_counts(path: Path, result: Result, wrong: Callable[..., None]) -> None:
    """Compare a result's counts with its outcomes."""
    try:
        outcomes = Outcomes.read(path)
    except ZSRobustError:
        wrong("the outcomes cannot be read", path.with_suffix(".npz"))
        return
    right = outcomes.right(result.identity.attacks_everything)
    counts = {
        "images": len(outcomes.labels),
        "clean_correct": int(right.clean.sum()),
        "robust_correct": int(right.robust.sum()),
    }
    for name, count in counts.items():
        if getattr(result, name) != count:
            wrong(f"{name} is {getattr(result, name)}, but its outcomes give {count}")
    for contradiction in contradictions(result, outcomes):
        wrong(contradiction)


def _verify_other_files(folder: Path, cells: Cells, found: Verified) -> None:
    """Find files that look like a part of a cell but belong to none, and cells stored twice."""
    known = {*cells.results, *cells.unreadable}
    sidecars = {path.with_suffix(suffix) for path in known for suffix in (".npz", ".samples.npz")}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix == ".npz" and path not in sidecars and not path.name.startswith("."):
            found.find(path, "its result is missing: a run was killed before it wrote the result")
        stray = path.suffix == ".json" and path not in known
        if stray and store.FORMAT.encode() in path.read_bytes()[:100]:
            found.find(path, "a result in a place that is never read")
    first: dict[Path, Path] = {}
    for path, result in cells.results.items():
        if first.setdefault(result.path, path) != path:
            found.find(path, f"the same cell as {first[result.path]}")
    verify_unfinished(files, found)
