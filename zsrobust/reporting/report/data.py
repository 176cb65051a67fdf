"""What the page shows, as plain values: cells, views of the leaderboard, and what happened class by class. No torch here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps, parse_eps, split_spec
from zsrobust.reporting.columns import DASH, percent
from zsrobust.reporting.rows import Metric, Row, rows
from zsrobust.reporting.statistics import wilson
from zsrobust.reporting.tables import ROWS
from zsrobust.results.cell import Outcomes, Result
from zsrobust.results.flags import look_up
from zsrobust.results.selection import Selection, known_suite
from zsrobust.results.store import frame_of, outcomes_match, paths, read
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

METRICS: tuple[Metric, ...] = ("robust", "clean")

_WHOLE = 10**12  # more images than any set has: a selection with this limit finds the whole sets


@dataclass(frozen=True)
class Collection:
    """The cells of a results folder, sorted by path, and the suites that they are of, the paper's first."""

    folder: Path
    frame: pd.DataFrame  #: of `load_results`
    results: Sequence[Result]  #: in the order of the frame
    suites: Mapping[str, Suite]

    @classmethod
    def load(cls, folder: Path, own: Sequence[Suite] = ()) -> "Collection":
        """Read a folder; raises ZSRobustError if it holds no results, or something that is none."""
        cells = [(path, read(path)) for path in paths(folder)]
        frame = frame_of(cells)
        if frame.empty:
            raise ZSRobustError(
                f"{folder} holds no results. Make some: zsrobust run --suite mini --attack pgd10"
            )
        known = {suite.name: suite for suite in own}
        ours = suites.names()
        names = sorted(
            frame["suite"].unique(),
            key=lambda name: (name != suites.DEFAULT, name not in ours, name),
        )
        return cls(
            folder,
            frame,
            [result for _, result in cells],
            {name: known.get(name) or known_suite(name, _datasets(frame, name)) for name in names},
        )

    def place(self, cell: Mapping[Any, Any]) -> str:
        """Return where a cell's JSON is, relative to the folder."""
        return Path(cell["path"]).relative_to(self.folder).as_posix()


def _datasets(frame: pd.DataFrame, suite: str) -> list[str]:
    return sorted(frame[frame["suite"] == suite]["dataset"].unique())


class Pool:
    """Values told apart by number, so that what thousands of cells share stands in the page once."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        """Return the number of a value of JSON, added to the others if it is new."""
        key = repr(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def cells(found: Collection) -> dict[str, Any]:
    """Return every cell with all that is known of it; the identities' parts, versions and flags by number in `pool`."""
    pool = Pool()
    described = [
        _cell(result, found.place(record), pool)
        for result, record in zip(found.results, found.frame.to_dict("records"), strict=True)
    ]
    return {"cells": described, "pool": pool.values}


def _cell(result: Result, place: str, pool: Pool) -> dict[str, Any]:
    counts = {"robust": result.robust_correct, "clean": result.clean_correct}
    optional = {
        "flags": [pool.number(look_up(flag).sentence) for flag in result.flags],
        "messages": result.messages,
        "training": pool.number(result.training) if result.training else None,
        "error": result.error,
        "sha256": result.outcomes,
    }
    return {
        "identity": {key: pool.number(value) for key, value in result.identity.items()},
        "images": result.images,
        **(
            {metric: [count, *_number(count, result.images)] for metric, count in counts.items()}
            if _counts(result)
            else {}
        ),
        "seconds": result.seconds,
        "passes": [result.forward, result.backward],
        "device": pool.number(result.device),
        "versions": pool.number(result.versions),
        "path": place,
        **{key: value for key, value in optional.items() if value not in (None, [])},
    }


def _counts(result: Result) -> bool:
    return result.status == "ok"


def _number(correct: int, images: int) -> tuple[str, str, str]:
    """Return an accuracy as percent, as the tables print it, and the ends of its Wilson interval."""
    low, high = wilson(correct, images)
    return percent(Fraction(correct, images)), f"{100 * low:.1f}", f"{100 * high:.1f}"


def views(found: Collection) -> list[dict[str, Any]]:
    """Return every view of the leaderboard: one suite, protocol, attack, eps, seed, and choice of images."""
    place = {str(path): number for number, path in enumerate(found.frame["path"])}
    return [
        view
        for suite in found.suites.values()
        for asked in _asked(found.frame, suite)
        for view in _views(found.frame, suite, *asked, place)
    ]


def _asked(frame: pd.DataFrame, suite: Suite) -> list[tuple[str, str, str, int]]:
    """Return the protocols, attacks, bounds and seeds that a suite has cells of; what the tables print comes first."""
    keys = frame[frame["suite"] == suite.name][
        ["protocol", "attack", "eps", "seed"]
    ].drop_duplicates()
    usual = format_eps(suite.attack["eps"]) if "eps" in suite.attack else ""

    def order(key: tuple[str, str, str, int]) -> tuple[Any, ...]:
        protocol, attack, eps, seed = key
        return (
            protocol != "sound",
            protocol,
            attack != "pgd10",
            attack,
            eps != usual,
            parse_eps(eps),
            seed,
        )

    return sorted(
        ((str(p), str(a), str(e), int(s)) for p, a, e, s in keys.itertuples(index=False)), key=order
    )


def _views(
    frame: pd.DataFrame,
    suite: Suite,
    protocol: str,
    attack: str,
    eps: str,
    seed: int,
    place: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    of_seed = frame[frame["seed"] == seed].assign(seed=0)
    usual = suite.limits.get(split_spec(attack)[0])
    chosen = {"protocol": protocol, "attack": attack, "eps": eps}

    shown = Selection(suite=suite, attack=attack, eps=parse_eps(eps), protocol=protocol)

    def cells_of(limit: int | None) -> pd.DataFrame:
        return replace(shown, limit=limit).cells(of_seed)

    everything = cells_of(_WHOLE)
    of_these = (of_seed["suite"] == suite.name) & (of_seed["protocol"] == protocol)
    of_these &= (of_seed["attack"] == attack) & (of_seed["eps"] == eps)
    limits = sorted(int(limit) for limit in set(of_seed[of_these]["limit"].dropna()) - {usual})
    choices = [("suite", f"{usual} a dataset" if usual else "all", cells_of(None))]
    if usual and (everything["images"] > usual).any():
        choices.append(("all", "all", everything))
    choices += [(str(limit), f"{limit} a dataset", cells_of(limit)) for limit in limits]
    titles = {
        str(name): str(title)
        for name, title in zip(frame["dataset"], frame["dataset_title"], strict=True)
    }
    for images, label, selected in choices:
        if not selected.empty:
            key = {"suite": suite.name, **chosen, "images": images, "seed": str(seed)}
            yield {"key": key, "label": label, **_leaderboard(selected, suite, titles, place)}


def _leaderboard(
    selected: pd.DataFrame, suite: Suite, titles: Mapping[str, str], place: Mapping[str, int]
) -> dict[str, Any]:
    more = sorted(
        set(map(str, selected["dataset"])) - set(suite.datasets)
    )  # measured, but in no mean
    columns = [*suite.datasets, *more]
    found = rows(selected, suite)
    known = {
        spec: str(next(iter(row.cells.values()))["defense_title"]) for spec, row in found.items()
    }
    others = sorted(found.keys() - ROWS.keys(), key=lambda spec: (known[spec], spec))
    order = [spec for spec in ROWS if spec in found] + others
    zero_shot = suite.train_on in suite.datasets
    lines = [
        _line(spec, ROWS.get(spec, known[spec]), found[spec], columns, zero_shot, place)
        for spec in order
    ]
    return {
        "title": suite.title,
        "columns": [[name, titles.get(name, name)] for name in columns],
        "more": len(more),
        "trained": titles.get(suite.train_on, suite.train_on) if zero_shot else None,
        "rows": lines,
        "best": {metric: _best(metric, found, lines, columns) for metric in METRICS},
    }


def _line(
    spec: str,
    title: str,
    row: Row,
    columns: Sequence[str],
    zero_shot: bool,
    place: Mapping[str, int],
) -> dict[str, Any]:
    kinds = (False, True) if zero_shot else (False,)
    epochs = [
        seconds for cell in row.cells.values() if not pd.isna(seconds := cell["epoch_seconds"])
    ]
    return {
        "defense": spec,
        "title": title,
        "cells": [
            place[row.cells[name]["path"]] if name in row.cells else None for name in columns
        ],
        "means": {metric: [_mean(row, metric, zero) for zero in kinds] for metric in METRICS},
        "time": f"{epochs[0]:.1f}" if epochs else DASH,
        **({"mixed": True} if row.mixed else {}),
        **({"oblivious": True} if row.oblivious else {}),
    }


def _mean(row: Row, metric: Metric, zero_shot: bool) -> dict[str, Any] | None:
    if (
        not row.suite.attack
    ):  # of a suite that is not known, nobody knows whether its datasets are all here
        return None
    mean, interval = row.mean(metric, zero_shot), row.interval(metric, zero_shot)
    if mean is None or interval is None:
        return None
    low, high = (f"{100 * end:.1f}" for end in interval)
    return {"share": float(mean), "text": percent(mean), "low": low, "high": high}


def _best(
    metric: Metric,
    found: Mapping[str, Row],
    lines: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
) -> list[Any]:
    """Return the best share of each mean and then each dataset; None where fewer than two methods have one.

    A row of an oblivious attack is never the best.
    """
    rivals = {spec: row for spec, row in found.items() if not row.oblivious}
    places = range(len(lines[0]["means"][metric])) if lines else ()
    of_rivals = [line["means"][metric] for line in lines if line["defense"] in rivals]
    means = [[mean["share"] for each in of_rivals if (mean := each[place])] for place in places]
    shares = [
        [share for row in rivals.values() if (share := row.share(name, metric)) is not None]
        for name in columns
    ]
    return [float(max(each)) if len(each) > 1 else None for each in [*means, *shares]]


def static_rows(page: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Return the first view as text: titles, and numbers with whether they are the best of their column."""
    view, described = page["views"][0], page["cells"]
    best = view["best"]["robust"]
    shown = []
    for line in view["rows"]:
        entries = [
            (mean["text"], mean["share"]) if mean else (DASH, math.nan)
            for mean in line["means"]["robust"]
        ]
        for number in line["cells"]:
            cell = {} if number is None else described[number]
            count = cell.get("robust")
            entries.append((count[1], count[0] / cell["images"]) if count else (DASH, math.nan))
        rival = "oblivious" not in line
        marked = [
            (text, rival and share == top) for (text, share), top in zip(entries, best, strict=True)
        ]
        shown.append((line["title"], marked))
    return shown


def read_outcomes(result: Result, path: Path) -> Outcomes | str:
    """Return the outcomes beside a result, or why there are none."""
    if result.status != "ok":
        return "The cell failed."
    try:
        outcomes = Outcomes.read(path)
    except ZSRobustError as error:
        return str(error)
    if not outcomes_match(result, path):
        return f"{path.with_suffix('.npz').name} is not what this cell was counted from. Run the cell again."
    return outcomes


def class_name(outcomes: Outcomes, label: int) -> str:
    """Return a class's name, or its number where names are not stored."""
    named = outcomes.classes is not None and 0 <= label < len(outcomes.classes)
    return (
        str(outcomes.classes[label]) if named and outcomes.classes is not None else f"class {label}"
    )


def by_class(result: Result, outcomes: Outcomes, pool: Pool) -> list[Any]:
    """Return the number of a list of classes and their images in `pool`, and how many were right, clean and robust."""
    most = max(
        len(outcomes.classes) if outcomes.classes is not None else 0, int(outcomes.labels.max()) + 1
    )
    images = np.bincount(outcomes.labels, minlength=most)
    present = np.flatnonzero(images)
    classes = [[class_name(outcomes, int(label)), int(images[label])] for label in present]
    counts = [
        np.bincount(outcomes.labels[kept], minlength=most)[present].tolist()
        for kept in outcomes.right(result.everything)
    ]
    return [pool.number(classes), *counts]
