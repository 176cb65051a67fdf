"""Anchors: our clean accuracies beside those that others measured. No torch here.

They are compared with, and never a gate: their templates are usually ensembles, ours is one.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import reported
from zsrobust.reporting.claims import published
from zsrobust.reporting.columns import ends, percent, points
from zsrobust.reporting.reported import Anchor
from zsrobust.reporting.rows import UNDEFENDED
from zsrobust.reporting.verdicts import Report, Verdict
from zsrobust.settings.suites import Suite

#: Points beyond our 95% interval that templates explain. Fixed before any comparison: Radford et
#: al. (ICML 2021, section 3.1.4) gain almost 5 points on ImageNet, and on average over 36 datasets,
#: with prompts and ensembles of them against bare class names.
TOLERANCE = 5.0

RULE = (
    "Anchors are compared with, and are no gate. Rule: an anchor agrees if it is within {} points "
    "of our Wilson 95% interval. Their templates are usually ensembles, ours is one. Where sources "
    "disagree, the nearest anchor counts."
)
AVERAGES = (
    "Published robust checkpoints: their README does not name the averaged datasets, ours is the "
    "mean over the measured ones."
)


def off(correct: int, images: int, theirs: Decimal) -> float:
    """Return how many points an accuracy in percent lies outside of our Wilson 95% interval."""
    low, high = (100 * end for end in wilson(correct, images))
    return max(low - float(theirs), float(theirs) - high, 0.0)


def nearest(correct: int, images: int, anchors: Sequence[Anchor]) -> Anchor:
    """Return the anchor with the smallest distance to our accuracy."""
    ours = Fraction(100 * correct, images)
    return min(anchors, key=lambda anchor: abs(Fraction(anchor.percent) - ours))


def check(
    results: pd.DataFrame,
    suite: Suite,
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    limit: int | None = None,
    tolerance: float = TOLERANCE,
) -> Report:
    """Return the verdicts on the clean accuracies of CLIP and of published robust checkpoints.

    `results` is the DataFrame of `load_results`; `keep` and `limit` choose its cells, as in
    `baseline.check`. The attack of a cell does not matter; of several cells on a dataset, the
    one with the most images counts. A cell agrees if the nearest anchor lies in our Wilson 95%
    interval, widened by `tolerance` points. A robust checkpoint agrees if its mean is at most
    `tolerance` points from its authors' mean. Failed cells are left out. Raises ZSRobustError if
    no cell has an anchor.
    """
    cells = results[(results["suite"] == suite.name) & (results["status"] == "ok")]
    if limit is not None:
        cells = cells[(cells["limit"] == limit) | (cells["images"] <= limit)]
    largest = cells.sort_values("images", ascending=False, kind="stable")
    every = largest.drop_duplicates(["defense", "dataset"]).sort_index().to_dict("records")
    records = [cell for cell in every if keep({str(name): each for name, each in cell.items()})]
    plain = [cell for cell in records if cell["defense"] == UNDEFENDED]
    verdicts = [
        _on_dataset(cell, found, tolerance)
        for cell in plain
        if (found := reported.anchors(suite.backbone, cell["dataset"]))
    ]
    rows = [
        _on_average(row, own, tolerance)
        for row in reported.robust_anchors()
        if (own := [cell for cell in records if _is_of(str(cell["defense"]), row["weights"])])
    ]
    if not verdicts and not rows:
        raise ZSRobustError(
            f"No anchor is about these cells: they need the defense {UNDEFENDED} or RobustVLM's "
            f"checkpoints, and a backbone with anchors, not {suite.backbone}. "
            "Next: zsrobust run --suite paper --defense clip --attack pgd10"
        )
    notes = [RULE.format(f"{tolerance:g}"), *([AVERAGES] if rows else [])]
    extra = len(records) - len(verdicts)
    return Report([*verdicts, *rows], tolerance, extra, notes, "Anchor", whole=True)


def _on_dataset(
    cell: Mapping[Hashable, Any], anchors: Sequence[Anchor], tolerance: float
) -> Verdict:
    counts = (int(cell["clean_correct"]), int(cell["images"]))
    anchor = nearest(*counts, anchors)
    beyond = off(*counts, anchor.percent)
    others = [str(each.percent) for each in anchors if each != anchor]
    why = f"{beyond:.2f} points outside of our interval; " if beyond > tolerance else "agrees; "
    why += f"{anchor.dataset_there} of {anchor.source.split()[0]}"
    return Verdict(
        "/".join(Path(cell["path"]).with_suffix("").parts[-4:]),
        "anchor" if beyond <= tolerance else None,
        why + (f"; others print {', '.join(others)}" if others else ""),
        f"{percent(Fraction(*counts))} ({ends(wilson(*counts))})",
        str(anchor.percent),
        points(Fraction(*counts) - Fraction(anchor.percent) / 100),
    )


def _on_average(
    row: Mapping[str, str], cells: Sequence[Mapping[Hashable, Any]], tolerance: float
) -> Verdict:
    shares = [Fraction(int(cell["clean_correct"]), int(cell["images"])) for cell in cells]
    mean = sum(shares, Fraction(0)) / len(shares)
    difference = mean - Fraction(row["clean"]) / 100
    agrees = abs(difference) * 100 <= tolerance
    name = f"mean of {cells[0]['defense']}, {len(cells)} datasets"
    return Verdict(
        name,
        "anchor" if agrees else None,
        "agrees" if agrees else "the means differ by more than the tolerance",
        percent(mean),
        row["clean"],
        points(difference),
        row=True,
    )


def _is_of(defense: str, weights: str) -> bool:
    """Return whether a spec names a published checkpoint: by its entry, or by its file."""
    if defense.startswith("weights:"):
        file = defense.removeprefix("weights:").split(",")[0]
        return weights.rsplit("/", 1)[-1] == file.rsplit("/", 1)[-1]
    return defense in published() and weights.endswith(published()[defense]["where"])
