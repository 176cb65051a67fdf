"""What the repository stores of the mini suite: whole, complete, and the same as what is printed from it."""

from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from zsrobust import load_results, results
from zsrobust.reporting import figures, formats, tables
from zsrobust.reporting.columns import percent
from zsrobust.reporting.rows import rows
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results"
NUMBERS = list(tables.TABLES)
FIGURES = list(figures.FIGURES)


@pytest.fixture(scope="module")
def frame():
    return load_results(STORED)


def page(frame, number):
    suite = suites.load(tables.suite_name(number, suites.load("mini")))
    return tables.build(number, frame, Selection.of(suite))


def test_every_cell_is_there_whole_and_of_todays_format(frame):
    suite = suites.load("mini")
    needs = [
        (tables.suite_name(number, suite), need)
        for number in NUMBERS
        for need in tables.needs(number, suites.load(tables.suite_name(number, suite)))
    ]
    needs += [(suite.name, need) for number in FIGURES for need in figures.needs(number, suite)]
    for name, need in needs:
        row = frame[
            (frame["suite"] == name)
            & (frame["defense"] == need.defense)
            & (frame["attack"] == need.attack)
        ]
        shown = need.datasets(suites.load(name))
        assert set(shown) <= set(row["dataset"]), (name, need)
    assert set(frame["status"]) == {"ok"}
    for path in results.paths(STORED):
        result = results.read(path)
        # `test_forged` verifies what the files say.
        assert path.with_suffix(".samples.npz").exists() or not result.clean_correct
        assert result.checks


@pytest.mark.parametrize("number", NUMBERS)
def test_the_tables_are_those_of_the_cells(frame, number):
    made = page(frame, number)
    for _, entries in made.rows:
        for title, entry in zip(made.header[1:], entries, strict=True):
            # CLIP and mixtures take no training step; weights cost nothing at test time.
            assert entry.text != "—" or title in {"Memory (MiB)", "Passes", "Added (ms)"}
    for suffix in (".md", ".tex", ".csv"):
        stored = STORED / "mini" / f"table{number if number.isdigit() else f'_{number}'}{suffix}"
        assert formats.render(made, suffix) == stored.read_text(encoding="utf-8")


def averages(frame):
    """The table of the README: averages of each method, computed from the stored cells."""
    suite = suites.load("mini")
    attacked = rows(Selection.of(suite).cells(frame), suite)
    strongest = rows(Selection.of(suite, attack="autoattack").cells(frame), suite)
    for spec, title in {**tables.ROWS, "fare": "FARE"}.items():
        row, other = attacked[spec], strongest.get(spec)
        means = [row.mean("clean"), row.mean("robust"), row.mean("robust", zero_shot=True)]
        means.append(other.mean("robust") if other else None)
        yield [title, *("—" if mean is None else percent(mean) for mean in means)]


def test_the_readme_shows_the_averages_of_the_stored_cells(frame):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    assert [[each.strip() for each in line.strip("|").split("|")] for line in table] == list(
        averages(frame)
    )


@pytest.mark.parametrize("number", FIGURES)
def test_the_figures_are_those_of_the_cells(frame, number):
    told = figures.describe(number, frame, Selection.of(suites.load("mini"))).partition("\n")[2]
    stored = (STORED / "mini" / f"figure{number}.svg").read_text(encoding="utf-8")
    assert escape(told) in stored
