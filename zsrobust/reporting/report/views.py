"""The views of the leaderboard: one for each selection of cells. No torch here."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from zsrobust.core.specs import parse_eps, split_spec
from zsrobust.reporting.columns import UNAWARE, Column, Entry, costs, filled, leaderboard
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.rows import METRICS, Metric, Row, rows
from zsrobust.reporting.tables import ROWS
from zsrobust.results.selection import Selection
from zsrobust.settings import protocols
from zsrobust.settings.suites import Suite

#: More images than any dataset has. A selection with this limit chooses whole datasets.
WHOLE = 10**12


@dataclass(frozen=True)
class Method:
    """The name of a row: a title, and the spec if the title does not identify the defense."""

    title: str
    spec: str
    about: str = ""  #: a remark on the row

    @property
    def name(self) -> str:
        """The title and the spec in one line."""
        return f"{self.title} ({self.spec})" if self.spec else self.title


@dataclass(frozen=True)
class Board:
    """A table of a view, for one metric."""

    metric: Metric
    columns: Sequence[Column]
    lines: Sequence[tuple[Method, Sequence[Entry]]]


@dataclass(frozen=True)
class View:
    """A view of the leaderboard: the values of its filters, and its tables."""

    key: Mapping[str, str]  #: suite, protocol, attack, eps, images and seed, as in the filters
    label: str  #: the words for `images`
    boards: Sequence[Board]
    datasets: Mapping[str, str]  #: titles by name
    cells: Mapping[str, Sequence[tuple[Method, str]]]  #: methods and paths of cells, by dataset
    notes: Sequence[str]  #: sentences below the tables

    @property
    def title(self) -> str:
        """The values of the filters in one line."""
        named = [f"{name} {self.key[name]}" for name in ("suite", "protocol", "attack", "eps")]
        seed = [] if self.key["seed"] == "0" else [f"seed {self.key['seed']}"]
        return ", ".join([*named, f"images: {self.label}", *seed])


def views(found: Collection) -> list[View]:
    """Return every view of a collection; the cells of the paper's tables come first."""
    return [
        _view(cells, selection, images, label, found.titles)
        for suite in found.suites.values()
        for selection, group in _selections(found.frame, suite)
        for images, label, cells in _choices(group, selection)
        if not cells.empty
    ]


def _selections(frame: pd.DataFrame, suite: Suite) -> list[tuple[Selection, pd.DataFrame]]:
    """Return a selection for each protocol, attack, eps and seed of a suite, and its cells."""
    found = []
    cells = frame[frame["suite"] == suite.name]
    for key, group in cells.groupby(["protocol", "attack", "eps", "seed"]):
        protocol, attack, eps, seed = map(str, key)
        selection = Selection(
            suite=suite, protocol=protocol, attack=attack, eps=parse_eps(eps, None), seed=int(seed)
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
    """Yield the name, label and cells of each choice of images; the suite's own comes first."""
    usual = selection.suite.limits.get(split_spec(selection.attack)[0])
    yield "suite", f"{usual} a dataset" if usual else "all", selection.cells(group)
    everything = replace(selection, limit=WHOLE).cells(group)
    if usual and (everything["images"] > usual).any():
        yield "all", "all", everything
    for limit in sorted(set(group["limit"].dropna().astype(int)) - {usual}):
        cells = replace(selection, limit=int(limit)).cells(group)
        yield str(limit), f"{limit} a dataset", cells


def _view(
    cells: pd.DataFrame, selection: Selection, images: str, label: str, titles: Mapping[str, str]
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
        notes.append(f"Zero-shot: the average without {trained}, the target dataset of training.")
    notes.append(
        "Above chance: the mean of (accuracy - chance) / (1 - chance), at least 0 for a dataset. "
        "Chance is the share of the most frequent class, which a constant answer scores."
    )
    notes += costs((method.name, found[spec]) for spec, method in methods.items())
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
    """Return the method of each row: the paper's rows in its order, then the others."""
    cells = {spec: next(iter(row.cells.values())) for spec, row in found.items()}
    titles = {spec: str(cell["defense_title"]) for spec, cell in cells.items()}
    others = sorted(found.keys() - ROWS.keys(), key=lambda spec: (titles[spec], spec))
    methods = {}
    for spec in [*(spec for spec in ROWS if spec in found), *others]:
        title = ROWS.get(spec, titles[spec])
        plain = spec == title or re.fullmatch("[a-z_]+", spec)
        about = f"{UNAWARE}; not ranked" if found[spec].oblivious else ""
        methods[spec] = Method(title, "" if plain else spec, about)
    return methods
