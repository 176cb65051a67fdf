"""The views of the leaderboard, one for each selection of cells. No torch here."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from zsrobust.core.specs import parse_eps, split_spec
from zsrobust.reporting.columns import Column, Entry, filled, leaderboard
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.rows import METRICS, Metric, Row, rows
from zsrobust.reporting.tables import ROWS
from zsrobust.results.selection import Selection
from zsrobust.settings import protocols
from zsrobust.settings.suites import Suite

_WHOLE = 10**12  # more images than any set has: a selection with this limit finds the whole sets


@dataclass(frozen=True)
class Method:
    """What to call a row: a title, and the spec where the title does not identify it."""

    title: str
    spec: str

    @property
    def name(self) -> str:
        """Both in one line."""
        return f"{self.title} ({self.spec})" if self.spec else self.title


@dataclass(frozen=True)
class Board:
    """A table of a view, for one metric."""

    metric: Metric
    columns: Sequence[Column]
    lines: Sequence[tuple[Method, Sequence[Entry]]]


@dataclass(frozen=True)
class View:
    """A view of the leaderboard: what it is of, and its tables."""

    key: Mapping[
        str, str
    ]  #: suite, protocol, attack, eps, images, seed: what the filters choose by
    label: str  #: of the images
    boards: Sequence[Board]
    datasets: Mapping[str, str]  #: titles by name
    cells: Mapping[str, Sequence[tuple[Method, str]]]  #: by dataset: path of each method's cell
    notes: Sequence[str]  #: what is printed below

    @property
    def title(self) -> str:
        """What the view is of, in one line."""
        seed = "" if self.key["seed"] == "0" else f", seed {self.key['seed']}"
        return (
            f"suite {self.key['suite']}, protocol {self.key['protocol']}, attack "
            f"{self.key['attack']}, "
            f"eps {self.key['eps']}, images: {self.label}{seed}"
        )


def views(found: Collection) -> list[View]:
    """Return every view of a collection; what the tables print comes first."""
    return [
        _view(cells, selection, images, label, found.titles)
        for suite in found.suites.values()
        for selection, group in _selections(found.frame, suite)
        for images, label, cells in _choices(group, selection)
        if not cells.empty
    ]


def _selections(frame: pd.DataFrame, suite: Suite) -> list[tuple[Selection, pd.DataFrame]]:
    """Return the protocols, attacks, bounds and seeds of a suite, and their cells."""
    found = []
    cells = frame[frame["suite"] == suite.name]
    for key, group in cells.groupby(["protocol", "attack", "eps", "seed"]):
        protocol, attack, eps, seed = map(str, key)
        selection = Selection(
            suite=suite, protocol=protocol, attack=attack, eps=parse_eps(eps), seed=int(seed)
        )
        found.append((selection, group))

    def order(each: tuple[Selection, pd.DataFrame]) -> tuple[Any, ...]:
        shown, _ = each
        return (
            shown.protocol != protocols.DEFAULT,
            shown.protocol,
            shown.attack != "pgd10",
            shown.attack,
            not shown.usual,
            shown.eps,
            shown.seed,
        )

    return sorted(found, key=order)


def _choices(group: pd.DataFrame, selection: Selection) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Return name, label and cells of each choice of images, the suite's own first."""
    usual = selection.suite.limits.get(split_spec(selection.attack)[0])
    yield "suite", f"{usual} a dataset" if usual else "all", selection.cells(group)
    everything = replace(selection, limit=_WHOLE).cells(group)
    if usual and (everything["images"] > usual).any():
        yield "all", "all", everything
    for limit in sorted(set(group["limit"].dropna().astype(int)) - {usual}):
        cells = replace(selection, limit=int(limit)).cells(group)
        yield str(limit), f"{limit} a dataset", cells


def _view(
    cells: pd.DataFrame,
    selection: Selection,
    images: str,
    label: str,
    titles: Mapping[str, str],
) -> View:
    suite = selection.suite
    more = sorted(set(map(str, cells["dataset"])) - set(suite.datasets))
    datasets = {name: titles.get(name, name) for name in (*suite.datasets, *more)}
    found = rows(cells, suite)
    methods = _methods(found)
    zero_shot = suite.train_on in suite.datasets
    boards = []
    for metric in METRICS:
        columns = leaderboard(datasets, metric, zero_shot)
        entries = filled(columns, [found[spec] for spec in methods])
        boards.append(Board(metric, columns, list(zip(methods.values(), entries, strict=True))))
    notes = []
    if suite.title != suite.name:
        notes.append(f"{suite.name}: {suite.title}.")
    if zero_shot:
        trained = datasets[suite.train_on]
        notes.append(f"Zero-shot: the average without {trained}, which was trained on.")
    if more:
        notes.append(f"Not part of any mean: {', '.join(datasets[name] for name in more)}.")
    return View(
        key={
            "suite": suite.name,
            "protocol": selection.protocol,
            "attack": selection.attack,
            "eps": selection.bound,
            "images": images,
            "seed": str(selection.seed),
        },
        label=label,
        boards=boards,
        datasets=datasets,
        cells={
            name: [
                (method, str(found[spec].cells[name]["path"]))
                for spec, method in methods.items()
                if name in found[spec].cells
            ]
            for name in datasets
        },
        notes=notes,
    )


def _methods(found: Mapping[str, Row]) -> dict[str, Method]:
    """Return the rows' titles: the paper's in its order, then the others."""
    titles = {
        spec: str(next(iter(row.cells.values()))["defense_title"]) for spec, row in found.items()
    }
    others = sorted(found.keys() - ROWS.keys(), key=lambda spec: (titles[spec], spec))
    methods = {}
    for spec in [*(spec for spec in ROWS if spec in found), *others]:
        title = ROWS.get(spec, titles[spec])
        plain = spec == title or re.fullmatch("[a-z_]+", spec)
        methods[spec] = Method(title, "" if plain else spec)
    return methods
