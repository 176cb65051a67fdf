import csv
import io
import re
from fractions import Fraction

import pytest
from test_results import make, outcomes

from zsrobust import load_results, results, suites, tables
from zsrobust.registry import ZSRobustError
from zsrobust.tables import build, render

SUITE = suites.Suite(
    name="mini", title="two sets", backbone="none", train_on="mini_a", datasets=("mini_a", "mini_b"),
    attack={"eps": 6 / 255}, limits={"autoattack": 4},
)  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    results.write(make("clip", "mini_a", clean_correct=8, robust_correct=1), outcomes(), tmp_path)
    results.write(make("clip", "mini_b", clean_correct=7, robust_correct=0, flags=["odd & 5%"]), outcomes(), tmp_path)
    timed = {"training": {"epoch_seconds": 1.25}}
    results.write(make("tecoa", "mini_a", robust_correct=3, **timed), outcomes(), tmp_path)
    results.write(make("tecoa", "mini_b", robust_correct=2, **timed), outcomes(), tmp_path)
    results.write(make("pmg_aft", "mini_a", robust_correct=3, **timed), outcomes(), tmp_path)
    results.write(make("pmg_aft", "mini_b", status="failed", **timed), None, tmp_path)
    results.write(make("clip", "mini_a", limit=4, images=4, clean_correct=4, robust_correct=4), outcomes(), tmp_path)
    results.write(make("clip", "mini_a", "autoattack", 4, images=4, clean_correct=4, robust_correct=0), outcomes(), tmp_path)
    return load_results(tmp_path)


MARKDOWN = """\
**Table 1. Zero-shot robust accuracy (%) under PGD-10, mini suite, eps 6/255.**

| Method      |         A |         B |   Average |   Time (s) |
|:------------|----------:|----------:|----------:|-----------:|
| CLIP        |     12.50 |  0.00 [1] |      6.25 |        0.0 |
| FT-Standard |         — |         — |         — |          — |
| FT-TeCoA    | **37.50** | **25.00** | **31.25** |        1.2 |
| PMG-AFT     | **37.50** |         — |         — |        1.2 |
| VPT-TeCoA   |         — |         — |         — |          — |
| VPT-PMG-AFT |         — |         — |         — |          — |

Suite mini (two sets); protocol sound; attack pgd10, eps 6/255; —: not measured, or failed. Time: seconds of one training epoch.

Images: A 8, B 8.

Versions: zsrobust 0.1.0.

[1] odd & 5%
"""


def test_the_golden_markdown(stored):
    assert render(build("1", stored, SUITE, eps="6/255"), ".md") == MARKDOWN


def test_the_latex_has_rules_escapes_and_balanced_braces(stored):
    text = render(build("1", stored, SUITE, eps="6/255"), ".tex")
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule", "hline")] == [1, 1, 1, 0]
    assert r"CLIP & 12.50 & 0.00\textsuperscript{1} & 6.25 & 0.0" in re.sub(" +", " ", text)
    assert r"\textbf{37.50}" in text
    assert r"odd \& 5\%" in text
    assert "—" not in text
    assert text.count("{") == text.count("}")


def test_the_csv_holds_the_numbers_alone(stored):
    rows = list(csv.reader(io.StringIO(render(build("1", stored, SUITE, eps="6/255"), ".csv"))))
    assert rows[0] == ["Method", "A", "B", "Average", "Time (s)"]
    assert rows[1] == ["CLIP", "12.50", "0.00", "6.25", "0.0"]
    assert rows[4] == ["PMG-AFT", "37.50", "", "", "1.2"]


def test_clean_accuracy_is_read_from_the_same_cells_and_nothing_is_bold(stored):
    page = build("2", stored, SUITE, eps="6/255")
    assert [entry.text for entry in page.rows[0][1]] == ["100.00", "87.50", "93.75", "0.0"]
    assert "**" not in render(page, ".md").split("\n\n")[1]


def test_a_table_is_on_the_suites_subset_or_on_the_one_asked_for(stored):
    third = build("3", stored, SUITE, eps="6/255")
    assert [title for title, _ in third.rows] == ["CLIP", "FT-TeCoA", "PMG-AFT"]
    assert third.rows[0][1][0].text == "0.00"
    assert "Images: A 4." in third.lines
    assert build("1", stored, SUITE, eps="6/255", limit=4).rows[0][1][0].text == "100.00"


def test_a_row_of_different_checkpoints_has_no_mean_and_says_why(stored, tmp_path):
    retrained = make("tecoa", "mini_b")
    retrained.identity["defense"]["checkpoint"] = "another"
    results.write(retrained, outcomes(), tmp_path)
    page = build("1", load_results(tmp_path), SUITE, eps="6/255")
    assert [entry.text for entry in page.rows[2][1]][:3] == ["37.50", "25.00", "—"]
    assert any("different checkpoints" in line for line in page.lines)


def test_other_eps_and_other_tables(stored):
    assert all(entry.share is None for _, row in build("1", stored, SUITE, eps="8/255").rows for entry in row)
    with pytest.raises(ZSRobustError, match="There is no table '9'. Tables: 1, 2, 3"):
        build("9", stored, SUITE, eps="6/255")
    with pytest.raises(ZSRobustError, match=r"Write to a file that ends in .md, .tex, .csv"):
        render(build("1", stored, SUITE, eps="6/255"), ".docx")


@pytest.mark.parametrize(
    ("share", "text"),
    [((1, 3), "33.33"), ((2, 3), "66.67"), ((1, 800), "0.12"), ((3, 800), "0.38"), ((1, 1), "100.00"), ((0, 5), "0.00")],
)
def test_percent_is_rounded_half_to_even_once(share, text):
    assert tables.percent(Fraction(*share)) == text
