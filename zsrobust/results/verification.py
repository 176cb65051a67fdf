"""Verification: whether files are as they were stored, and the commands that repair them.

A result stores the digest of its own JSON, and the digests of its outcomes and samples. A
checkpoint stores the digest of its weights and metadata. A cell of a trained defense names its
checkpoint by recipe and weights. Verification computes no cell and changes no file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.files import read_regular, walk
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.chance import contradictions
from zsrobust.results.checkpoints import verify_checkpoints
from zsrobust.results.findings import Verified, verify_unfinished
from zsrobust.results.plausible import impossible_outcome
from zsrobust.results.registered import misnamed
from zsrobust.results.repair import Cells
from zsrobust.results.submission import FILE as SUBMISSION
from zsrobust.results.submission import verify_submission


def verify(
    folder: Path,
    checkpoints: Path | None = None,
    examine: Callable[[Result], Sequence[str]] = lambda result: (),
    publish: bool = False,
) -> Verified:
    """Return the findings in a results folder and, if it is given, in a folder of checkpoints.

    `examine` returns what else is wrong with a result, in words: the rules of red flags are not
    known here. With `publish`, and in a folder with a `SUBMISSION.json`, what keeps the results
    from being published is a finding, too.

    Raises ZSRobustError if the results folder is missing.
    """
    store.check_folder(folder)
    found, cells = Verified(), Cells(folder)
    found.cells = len(cells.results) + len(cells.unreadable)
    for path, wrong in cells.unreadable.items():
        found.find(path, wrong, cells.command(path))
    files = dict(walk(folder))
    undigested = sum(
        _verify_cell(path, result, cells, found, files) for path, result in cells.results.items()
    )
    for path, result in cells.results.items():
        for wrong in [*misnamed(result), *examine(result)]:
            found.find(path, wrong, cells.command(path))
    if undigested:
        found.notes.append(
            f"{counted(undigested, 'cell')} stored before samples had a digest: "
            "only the checksums of zip verify these samples"
        )
    _verify_other_files(files, cells, found)
    if checkpoints is not None:
        verify_checkpoints(checkpoints, cells, found)
    if publish or folder / SUBMISSION in files:
        verify_submission(folder, cells, files, found)
    return found


def _verify_cell(
    path: Path, result: Result, cells: Cells, found: Verified, files: Mapping[Path, str]
) -> bool:
    """Verify a cell's files; return whether it has samples without a digest."""

    def wrong(what: str, file: Path = path) -> None:
        found.find(file, what, cells.command(path))

    content = read_regular(path)
    if store.laid_out(json.loads(content)) != content:
        wrong("its layout changed, though its content is the same")
    outcomes, samples = path.with_suffix(".npz"), path.with_suffix(".samples.npz")
    odd = [file for file in (outcomes, samples) if files.get(file)]
    for file in odd:
        wrong(files[file], file)
    if odd:
        return False
    if result.status == "failed":
        if outcomes in files:
            wrong("outcomes of a cell that failed", outcomes)
    elif outcomes not in files:
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
    except ZSRobustError as error:
        reason = str(error).partition("damaged (")[2].rpartition("). Run")[0]
        wrong(f"the outcomes are not valid ({reason})", path.with_suffix(".npz"))
        return
    if impossible := impossible_outcome(result, outcomes):
        wrong(impossible, path.with_suffix(".npz"))
    right = outcomes.right(result.identity.attacks_everything)
    counts = {
        "images": len(outcomes.labels),
        "clean_correct": int(right.clean.sum()),
        "robust_correct": int(right.robust.sum()),
        "successes": outcomes.successes,
    }
    for name, count in counts.items():
        if getattr(result, name) != count:
            wrong(f"{name} is {getattr(result, name)}, but its outcomes give {count}")
    for contradiction in contradictions(result, outcomes):
        wrong(contradiction)


def _is_result(path: Path) -> bool:
    """Return whether a file begins like a result; False if it cannot be read."""
    with suppress(OSError):
        return store.FORMAT.encode() in read_regular(path)[:100]
    return False


def _verify_other_files(files: Mapping[Path, str], cells: Cells, found: Verified) -> None:
    """Find links and pipes, files that look like a part of a cell, and cells stored twice."""
    known = {*cells.results, *cells.unreadable}
    sidecars = {path.with_suffix(suffix) for path in known for suffix in (".npz", ".samples.npz")}
    for path, wrong in files.items():
        if wrong:
            if path not in known | sidecars:
                found.find(path, wrong)
            continue
        if path.suffix == ".npz" and path not in sidecars and not path.name.startswith("."):
            found.find(path, "its result is missing: a run was killed before it wrote the result")
        if path.suffix == ".json" and path not in known and _is_result(path):
            found.find(path, "a result in a place that is never read")
    first: dict[Path, Path] = {}
    for path, result in cells.results.items():
        if first.setdefault(result.path, path) != path:
            found.find(path, f"the same cell as {first[result.path]}")
    verify_unfinished([path for path, wrong in files.items() if not wrong], found)
