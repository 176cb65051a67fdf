import csv
import dataclasses
import io
import re
from fractions import Fraction

import pandas as pd
import pytest
from edits import edited
from test_results import make, outcomes

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.core.specs import join_spec, split_spec
from zsrobust.reporting import columns, formats, reported, statistics, tables
from zsrobust.reporting.formats import render
from zsrobust.reporting.rows import Finder, Need
from zsrobust.reporting.tables import build
from zsrobust.results.flags import look_up
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

SUITE = suites.Suite(
    name="mini",
    title="two sets",
    backbone="none",
    train_on="mini_a",
    datasets=("mini_a", "mini_b"),
    attack={"eps": 6 / 255},
    limits={"autoattack": 4},
)
CHOSEN = Selection.of(SUITE)
ODD = dataclasses.replace(SUITE, title="odd & 5%")  # what LaTeX and HTML must escape


@pytest.fixture
def stored(tmp_path):
    free = {"training": {"epoch_seconds": 0.0}}
    results.write(
        make("clip", "mini_a", clean_correct=8, robust_correct=1, **free), outcomes(), tmp_path
    )
    results.write(
        make("clip", "mini_b", clean_correct=7, robust_correct=0, flags=["odd_flag"], **free),
        outcomes(),
        tmp_path,
    )
    timed = {"training": {"epoch_seconds": 1.25}}
    results.write(
        make("tecoa", "mini_a", robust_correct=3, largest_class=2, **timed), outcomes(), tmp_path
    )
    results.write(
        make("tecoa", "mini_b", robust_correct=2, largest_class=2, **timed), outcomes(), tmp_path
    )
    results.write(make("pmg_aft", "mini_a", robust_correct=3, **timed), outcomes(), tmp_path)
    results.write(make("pmg_aft", "mini_b", status="failed", **timed), None, tmp_path)
    results.write(
        make("clip", "mini_a", limit=4, images=4, clean_correct=4, robust_correct=4),
        outcomes(),
        tmp_path,
    )
    results.write(
        make(
            "clip", "mini_a", "autoattack", 4, images=4, clean_correct=4, robust_correct=0, **free
        ),
        outcomes(),
        tmp_path,
    )
    return load_results(tmp_path)


MARKDOWN = """\
**Table 1. Zero-shot robust accuracy (%) under PGD-10, mini suite, eps 6/255.**

| Method      |         A |         B |   Average |   Zero-shot |   Above chance |   Zero-shot, above chance |   Time (s) |
|:------------|----------:|----------:|----------:|------------:|---------------:|--------------------------:|-----------:|
| CLIP        |     12.50 |  0.00 [1] |      6.25 |        0.00 |              — |                         — |        0.0 |
| FT-Standard |         — |         — |         — |           — |              — |                         — |          — |
| FT-TeCoA    | **37.50** | **25.00** | **31.25** |   **25.00** |           8.33 |                      0.00 |        1.2 |
| PMG-AFT     | **37.50** |         — |         — |           — |              — |                         — |        1.2 |
| VPT-TeCoA   |         — |         — |         — |           — |              — |                         — |          — |
| VPT-PMG-AFT |         — |         — |         — |           — |              — |                         — |          — |

Suite mini (two sets); protocol sound; attack pgd10, eps 6/255; —: not measured, or failed. Time: seconds of one training epoch.

Means are over 2 datasets. Zero-shot means leave out A, the target dataset of training. Above chance: the mean of (accuracy - chance) / (1 - chance), at least 0 for each dataset. Chance is the share of the most frequent class, which a constant answer scores.

Images: A 8, B 8.

Versions: zsrobust 0.1.0.

[1] Flag odd_flag: this version of zsrobust has no words for it.
"""

LATEX = r"""% Table 3; needs \usepackage{booktabs,graphicx}
\begin{table}
\caption{Zero-shot robust accuracy (\%) under AutoAttack, mini suite, eps 6/255.}
\resizebox{\columnwidth}{!}{%
\begin{tabular}{lrrrrrrr}
\toprule
 Method   &    A &   B &   Average &   Zero-shot &   Above chance &   Zero-shot, above chance &   Time (s) \\
\midrule
 CLIP     & 0.00 & --- &       --- &         --- &            --- &                       --- &        0.0 \\
 FT-TeCoA &  --- & --- &       --- &         --- &            --- &                       --- &        --- \\
 PMG-AFT  &  --- & --- &       --- &         --- &            --- &                       --- &        --- \\
\bottomrule
\end{tabular}}
\par\raggedright\footnotesize Suite mini (two sets); protocol sound; attack autoattack, eps 6/255; ---: not measured, or failed. Time: seconds of one training epoch.
\par\raggedright\footnotesize Means are over 2 datasets. Zero-shot means leave out A, the target dataset of training. Above chance: the mean of (accuracy - chance) / (1 - chance), at least 0 for each dataset. Chance is the share of the most frequent class, which a constant answer scores.
\par\raggedright\footnotesize Images: A 4.
\par\raggedright\footnotesize Versions: zsrobust 0.1.0.
\end{table}
"""

CSV = """\
Method,A,B,Average,Zero-shot,Above chance,"Zero-shot, above chance",Time (s)
CLIP,12.50,0.00,6.25,0.00,,,0.0
FT-Standard,,,,,,,
FT-TeCoA,37.50,25.00,31.25,25.00,8.33,0.00,1.2
PMG-AFT,37.50,,,,,,1.2
VPT-TeCoA,,,,,,,
VPT-PMG-AFT,,,,,,,
"""


@pytest.mark.parametrize(
    ("number", "suffix", "golden"),
    [("1", ".md", MARKDOWN), ("3", ".tex", LATEX), ("1", ".csv", CSV)],
)
def test_the_golden_files(stored, number, suffix, golden):
    assert render(build(number, stored, CHOSEN), suffix) == golden


@pytest.mark.parametrize("other", [None, "autoattack_robustvlm"])
def test_the_caption_has_the_parts_that_ran(stored, other):
    """More datasets ran the first list; the second has too few classes, and other attacks no part."""
    whole = {"parts": ["apgd-ce", "apgd-t", "square"], "targets": 9, "skipped": []}
    fewer = {"parts": ["apgd-ce", "margin", "square"], "targets": 1, "skipped": ["apgd-t"]}
    cells = stored[stored["attack"] == "autoattack"].head(1)
    cells = pd.concat([cells] * 4, ignore_index=True)
    cells["dataset_title"] = ["A", "B", "C", "C"]
    cells["plan"] = [fewer, whole, whole, whole]
    line = "apgd-ce, apgd-t, square; on A: apgd-ce, margin, square."
    if other is None:
        assert tables._parts_of(cells) == [f"AutoAttack: {line}"]
        return
    more = cells.head(1).copy()
    more["attack"], more["plan"] = other, [{"parts": ["apgd-ce", "margin"], "restarts": 5}]
    expected = [
        f"AutoAttack (autoattack): {line}",
        "AutoAttack (autoattack_robustvlm): apgd-ce (5 starts), margin.",
    ]
    assert tables._parts_of(pd.concat([cells, more])) == expected
    cells["attack"] = "mine"
    assert tables._parts_of(cells) == []


def test_the_latex_has_rules_escapes_and_balanced_braces(stored):
    text = render(build("1", stored, Selection.of(ODD)), ".tex")
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule", "hline")] == [
        1,
        1,
        1,
        0,
    ]
    assert r"CLIP & 12.50 & 0.00\textsuperscript{1} & 6.25 & 0.00 & --- & --- & 0.0" in re.sub(
        " +", " ", text
    )
    assert r"\textbf{37.50}" in text
    assert r"odd \& 5\%" in text
    assert r"Flag odd\_flag: this version" in text
    assert "—" not in text
    assert text.count("{") == text.count("}")


def test_clean_accuracy_is_read_from_the_same_cells(stored):
    page = build("2", stored, CHOSEN)
    assert [entry.text for entry in page.rows[0][1]] == [
        *["100.00", "87.50", "93.75", "87.50", "—", "—"],
        "0.0",
    ]
    assert [entry.best for entry in page.rows[0][1]] == [True] * 4 + [False] * 3


def test_a_table_is_on_the_suites_subset_or_on_the_one_asked_for(stored):
    third = build("3", stored, CHOSEN)
    assert [title for title, _ in third.rows] == ["CLIP", "FT-TeCoA", "PMG-AFT"]
    assert third.rows[0][1][0].text == "0.00"
    assert "Images: A 4." in third.lines
    assert build("1", stored, Selection.of(SUITE, limit=4)).rows[0][1][0].text == "100.00"


def test_a_row_of_different_checkpoints_has_no_mean_and_says_why(stored, tmp_path):
    retrained = edited(make("tecoa", "mini_b"), {"defense.checkpoint": "another"})
    results.write(retrained, outcomes(), tmp_path)
    page = build("1", load_results(tmp_path), CHOSEN)
    assert [entry.text for entry in page.rows[2][1]][:3] == ["37.50", "25.00", "—"]
    assert any("different checkpoints" in note for note in page.notes)


def test_other_eps_and_other_tables(stored):
    rows = " ".join(f"--defense {spec}" for spec in tables.ROWS)
    for nothing, command in (
        ({"eps": 8 / 255}, f"{rows} --attack pgd10 --eps 8/255"),
        ({"seed": 3}, "--table 1 --seed 3"),
        ({"limit": 2}, "--table 1 --limit 2"),
        ({"protocol": "reference"}, "--protocol reference --table 1"),
    ):
        with pytest.raises(
            ZSRobustError,
            match=f"Table 1 has no stored cells under pgd10: .* Next: zsrobust run --suite mini {command}$",
        ):
            build("1", stored, Selection.of(SUITE, **nothing))
    with pytest.raises(
        ZSRobustError,
        match="There is no table '9'. Tables: 1, 2, 3, 4, 5, a1, s1, s2, s3, s4, s5, t1, z1, z2",
    ):
        build("9", stored, CHOSEN)
    with pytest.raises(ZSRobustError, match=r"Write to a file that ends in .md, .tex, .csv, .html"):
        render(build("1", stored, CHOSEN), ".docx")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        ((1, 3), "33.33"),
        ((2, 3), "66.67"),
        ((1, 800), "0.12"),
        ((3, 800), "0.38"),
        ((1, 1), "100.00"),
        ((0, 5), "0.00"),
    ],
)
def test_percent_is_rounded_half_to_even_once(share, text):
    assert columns.percent(Fraction(*share)) == text


def test_the_html_is_whole_and_escapes(stored):
    text = render(build("1", stored, Selection.of(ODD), intervals=True), ".html")
    assert "<strong>37.50</strong> <small>(13.68–69.43)</small>" in text
    assert '<sup><a href="#note1">1</a></sup>' in text
    assert "odd &amp; 5%" in text
    assert text.count("<tr>") == text.count("</tr>") == 7


def test_intervals_stand_beside_the_numbers_and_in_columns_of_the_csv(stored):
    page = build("1", stored, CHOSEN, intervals=True)
    assert "12.50 (2.24–47.09)" in render(page, ".md")
    rows = list(csv.DictReader(io.StringIO(render(page, ".csv"))))
    low, high = wilson(1, 8)
    assert (rows[0]["A low"], rows[0]["A high"]) == (f"{100 * low:.2f}", f"{100 * high:.2f}")
    low, high = statistics.mean_interval([(3, 8), (2, 8)])
    assert (rows[2]["Average low"], rows[2]["Average high"]) == (
        f"{100 * low:.2f}",
        f"{100 * high:.2f}",
    )
    assert rows[3]["Average low"] == rows[1]["A low"] == ""


def test_the_tables_of_averages_have_a_row_a_variant(tmp_path):
    for spec, correct in (("tecoa", 1), ("pmg_aft:beta=0", 2), ("pmg_aft", 4)):
        for name in SUITE.datasets:
            results.write(
                make(spec, name, clean_correct=5, robust_correct=correct), outcomes(), tmp_path
            )
    flagged = make("tecoa", "mini_b", clean_correct=5, robust_correct=1, flags=["odd", "inside"])
    results.write(flagged, outcomes(), tmp_path)
    page = build("4", load_results(tmp_path), CHOSEN)
    words = [look_up("odd").sentence, look_up("inside").sentence]
    plain = ["Clean", "Clean, zero-shot", "Robust", "Robust, zero-shot"]
    above = [f"{each}, {also}above chance" for each in plain[::2] for also in ("", "zero-shot, ")]
    assert page.header == ["Method", *plain, *above]
    assert ([entry.notes for entry in page.rows[0][1]], page.notes) == (
        [(), (), tuple(words), *[()] * 5],
        words,
    )
    assert [[entry.text for entry in entries][1:3] for _, entries in page.rows] == [
        ["62.50", "12.50"],
        ["62.50", "25.00"],
        ["62.50", "50.00"],
    ]
    assert tables.needs("4", SUITE) == [
        Need(spec, "pgd10", None, every=1) for spec in ("tecoa", "pmg_aft:beta=0", "pmg_aft")
    ]
    fifth = build("5", load_results(tmp_path), CHOSEN)
    assert [entries[0].text for _, entries in fifth.rows] == ["62.50", "—", "—", "—"]


def test_a_defense_of_ones_own_is_a_row_more_and_told_from_others_of_its_title(stored, tmp_path):
    for spec, title in (("mine", "Mine"), ("tecoa:lr=1", "FT-TeCoA")):
        cell = edited(make(spec, "mini_a"), {"defense.title": title})
        results.write(cell, outcomes(), tmp_path)
    page = build("1", load_results(tmp_path), CHOSEN, more=["mine", "tecoa:lr=1"])
    assert [title for title, _ in page.rows][-3:] == [
        "VPT-PMG-AFT",
        "Mine",
        "FT-TeCoA (tecoa:lr=1)",
    ]
    with pytest.raises(
        ZSRobustError, match="Unknown defense among these results: 'mines'. Did you mean mine?"
    ):
        build("1", load_results(tmp_path), CHOSEN, more=["mines"])


def test_what_an_oblivious_attack_left_is_shown_and_never_the_best(stored, tmp_path):
    spec = "tte:knowledge=oblivious,of=tecoa"
    cell = make(spec, "mini_a", clean_correct=8, robust_correct=8)
    title = "TTE (FT-TeCoA), oblivious attack"
    cell = edited(cell, {"defense.title": title, "defense.knowledge": "oblivious"})
    results.write(cell, outcomes(), tmp_path)
    page = dict(build("1", load_results(tmp_path), CHOSEN, more=[spec]).rows)
    shown = {title: (entries[0].text, entries[0].best) for title, entries in page.items()}
    assert shown[f"{title}: {columns.UNAWARE}"] == ("100.00", False)
    assert shown["FT-TeCoA"] == shown["PMG-AFT"] == ("37.50", True)


def test_the_cost_of_test_time_defenses_is_below_the_table(stored, tmp_path):
    cost = {"passes": 10, "seconds": 0.03, "plain_seconds": 0.01, "memory": 2**20}
    for spec, spent in (("tte:of=tecoa", cost), ("ttc:of=tecoa", None)):
        cell = edited(
            make(spec, "mini_a"), {"defense.title": spec, "defense.knowledge": "adaptive"}
        )
        results.write(dataclasses.replace(cell, cost=spent), outcomes(), tmp_path)
    found = load_results(tmp_path)
    lines = build("1", found, CHOSEN, more=["tte:of=tecoa", "ttc:of=tecoa"]).lines
    assert (
        "Cost at test time: tte:of=tecoa: 10 passes, 20.0 ms more an image, 1.0 MiB; "
        "ttc:of=tecoa: not measured. Passes are those of one deployed prediction." in lines
    )
    assert not any("Cost at" in each for each in build("1", found, CHOSEN).lines)


def test_titles_make_neither_columns_nor_html_nor_commands(tmp_path):
    cell = edited(make("clip", "mini_a"), {"dataset.title": "A|B <i>[x] 50%"})
    results.write(cell, outcomes(), tmp_path)
    page = build("1", load_results(tmp_path), CHOSEN)
    assert r"A\|B &lt;i>[x] 50%" in render(page, ".md").split("\n")[2]
    assert r"A\textbar{}B \textless{}i\textgreater{}{[}x] 50\%" in render(page, ".tex")
    assert "A|B &lt;i&gt;[x] 50%" in render(page, ".html")


def paper(tmp_path, suite, attack="pgd10"):
    """Results on the paper's suite: CLIP and PMG-AFT, half of 200 images right, a quarter under attack."""
    for spec in ("clip", "pmg_aft"):
        for name in suite.datasets:
            cell = make(spec, name, attack, images=200, clean_correct=100, robust_correct=50)
            cell = edited(cell, {"suite": suite.name, "attack.eps": "1/255"})
            results.write(cell, outcomes(), tmp_path)
    return load_results(tmp_path)


def test_beside_the_papers_numbers_stand_the_difference_and_what_is_doubtful(tmp_path):
    suite = suites.load("paper")
    page = build("2", paper(tmp_path, suite), Selection.of(suite), compare=True)
    shown = [(title, entries[-6]) for title, entries in page.rows]  # PCAM, the last dataset
    assert [(title, entry.text) for title, entry in shown[:3]] == [
        ("CLIP", "50.00"),
        ("· paper", "53.40"),
        ("· difference", "-3.40"),
    ]
    pmg = dict(
        list(zip([title for title, _ in shown], [entry for _, entry in shown], strict=True))[-9:-6]
    )
    assert pmg["· paper"].text == "48.24"
    assert reported.errata()["E2"].line in pmg["· paper"].notes
    assert page.rows[10][1][-1].text == "849"  # seconds an epoch of PMG-AFT
    missing = dict(page.rows[3:6])
    assert missing["FT-Standard"][0].text == "—"
    assert missing["· paper"][0].text != "—"
    assert missing["· difference"][0].text == "—"


def test_where_the_paper_prints_nothing_there_is_nothing_to_compare(stored, tmp_path):
    with pytest.raises(
        ZSRobustError, match="The paper has no numbers for Table 1 of the suite mini at eps 6/255"
    ):
        build("1", stored, CHOSEN, compare=True)
    second = suites.load("paper_cifar100")
    page = build("s1", paper(tmp_path / "second", second), Selection.of(second), compare=True)
    assert [entries[-5].text for title, entries in page.rows if title == "· paper"] == [
        "21.35",
        "26.06",
    ]
    with pytest.raises(ZSRobustError, match="The paper has no numbers for Table s2"):
        build("s2", paper(tmp_path / "second", second), Selection.of(second), compare=True)


def test_the_second_series_is_of_the_suites_second():
    assert tables.suite_name("s1", suites.load("mini")) == "mini_second"
    assert tables.suite_name("1", suites.load("mini")) == "mini"
    assert tables.suite_name("s2", suites.load("mini_second")) == "mini_second"
    with pytest.raises(
        ZSRobustError, match="The suite mini has no second target dataset for Table s1"
    ):
        tables.suite_name("s1", SUITE)


def test_numbers_of_another_target_dataset_are_not_compared_with(tmp_path):
    second = suites.load("paper_cifar100")
    with pytest.raises(ZSRobustError, match="no numbers for Table 1 of the suite paper_cifar100"):
        build("1", paper(tmp_path, second), Selection.of(second), compare=True)


def test_a_column_added_in_one_place_is_in_every_table_in_every_format(stored, monkeypatch):
    everywhere = frozenset(("datasets", "averages", "report", "defense", "defenses"))
    added = columns.Column(
        "sum", "Sum", lambda row: columns.Entry(str(len(row.cells))), places=everywhere
    )
    monkeypatch.setattr(columns, "DETAILS", (*columns.DETAILS, added))
    for number in ("1", "4"):
        page = build(number, stored, CHOSEN)
        assert page.header[-1] == "Sum"
        assert page.rows[0][1][-1].text == "2"
        for suffix in formats.FORMATS:
            assert "Sum" in render(page, suffix)
    assert [columns.terminal(place)[-1] for place in ("defense", "defenses")] == [added, added]


def test_the_grid_of_weights_has_its_nine_rows():
    page_rows = list(tables.TABLES["s3"].rows.items())
    assert len(page_rows) == 9
    grid = dict.fromkeys((alpha, beta) for alpha in "012" for beta in "012")
    for (alpha, beta), (spec, title) in zip(grid, page_rows, strict=True):
        _, fields = split_spec(spec)
        of = (
            {"alpha": "1", "beta": "1"}
            if spec.startswith("pmg_aft")
            else dict.fromkeys(("alpha", "beta"), "0")
        )
        assert {**of, **fields} == {"alpha": alpha, "beta": beta}
        assert title.startswith(f"α = {alpha}, β = {beta}")
        assert join_spec(*split_spec(spec)) == spec


SWEPT = dataclasses.replace(
    SUITE, recipe={"eps": 6 / 255}, sweep=(12 / 255, 3 / 255, 6 / 255), datasets=("mini_a",)
)


def test_other_bounds_train_and_test_at_the_same_bound(tmp_path):
    for eps, right in (("3/255", 4), ("12/255", 1)):
        for spec in ("clip", f"tecoa:eps={eps}"):
            cell = make(spec, "mini_a", robust_correct=right - (spec == "clip"), clean_correct=5)
            results.write(edited(cell, {"attack.eps": eps}), outcomes(), tmp_path)
    found = load_results(tmp_path)
    page = build("s4", found, Selection.of(SWEPT))
    assert page.caption.endswith("mini suite, eps 3/255, 12/255.")
    assert page.header[:5] == ["Method", "Eps", "Accuracy", "A", "Average"]
    lines = {(title, *(each.text for each in entries[:2])): entries for title, entries in page.rows}
    assert len(lines) == len(page.rows) == 6 * 2 * 2
    assert lines["FT-TeCoA", "3/255", "robust"][2].text == "50.00"
    assert lines["FT-TeCoA", "3/255", "robust"][2].best  # in its own block
    assert lines["CLIP", "12/255", "robust"][2].text == "0.00"
    assert lines["FT-TeCoA", "12/255", "clean"][3].text == "62.50"
    assert lines["PMG-AFT", "12/255", "clean"][3].text == "—"
    assert tables.needs("s4", SWEPT)[:3] == [
        Need("clip", "pgd10", 3 / 255),
        Need("clip", "pgd10", 12 / 255),
        Need("ft_standard", "pgd10", 3 / 255),
    ]
    assert tables.needs("s4", SWEPT)[4:6] == [
        Need("tecoa:eps=3/255", "pgd10", 3 / 255),
        Need("tecoa:eps=12/255", "pgd10", 12 / 255),
    ]
    assert {need.eps for need in tables.needs("s4", SWEPT)} == {3 / 255, 12 / 255}
    with pytest.raises(ZSRobustError, match="Table s4 shows bounds of the suite's `sweep`. Leave"):
        build("s4", found, Selection.of(SWEPT, eps=3 / 255))
    with pytest.raises(ZSRobustError, match="The suite mini has no other bounds for this table"):
        build("s4", found, CHOSEN)


def test_the_ablations_have_both_accuracies_of_each_dataset(stored):
    page = build("s5", stored, CHOSEN)
    shown = {(title, entries[0].text): entries[1].text for title, entries in page.rows}
    assert page.header[:4] == ["Method", "Accuracy", "A", "B"]
    assert shown["FT-TeCoA (α = 0, β = 0)", "clean"] == "62.50"
    assert shown["FT-TeCoA (α = 0, β = 0)", "robust"] == "37.50"
    assert {*tables.TABLES["4"].rows, *tables.TABLES["5"].rows} == set(tables.TABLES["s5"].rows)


def test_a_row_over_every_second_dataset_has_the_mean_of_those(stored):
    finder = Finder(stored, CHOSEN)
    row = finder.row(Need("tecoa", every=2))
    assert row.averaged() == ["mini_a"]
    assert row.mean("robust") == Fraction(3, 8)
    assert list(finder.cells["dataset"]) == ["mini_a"]
