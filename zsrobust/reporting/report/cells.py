"""One cell in the report: where its numbers come from, and its accuracy by class."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.intervals import wilson
from zsrobust.reporting.columns import ends, percent
from zsrobust.results.cell import Outcomes, Result
from zsrobust.results.chance import chance
from zsrobust.results.flags import look_up
from zsrobust.results.store import outcomes_match


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a cell come from."""

    title: str
    subtitle: str
    error: str  #: traceback of a failed cell
    facts: Sequence[tuple[str, str]]  #: names and texts
    identity: str  #: as JSON


def provenance(result: Result, place: str, method: str) -> Provenance:
    """Return a cell's provenance; `place` is its file, and `method` the defense's title."""
    identity = result.identity
    about, training = identity.about, result.training.get("epoch_seconds")
    counts = {"Robust": result.robust_correct, "Clean": result.clean_correct}
    facts = {
        **{name: _accuracy(count, result) for name, count in counts.items()},
        "Success": _success(result),
        "Chance": _chance(result),
        "Red flags": " ".join(look_up(flag).sentence for flag in result.flags),
        "Messages": " ".join(result.messages or ()),
        "Time": f"{result.seconds:,.3f} s on {result.device or 'an unknown device'}",
        "Passes": f"{result.forward:,} images forward, {result.backward:,} backward",
        "Training": "" if training is None else f"{training} s an epoch",
        "Versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
        "File": place,
        "Outcomes": f"sha256 {result.outcomes}" if result.outcomes else "",
    }
    return Provenance(
        f"{method} on {identity.dataset.title}",
        f"{about['attack']}, eps {about['eps']}; {identity.suite}, {identity.protocol}",
        result.error or "",
        [(name, text) for name, text in facts.items() if text],
        json.dumps(identity.to_json(), indent=1, ensure_ascii=False),
    )


def _accuracy(correct: int, result: Result) -> str:
    if result.status != "ok":
        return ""
    counts = f"{correct:,} of {counted(result.images, 'image')}"
    share = percent(Fraction(correct, result.images))
    return f"{share}% ({counts}; 95% interval {ends(wilson(correct, result.images))})"


def _success(result: Result) -> str:
    """Return how many attacked images are predicted as a targeted attack's target; or ""."""
    if result.successes is None or not result.attacked:
        return ""
    share = percent(Fraction(result.successes, result.attacked))
    return f"{share}% ({result.successes:,} of {result.attacked:,} attacked images)"


def _chance(result: Result) -> str:
    at = chance(result.images, result.largest_class, result.identity.dataset.classes)
    if at is None or result.status != "ok":
        return ""
    if result.most_predicted is None:
        return f"{percent(at)}% (one of {at.denominator} classes)"
    share = percent(Fraction(result.most_predicted, result.images))
    return (
        f"{percent(at)}% (the share of the most frequent class); under attack, {share}% of the "
        "answers are one class"
    )


def read_outcomes(result: Result, path: Path) -> Outcomes | str:
    """Return the outcomes of a result, or why they are missing or not valid."""
    if result.status != "ok":
        return "The cell failed."
    try:
        outcomes = Outcomes.read(path)
    except ZSRobustError as error:
        return str(error)
    if not outcomes_match(result, path):
        name = path.with_suffix(".npz").name
        return f"{name} does not belong to the counts of this cell. Run the cell again."
    return outcomes


def class_name(outcomes: Outcomes, label: int) -> str:
    """Return a class's name, or its number if names are not stored."""
    if outcomes.classes is None or not 0 <= label < len(outcomes.classes):
        return f"class {label}"
    return str(outcomes.classes[label])


class Class(NamedTuple):
    """The images of a class in a cell."""

    images: int
    clean: int  #: images that are correct without an attack
    robust: int


def by_class(result: Result, outcomes: Outcomes) -> dict[str, Class]:
    """Return the counts of every class that has images, by its name."""
    right, labels = outcomes.right(result.identity.attacks_everything), outcomes.labels
    images, clean, robust = (
        np.bincount(labels[kept], minlength=int(labels.max()) + 1).tolist()
        for kept in (np.ones(len(labels), bool), right.clean, right.robust)
    )
    return {
        class_name(outcomes, label): Class(images[label], clean[label], robust[label])
        for label in np.flatnonzero(images).tolist()
    }
