"""The site: the leaderboard, a page for each defense and each dataset, and the docs, as files.

Every page is complete in itself, so that the site works from a folder, without a server. No torch
here.
"""

import ast
import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import pandas as pd

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.files import slug, write_atomically
from zsrobust.core.specs import split_spec
from zsrobust.reporting import curves, figures
from zsrobust.reporting.columns import Entry, above_chance, average, flagged
from zsrobust.reporting.report import rendered
from zsrobust.reporting.report.cells import read_outcomes
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.report.gallery import Sample, samples_of
from zsrobust.reporting.rows import Row, rows
from zsrobust.reporting.standings import (
    REMARK,
    Kind,
    Ranking,
    Standing,
    kind,
    links,
    mean_of_trainings,
    rankings,
)
from zsrobust.reporting.tables import ROWS
from zsrobust.results.cell import Result, Samples
from zsrobust.results.flags import Flag, look_up
from zsrobust.results.identity import deployed_spec
from zsrobust.results.registered import registered
from zsrobust.results.selection import Selection
from zsrobust.results.store import Store
from zsrobust.settings.suites import Suite

PICTURED = 4  #: cells of a page with images in its gallery


@dataclass(frozen=True)
class Line:
    """The cells of a row: a defense under an attack over the datasets of a suite."""

    title: str
    spec: str
    attack: str
    about: str  #: suite, protocol, eps, images, seed
    row: Row
    remark: str
    seeds: Sequence[Row] = ()  #: of other trainings: entries are the mean over all

    @property
    def clean(self) -> Entry:
        """The mean clean accuracy."""
        return self._read(average("clean"))

    @property
    def robust(self) -> Entry:
        """The mean robust accuracy, with the red flags of its cells."""
        return self._read(flagged(average("robust")))

    @property
    def above_chance(self) -> Entry:
        """The mean robust accuracy above chance."""
        return self._read(above_chance("robust"))

    @property
    def name(self) -> str:
        """The name of the defense, which is that of its page."""
        return split_spec(self.spec)[0]

    def only(self, dataset: str) -> "Line":
        """Return the line of one dataset."""
        seeds = [each.only(dataset) for each in self.seeds]
        return replace(self, row=self.row.only(dataset), seeds=seeds)

    @property
    def by_dataset(self) -> list[tuple[str, str, "Line"]]:
        """Each dataset's name and title, and the line of it alone."""
        cells = self.row.cells.items()
        return [(name, str(cell["dataset_title"]), self.only(name)) for name, cell in cells]

    def _read(self, read: Callable[[Row], Entry]) -> Entry:
        return mean_of_trainings([read(row) for row in (self.row, *self.seeds)])


@dataclass(frozen=True)
class Page:
    """A defense's page: every row of its specs."""

    name: str
    title: str
    kind: Kind
    links: Mapping[str, str]
    mechanism: Sequence[str]  #: paragraphs of the module that implements it
    identities: Mapping[str, str]  #: by spec, as JSON: recipe, weights and settings
    lines: Sequence[Line]
    flags: Sequence[Flag]
    curves: Sequence[tuple[str, str]]  #: captions, and SVG in base64
    gallery: Sequence[tuple[str, list[Sample]]]
    standings: Sequence[tuple[Ranking, Standing]]


def write(store: Store, out: Path, own: Sequence[Suite] = (), docs: Path | None = None) -> int:
    """Write the site into a folder and return the number of pages.

    `docs` is a folder of built HTML, which is copied. Raises ZSRobustError if there are no results,
    if a file is not a valid result, and if `docs` has no index.html.
    """
    if docs is not None and not (docs / "index.html").is_file():
        raise ZSRobustError(f"{docs} has no index.html. Build the docs first: tox -e docs")
    found = Collection.load(store, own)
    ranked = rankings(found.frame, list(found.suites.values()))
    pages = {f"defenses/{slug(page.name)}.html": page for page in _defenses(found, ranked)}
    titles = dict(sorted(found.titles.items(), key=lambda each: each[1]))
    common = {"docs": docs is not None, "defenses": list(pages.values()), "datasets": titles}
    texts = {"index.html": rendered("index.html", root="", rankings=ranked, **common)}
    for place, page in pages.items():
        texts[place] = rendered("defense.html", root="../", page=page, **common)
    for name, title in titles.items():
        lines = [line for page in pages.values() for line in page.lines if name in line.row.cells]
        about = _about(found, name)
        texts[f"datasets/{slug(name)}.html"] = rendered(
            "dataset.html", root="../", name=name, title=title, lines=lines, about=about, **common
        )
    for place, text in texts.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / place, text.encode())
    if docs is not None:
        shutil.copytree(docs, out / "docs", dirs_exist_ok=True)
    return len(texts)


def _defenses(found: Collection, ranked: Sequence[Ranking]) -> Iterator[Page]:
    """Yield the page of each defense, by name; its variants are on the same page."""
    names = pd.Series(
        [split_spec(spec)[0] for spec in found.frame["defense"]],
        index=found.frame.index,
    )
    for name, cells in found.frame.groupby(names, sort=True):
        lines = list(_lines(cells, found))
        results = [found.results[str(path)] for path in cells["path"]]
        flags = sorted({flag for result in results for flag in result.flags})
        spec = min((line.spec for line in lines), key=len)
        yield Page(
            name=str(name),
            title=registered()["defenses"].get(str(name), str(cells["defense_title"].iloc[0])),
            kind=kind(spec),
            links=links(str(name)),
            mechanism=_mechanism(str(name)),
            identities=_identities(results),
            lines=lines,
            flags=[look_up(flag) for flag in flags],
            curves=list(_curves(spec, cells, found)),
            gallery=list(_gallery(cells, found)),
            standings=[
                (ranking, each)
                for ranking in ranked
                for each in ranking.standings
                if each.name == name
            ],
        )


def _lines(cells: pd.DataFrame, found: Collection) -> Iterator[Line]:
    columns = ["suite", "protocol", "eps", "attack", "seed"]
    for key, group in cells.groupby(columns, sort=True):
        suite, protocol, eps, attack, seed = map(str, key)
        for limit, part in group.groupby(group["limit"].fillna(0).astype(int)):
            images = f"{limit} images" if limit else "all images"
            about = f"{suite}, {protocol}, eps {eps}, {images} a dataset"
            about += f", seed {seed}" if seed != "0" else ""
            measured = set(part["dataset"])
            known = found.suites[suite]
            chosen = tuple(name for name in known.datasets if name in measured)
            smaller = replace(known, datasets=chosen or tuple(sorted(measured)))
            lines = [
                Line(_title(spec, row), spec, attack, about, row, REMARK if row.oblivious else "")
                for spec, row in rows(part, smaller).items()
            ]
            yield from lines
            yield from _over_trainings(lines)


def _title(spec: str, row: Row) -> str:
    return ROWS.get(spec, str(next(iter(row.cells.values()))["defense_title"]))


def _over_trainings(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield a line for each method with several trainings: the mean over the complete ones."""
    trained: dict[str, list[Line]] = {}
    for line in lines:
        if line.row.mean("robust") is not None:
            method = str(next(iter(line.row.cells.values()))["method"])
            trained.setdefault(method, []).append(line)
    for method, (first, *others) in trained.items():
        if others:
            words = f"mean of {1 + len(others)} training seeds"
            yield replace(
                first,
                title=_title(method, first.row),
                spec=method,
                remark=f"{words}; {first.remark}" if first.remark else words,
                seeds=[line.row for line in others],
            )


def _identities(results: Sequence[Result]) -> dict[str, str]:
    """Return what each spec was made from, as JSON: recipe, checkpoint and settings."""
    made = {deployed_spec(each.identity.defense.spec): each.identity.defense for each in results}
    return {
        spec: json.dumps(dict(defense.details), indent=1, ensure_ascii=False, sort_keys=True)
        for spec, defense in sorted(made.items())
    }


def _curves(spec: str, cells: pd.DataFrame, found: Collection) -> Iterator[tuple[str, str]]:
    """Yield each curve of a defense that is complete, with its caption."""
    own = cells[cells["defense"] == spec]
    for suite in found.suites.values():
        of_suite = own[own["suite"] == suite.name]
        for axis in curves.AXES if suite.attack else ():
            usual = curves.USUAL[axis]
            points = of_suite[of_suite["attack"] == usual] if axis == "eps" else of_suite
            if points["eps" if axis == "eps" else "attack"].nunique() < 2:
                continue
            try:
                made = curves.build(found.frame, Selection.of(suite, attack=usual), axis, [spec])
                if made.found.frame["x"].nunique() < 3:
                    continue  # one strength beside 0
                content = figures.render(made.draw(), ".svg")
            except ZSRobustError:
                continue  # no point is complete
            caption = f"Accuracy against {axis}, {usual}, suite {suite.name}"
            yield caption, base64.b64encode(content).decode()


def _gallery(cells: pd.DataFrame, found: Collection) -> Iterator[tuple[str, list[Sample]]]:
    """Yield images of the first cells that store some, one cell of each dataset."""
    seen: set[str] = set()
    for path, dataset, title, attack in cells[
        ["path", "dataset", "dataset_title", "attack"]
    ].itertuples(index=False):
        if dataset in seen or len(seen) == PICTURED:
            continue
        try:
            stored = Samples.read(Path(path))
        except ZSRobustError:
            continue  # the report says what is wrong with it
        if stored is not None:
            seen.add(dataset)
            outcomes = read_outcomes(found.results[path], Path(path))
            yield f"{title}, {attack}", samples_of(stored, outcomes)


def _about(found: Collection, name: str) -> str:
    """Return a dataset's number of images and of classes."""
    cells = found.frame[found.frame["dataset"] == name]
    classes = sorted({int(each) for each in cells["classes"].dropna()})
    images = counted(int(cells["images"].max()), "image")
    return f"{images} at most, {' or '.join(map(str, classes)) or 'an unknown number of'} classes."


def _mechanism(name: str) -> list[str]:
    """Return the paragraphs of the module that registers a defense; none for a plugin's.

    Only equations, which are indented, keep their lines.
    """
    text = _modules().get(name, "")
    paragraphs = re.split(r"\n\s*\n", text) if text else []
    return [each if each.startswith(" ") else " ".join(each.split()) for each in paragraphs]


@cache
def _modules() -> dict[str, str]:
    """Return the docstrings of the built-in defenses' modules, by defense."""
    found = {}
    for file in resources.files("zsrobust.defenses").iterdir():
        if file.name.endswith(".py"):
            text = file.read_text(encoding="utf-8")
            for name in re.findall(r'register\("(\w+)"\)', text):
                found[name] = ast.get_docstring(ast.parse(text)) or ""
    return found
