"""Tables that fit a terminal, and the progress of a run on a terminal and in a log."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console
from test_results import make, outcomes

from zsrobust import results
from zsrobust.cli.pages import print_page
from zsrobust.cli.progress import Lines
from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting.columns import Entry
from zsrobust.reporting.formats import Page, render
from zsrobust.running.bars import Bars, Live
from zsrobust.running.plan import Key
from zsrobust.settings import suites

LONG = "et3:knowledge=oblivious,of=tecoa:lr=1e-4,epochs=3,limit=2048"
LONGER = "pgd:early_stop=false,loss=margin,random_start=false,restarts=2,steps=2"
NUMBER = re.compile(r"\d+\.\d\d")
MINI = suites.load("mini")


@pytest.fixture
def stored(tmp_path):
    """Cells of all sixteen datasets and two defenses, with every number its own."""
    for row, defense in enumerate(("clip", "tecoa")):
        for place, name in enumerate(MINI.datasets):
            flags = ["zero_gradients"] if place == row else []
            cell = make(
                defense,
                name,
                images=997,
                clean_correct=900 + place,
                robust_correct=100 * row + place,
                flags=flags,
            )
            results.write(cell, outcomes(), tmp_path / "results")
    return tmp_path


def lines_of(printed):
    return printed.splitlines()


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_table_fits_the_terminal_and_has_every_column_and_number(zsrobust, stored, columns):
    command = ("table", "1", "--suite", "mini")
    wide = zsrobust(*command, "--format", "csv").stdout
    shown = zsrobust(*command, "--format", "terminal", COLUMNS=columns).stdout
    assert max(map(cell_len, lines_of(shown))) <= int(columns)
    header, *rows = wide.splitlines()
    for row in rows:
        method, *numbers = row.split(",")
        if method in ("CLIP", "FT-TeCoA"):
            own = [line for line in lines_of(shown) if line.startswith(f"│ {method} ")]
            found = [each for line in own for each in NUMBER.findall(line)]
            assert sorted(found) == sorted(each for each in numbers if NUMBER.fullmatch(each))
    words = " ".join(lines_of(shown))
    assert all(title in words for title in header.replace('"', "").replace(",", " ").split())
    first = next(line for line in lines_of(shown) if "Average" in line)
    assert "Shapes" not in first  # the averages have their own block
    assert lines_of(shown).index(first) < min(
        place for place, line in enumerate(lines_of(shown)) if "Shapes" in line
    )


@pytest.mark.parametrize("columns", ["80", "120"])
def test_intervals_and_long_names_fit_as_well(columns):
    entries = [
        Entry(f"{n}.25", interval=(0.0125, 0.9875), notes=("a note",), mark="↓") for n in range(20)
    ]
    page = Page(
        "A caption",
        ["Method", "Eps", *(f"Robust, above chance {n}" for n in range(20))],
        [(LONG, [Entry("12/255"), *entries])],
        ["words " * 60],
        intervals=True,
        leads=1,
    )
    out = io.StringIO()
    print_page(page, Console(file=out, width=int(columns)))
    shown = out.getvalue().splitlines()
    assert max(map(cell_len, shown)) <= int(columns)
    for n in range(20):
        assert any(f" {n}.25 ↓ (1.25–98.75) [1] " in line for line in shown)
    assert sum("12/255" in line for line in shown) > 1  # every block has what distinguishes rows


@pytest.mark.parametrize("columns", ["80", "120"])
def test_what_a_run_prints_at_its_end_fits_the_terminal(zsrobust, columns):
    run = ("run", "--suite", "mini", "--limit", "4", "--attack", "pgd2")
    data = ("--dataset", "mini_cells", "--dataset", "mini_handwriting")
    one = zsrobust(*run, *data, "--defense", "clip", COLUMNS=columns)
    shown = [line for line in lines_of(one.stdout) if line[:1] in "┏┃┡│└"]
    assert max(map(cell_len, shown)) <= int(columns)
    text = " ".join(shown)
    assert all(
        word in text for word in ("Images", "Clean", "Robust", "Handwriting", "average of 2")
    )
    several = zsrobust(*run, *data, "--defense", "clip", "--attack", LONGER, COLUMNS=columns).stdout
    shown = [line for line in lines_of(several) if line[:1] in "┏┃┡│└"]
    assert max(map(cell_len, shown)) <= int(columns)
    assert all(word in " ".join(shown) for word in ("Attack", "Images", "Clean", "Robust"))


def test_columns_are_chosen_by_name_or_title_and_checked(zsrobust, stored):
    command = ("table", "1", "--suite", "mini")
    chosen = zsrobust(*command, "--columns", "Average, mini_cells,Zero-shot above chance").stdout
    header = next(line for line in lines_of(chosen) if line.startswith("| Method"))
    titles = [each.strip() for each in header.strip("|").split("|")]
    assert titles == ["Method", "Average", "Cells", "Zero-shot, above chance"]
    refused = zsrobust(*command, "--columns", "mini_cels", ok=2).stderr
    assert "Unknown column 'mini_cels'. Did you mean mini-cells? Columns: " in refused


def test_a_pipe_gets_markdown_and_format_replaces_it(zsrobust, stored):
    command = ("table", "1", "--suite", "mini")
    assert zsrobust(*command).stdout == zsrobust(*command, "--format", "md").stdout
    assert zsrobust(*command, "--format", "tex").stdout.startswith("% Table 1")
    refused = zsrobust(*command, "--format", "terminal", "--out", "t.md", ok=2).stderr
    assert "Leave out --out" in refused


def test_an_interval_has_the_digits_of_its_number():
    page = Page("", ["Method", "A"], [("x", [Entry("33.3", interval=(0.1234, 0.5))])], [], True)
    assert "33.3 (12.3–50.0)" in render(page, ".md")
    assert Entry("33.33", interval=(0.1234, 0.5)).ends == "12.34–50.00"
    with pytest.raises(ZSRobustError, match="Unknown column 'b'"):
        page.narrowed(["b"])


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self):
        return self.now


def cell(defense="clip"):
    """What a reporter reads of a cell: its names."""
    return SimpleNamespace(key=Key(defense, "pgd10", 6 / 255, "mini_cells", None, 0))


def test_a_log_has_a_line_for_each_cell_and_every_30_seconds():
    clock, lines = Clock(), []
    shown = Lines(lines.append, clock)
    shown.cells(600)
    clock.now += 20
    shown.judged(cell(), 200)
    assert lines == ["attacking 600 images"]
    clock.now += 10
    shown.tick()
    assert lines[1:] == [
        "attacking (clip, pgd10 6/255, mini_cells): 200 of 600 images done, 400 left, ETA 1:00"
    ]
    shown.judged(cell(), 100)
    shown.finishing(cell(), "looking for red flags")
    clock.now += 29
    shown.tick()
    assert len(lines) == 2
    clock.now += 1
    shown.tick()
    assert lines[2] == (
        "looking for red flags (clip, pgd10 6/255, mini_cells): "
        "300 of 600 images done, 300 left, ETA 1:00"
    )
    shown.stored(make("clip", "mini_cells", images=300, clean_correct=150, robust_correct=100))
    assert lines[3].startswith(
        "clip, pgd10 6/255, mini_cells: clean 50.00, robust 33.33; 300 of 600"
    )
    shown.elsewhere(
        cell("tecoa"),
        make("tecoa", "mini_cells", images=300, clean_correct=150, robust_correct=100),
    )
    assert lines[4] == (
        "tecoa, pgd10 6/255, mini_cells: clean 50.00, robust 33.33; 600 of 600 images done, 0 left, ETA 0:00"
    )
    assert (shown.computed, len(shown.fresh)) == (300, 1)  # another run's cells are not its own
    shown.helped = True
    shown.elsewhere(cell("fare"), make("fare", "mini_cells", images=300))
    assert (shown.computed, len(shown.fresh)) == (600, 2)


def test_images_are_counted_to_the_end_when_a_defense_comes_late():
    clock, lines = Clock(), []
    shown = Lines(lines.append, clock)
    shown.cells(600)
    shown.judged(cell(), 200)
    shown.cells(300)  # another process had trained it
    assert lines == ["attacking 600 images", "attacking 300 images more"]
    shown.elsewhere(cell("tecoa"), make("tecoa", "mini_cells", images=400))
    assert "600 of 900 images done, 300 left" in lines[2]
    shown.judged(cell(), 300)
    shown.cells(100)
    assert lines[3] == "attacking 100 images"


def test_a_log_says_the_steps_of_a_training_that_continues():
    clock, lines = Clock(), []
    shown = Lines(lines.append, clock)
    clock.now += 30
    shown.tick()
    assert lines == ["preparing the run"]  # nothing else is known yet
    shown.training("tecoa", 40, 100, "loss 2.00")
    clock.now += 30
    shown.training("tecoa", 60, 100, "loss 1.00")
    assert lines[1:] == ["training tecoa: step 60 of 100, ETA 1:00; loss 1.00"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_bars_keep_count_and_eta_whatever_the_names(width):
    clock, out = Clock(), io.StringIO()
    bars = Bars(Console(file=out, width=width, force_terminal=True, color_system=None))
    shown = Live(bars, clock)
    shown.training(LONG, 0, 1250, "loss 2.00")
    shown.cells(100_000)
    shown.cells(23_456)  # more, in the same bar
    clock.now += 3600
    shown.training(LONG, 250, 1250, "loss 1.00")
    shown.preparing("downloading timm/a_very_long_name_of_a_repository", 10**9, 4 * 10**9)
    shown.judged(cell(LONG), 61_728)
    shown.finishing(cell(LONG), "looking for red flags: gradients, step 2 of 3")
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(bars.get_renderable())
    bars.stop()
    drawn = captured.get().splitlines()
    assert max(map(cell_len, drawn)) <= width
    assert any("250/1250" in line and "ETA 4:00:00" in line for line in drawn)
    assert any("61728/123456" in line and "ETA 1:00:00" in line for line in drawn)
    assert any("1000000000/4000000000" in line for line in drawn)
    assert drawn[-1].startswith("looking for red flags: gradients, step 2 of 3 (et3:")
    assert len(drawn) == 4
