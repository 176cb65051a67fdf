"""What a run prints: the columns that tables and the report share."""

import pytest
from test_results import make, outcomes

from zsrobust import results
from zsrobust.cli import display
from zsrobust.core.intervals import wilson
from zsrobust.reporting import columns
from zsrobust.reporting.statistics import mean_interval
from zsrobust.results.store import Store
from zsrobust.running.reporter import Reporter


class Shown(Reporter):
    """A run in which nothing was computed."""

    computed = 0
    fresh: list[results.Result] = []  # noqa: RUF012  # never changed


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def run(*cells, folder=tmp_path):
        for cell in cells:
            kept = None if cell.status == "failed" else outcomes()
            results.write(cell, kept, folder)
        display.print_results(cells, Shown(), Store(folder))
        return capsys.readouterr().out

    return run


def entries(printed, title):
    """The entries of the line that begins with a title."""
    (line,) = (line for line in printed.splitlines() if line.startswith(f"│ {title} "))
    return [entry.strip() for entry in line.strip("│").split("│")][1:]


def interval(correct, images):
    return f"({columns.ends(wilson(correct, images))})"


def test_one_defense_is_a_line_a_dataset_and_their_average(run):
    cells = [
        make("tecoa", "mini_a", images=4, clean_correct=3, robust_correct=1),
        make("tecoa", "mini_b", images=8, clean_correct=8, robust_correct=2),
    ]
    printed = run(*cells)
    assert entries(printed, "A")[:3] == ["4", f"75.00 {interval(3, 4)}", f"25.00 {interval(1, 4)}"]
    assert entries(printed, "A")[3] == "66.67  16.67"
    ends = columns.ends(mean_interval([(1, 4), (2, 8)]))
    assert entries(printed, "average of 2")[2] == f"25.00 ({ends})"


def test_several_defenses_are_a_line_each_and_a_failed_cell_leaves_no_average(run):
    printed = run(
        make("clip", "mini_a", images=4, clean_correct=4, robust_correct=0),
        make("tecoa", "mini_a", images=4, clean_correct=3, robust_correct=1),
        make(
            "tecoa",
            "mini_b",
            images=4,
            clean_correct=0,
            robust_correct=0,
            status="failed",
            error="Traceback\nCheatError: [/red]",
        ),
    )
    assert entries(printed, "clip")[1:] == ["4", "100.00", "0.00"]
    assert entries(printed, "tecoa")[1:] == ["8", "—", "—"]
    assert "failed: CheatError: [/red]" in printed


@pytest.mark.parametrize("error", [None, "", " \n"])
def test_a_failed_cell_without_a_stored_error_is_printed(run, error):
    printed = run(make("tecoa", "mini_a", status="failed", error=error))
    assert "failed: no error is stored (" in printed


def test_names_are_never_markup(run, tmp_path):
    printed = run(make("weights:path=[/x]", "mini_a"), folder=tmp_path / "[red]" / "results")
    assert "weights:path=[/x] under" in printed
    assert f"1 cell in {tmp_path / '[red]' / 'results'}; 0 images attacked" in printed


def test_a_column_added_in_one_place_is_printed(run, monkeypatch):
    added = columns.Column(
        "sum", "Sum", lambda row: columns.Entry("7"), places=frozenset({"defense", "defenses"})
    )
    monkeypatch.setattr(columns, "DETAILS", (*columns.DETAILS, added))
    assert entries(run(make("clip", "mini_a")), "A")[-1] == "7"
    assert entries(run(make("clip", "mini_a"), make("tecoa", "mini_a")), "clip")[-1] == "7"


def test_a_flag_on_many_datasets_is_one_line_and_unknown_flags_are_printed(run):
    cells = [make("tecoa", f"mini_d{n}", flags=["zero_gradients", "odd_flag"]) for n in range(16)]
    printed = run(*cells)
    named = ", ".join(f"D{n}" for n in range(16))
    assert printed.count(f"tecoa under pgd10 6/255: {named} (16 datasets)") == 2
    assert "!1 Red flag: some images have a gradient of exactly zero." in printed
    assert "!2 Flag odd_flag: this version of zsrobust has no words for it." in printed
    assert entries(printed, "D3")[-1] == "1,2"
    assert printed.count("Next: zsrobust doctor ") == 1


def test_a_run_without_flags_has_no_column_of_flags(run):
    assert "!" not in run(make("tecoa", "mini_a"))
