"""Claims of papers: each has a source, and ours stand beside those that are comparable."""

import csv
import dataclasses
import io
import re
from fractions import Fraction

import pytest
from edits import edited
from test_results import make, outcomes

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import normalize
from zsrobust.core.values import check
from zsrobust.reporting import claims, contents, formats, reported
from zsrobust.reporting.claims import build, known
from zsrobust.results.printed import Printed
from zsrobust.results.registered import registered
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

PAPER, MINI = suites.load("paper"), suites.load("mini")
EVERY = [(name, printed) for name, of_name in known(PAPER).items() for printed in of_name]


def ids(each):
    return each if isinstance(each, str) else each.source.split(",")[0]


def test_claims_are_of_our_rows_and_of_published_weights():
    names = [name for name, _ in EVERY]
    assert {"ucat", "tecoa", "tga_zsr_released", "fare1_vit_b32"} <= set(names)
    assert set(names) <= registered()["defenses"].keys()
    (ucat,) = [each for name, each in EVERY if (name, each.spec) == ("ucat", "pgd100")]
    assert (ucat.attack, ucat.clean, ucat.robust) == ("PGD-100", "54.17", {"1/255": "32.20"})
    robust = [each.robust for name, each in EVERY if name == "fare1_vit_b32"]
    assert robust == [{"1/255": "38.0", "2/255": "20.1", "4/255": "2.9"}]


@pytest.mark.parametrize(("name", "printed"), EVERY, ids=ids)
def test_a_claim_is_a_row_of_the_printed_numbers_of_its_source(name, printed):
    """Found in other_papers.csv by source, attack, eps, number of datasets and percentage."""
    rows = reported.others()
    rows = rows[rows["dataset"] == "average"]
    arxiv = re.search(r"arXiv (\S+?)[,)]", printed.source)
    repo = re.search(r"README of (\S+?)[, ]", printed.source)
    rows = rows[
        (rows["arxiv"] == arxiv[1]) if arxiv else rows["table"].str.contains(repo[1], regex=False)
    ]
    assert set(rows["grade"]) == {printed.grade}
    methods = rows["method"].str.lower().str.replace("-", "_")
    rows = rows[[name.startswith(method) for method in methods]]
    if "vit" in name:
        rows = rows[rows["backbone"].str.contains("LAION") == ("laion" in name)]
        rows = rows[rows["train_eps"] == f"{re.search('[0-9]', name)[0]}/255"]
    sets = rows[rows["n_sets"].astype(str) == str(printed.datasets)]
    for eps, robust in printed.robust.items():
        same = sets[(sets["robust"] == float(robust)) & (sets["eps"] == eps)]
        assert printed.attack in set(same["attack"])
    if printed.clean is not None:
        assert float(printed.clean) in set(sets["clean"])
    assert (printed.suite == "paper") == (set(sets["eval_sets"]) <= {"the paper's 16"})


@pytest.mark.parametrize(("name", "printed"), EVERY, ids=ids)
def test_a_claim_names_a_suite_and_an_attack_of_ours_or_none(name, printed):
    if printed.suite is not None:
        assert len(suites.load(printed.suite).datasets) == printed.datasets
    if printed.spec is not None:
        assert normalize(printed.spec) == printed.spec
        assert printed.spec in registered()["attacks"]


GOOD = {
    "attack": "PGD-20",
    "robust": {"1/255": "30.0"},
    "datasets": 3,
    "source": "a page",
    "origin": "measured",
    "grade": "readme",
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"source": ""}, "source = '' is not valid; expected a line of text"),
        ({"robust": {}}, "expected a table of percentages as text by eps"),
        ({"robust": {"1/255": 30.0}}, "robust.1/255 = 30.0 is not valid; expected a percentage"),
        ({"robust": {"0.004": "30.0"}}, "expected a table of percentages as text by eps"),
        ({"robust": {"1/255": "130.0"}}, "expected a percentage as text, such as '54.17'"),
        ({"clean": "-1"}, "clean = '-1' is not valid; expected a percentage as text"),
        ({"datasets": 0}, "datasets = 0 is not valid; expected a whole number above 0"),
        ({"origin": "mine"}, "expected one of self-reported, measured"),
        ({"atack": "PGD"}, "Unknown field 'atack'. Did you mean attack"),
    ],
)
def test_a_claim_that_is_not_valid_is_one_line(wrong, message):
    assert check(GOOD, Printed, "It").clean is None
    with pytest.raises(ZSRobustError, match=re.escape(message)) as caught:
        check({**GOOD, **wrong}, Printed, "It")
    assert "\n" not in str(caught.value)
    for name in GOOD:
        with pytest.raises(ZSRobustError, match=f"{name} is missing"):
            check({key: value for key, value in GOOD.items() if key != name}, Printed, "It")


def stored(folder, spec, attack, robust, suite=PAPER, names=None, **changes):
    """Cells of 200 images, half of them right."""
    for name in names or suite.datasets:
        cell = make(spec, name, attack, images=200, clean_correct=100, robust_correct=robust)
        cell = edited(cell, {"suite": suite.name, "attack.eps": "1/255"}, **changes)
        results.write(cell, outcomes(), folder)


def lines(page):
    """The rows of a page as dictionaries, with the title and the entries."""
    return [dict(zip(page.header, [title, *line], strict=True)) for title, line in page.rows]


def of(page, title, attack, source):
    (found,) = [
        line
        for line in lines(page)
        if (line["Method"], line["Attack"].text) == (title, attack)
        and line["Source"].text.startswith(source)
    ]
    return found


def test_ours_is_the_mean_under_the_claims_own_attack(tmp_path):
    stored(tmp_path, "tecoa", "pgd10", 90)
    stored(tmp_path, "tecoa", "pgd100", 50)
    stored(tmp_path, "clip", "pgd10", 20)
    stored(tmp_path, "pmg_aft", "pgd100", 50, names=PAPER.datasets[1:])
    page = build("1", load_results(tmp_path), Selection.of(PAPER), intervals=True)
    pgd = of(page, "FT-TeCoA", "PGD-100", "UCAT")
    assert [pgd[name].text for name in page.header[2:-1]] == [
        *("1/255", "16", "43.83", "29.86"),
        *("50.00", "25.00", "+6.17", "-4.86"),
    ]
    assert pgd["Ours, robust"].share == Fraction(1, 4)
    assert pgd["Ours, robust"].interval is not None
    assert "third-party note" in pgd["Source"].text
    # Clean accuracy does not depend on the attack; PGD-10 is no substitute for PGD-100 or CW.
    unmeasured = of(page, "CLIP", "PGD-100", "TGA-ZSR")
    assert (unmeasured["Ours, clean"].text, unmeasured["Difference, clean"].text) == (
        "50.00",
        "-14.42",
    )
    assert unmeasured["Ours, robust"].notes == (
        "Not measured. Next: zsrobust run --suite paper --defense clip --attack pgd100",
    )
    assert unmeasured["Difference, robust"].text == "—"
    other = of(page, "CLIP", "CW", "UCAT")
    assert other["Ours, robust"].notes == ("Not comparable: its attack is not one of ours.",)
    assert other["Attack"].notes == ("The steps of this CW are not stated.",)
    part = of(page, "PMG-AFT", "PGD-100", "UCAT")
    assert part["Ours, robust"].notes[0].startswith("Not all datasets are measured. Next: ")


def test_a_claim_at_another_eps_is_not_compared_with_the_suites_own(tmp_path, monkeypatch):
    at_two = check(
        {**GOOD, "suite": "paper", "spec": "pgd10", "robust": {"2/255": "1"}}, Printed, ""
    )
    monkeypatch.setattr(claims, "_ours", lambda: {"tecoa": (at_two,)})
    stored(tmp_path, "tecoa", "pgd10", 90)
    (line,) = lines(build("1", load_results(tmp_path), Selection.of(PAPER)))
    (note,) = line["Ours, robust"].notes
    assert note == (
        "Not measured. Next: zsrobust run --suite paper --defense tecoa --attack pgd10 --eps 2/255"
    )
    assert line["Theirs, clean"].text == line["Difference, clean"].text == "—"
    assert line["Ours, clean"].text == "50.00"


def test_claims_about_other_datasets_or_suites_have_their_reason(tmp_path):
    empty = load_results(tmp_path)
    added = ("fare1_vit_b32", "agft", "tga_zsr_released")
    page = build("1", empty, Selection.of(PAPER), more=added)
    eps = [line for line in lines(page) if line["Method"] == "FARE¹ (RobustVLM)"]
    assert [line["Eps"].text for line in eps] == ["1/255", "2/255", "4/255"]
    for line in [*eps, of(page, registered()["defenses"]["agft"], "PGD-20", "AGFT")]:
        assert line["Ours, clean"].notes == line["Ours, robust"].notes
        assert line["Ours, robust"].notes == (
            "Not comparable: no suite has its datasets and its training set.",
        )
    second = suites.load("paper_cifar100")
    assert "Ours, robust" not in build("s1", empty, Selection.of(second)).header


def test_an_eps_selects_the_claims_at_this_eps(tmp_path):
    empty, two = load_results(tmp_path), Selection.of(PAPER, eps=2 / 255)
    page = build("1", empty, two, more=["fare1_vit_b32"])
    assert [(line["Method"], line["Eps"].text) for line in lines(page)] == [
        ("FARE¹ (RobustVLM)", "2/255")
    ]
    with pytest.raises(ZSRobustError, match="No row of Table 1 has claims at eps 2/255. For cl"):
        build("1", empty, two)


def test_on_mini_one_line_says_that_nothing_is_comparable_and_the_claims_are_shown(tmp_path):
    stored(tmp_path, "tecoa", "pgd10", 90, MINI)
    page = build("1", load_results(tmp_path), Selection.of(MINI))
    assert page.lines[0].startswith(
        "None of these claims is comparable with results of the suite mini: they are averages over"
    )
    assert page.lines[0].endswith("Next: zsrobust table 1 --suite mini")
    assert page.header == [*claims.THEIRS, "Source"]
    theirs = [(line["Method"], line["Theirs, robust"].text) for line in lines(page)]
    assert ("FT-TeCoA", "29.86") in theirs
    assert not any(note.startswith("Not ") for note in page.notes)
    for suffix in formats.FORMATS:
        assert "29.86" in formats.render(page, suffix)


def test_rows_without_claims_are_errors_with_the_next_command(tmp_path, monkeypatch):
    empty = load_results(tmp_path)
    with pytest.raises(
        ZSRobustError, match="Unknown defense with claims: 'ucad'. Did you mean uca"
    ):
        build("1", empty, Selection.of(PAPER), more=["ucad"])
    none = dataclasses.replace(contents.TABLES["1"], rows={"vpt_tecoa": "VPT-TeCoA"})
    monkeypatch.setitem(contents.TABLES, "1", none)
    with pytest.raises(ZSRobustError, match="No row of Table 1 has claims.* --defense clip$"):
        build("1", empty, Selection.of(PAPER))


OWN = """
like = "mini"
title = "mine"
datasets = ["mini_cells", "mini_faces"]

[weights.theirs]
title = "Theirs"
paper = "a paper"
where = "theirs.pt"

[[weights.theirs.claims]]
attack = "PGD-10"
robust = { "6/255" = "20.5" }
clean = "60"
datasets = 2
source = "a paper, page 3"
origin = "self-reported"
grade = "full text"
suite = "mine"
spec = "pgd10"
"""


def test_the_command_line_prints_claims_beside_ours(zsrobust, tmp_path):
    stored(tmp_path / "runs", "tecoa", "pgd100", 50)
    table = ("table", "1", "--suite", "paper", "--compare", "claims")
    printed = zsrobust(*table, "--results", "runs", "--baseline", "none").stdout
    assert "| FT-TeCoA |         PGD-100 | 1/255 |         16 |           43.83 |" in printed
    assert "25.00 |" in printed
    assert "-4.86 |" in printed
    out = ("--out", "claims.csv", "--results", "runs", "--baseline", "none")
    assert zsrobust(*table, *out).stdout == "claims.csv written\n"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "claims.csv").read_text())))
    (line,) = [
        row
        for row in rows
        if (row["Method"], row["Attack"]) == ("FT-TeCoA", "PGD-100") and "UCAT" in row["Source"]
    ]
    assert (line["Theirs, robust"], line["Ours, robust"]) == ("29.86", "25.00")
    (tmp_path / "mine.toml").write_text(OWN)
    mine = suites.load(str(tmp_path / "mine.toml"))
    for name in mine.datasets:
        cell = make("theirs", name, images=200, clean_correct=100, robust_correct=50)
        results.write(edited(cell, {"suite": "mine"}), outcomes(), tmp_path / "runs")
    own = zsrobust(
        *("table", "1", "--suite", "mine.toml", "--compare", "claims", "--defense", "theirs"),
        *("--results", "runs", "--baseline", "none"),
    ).stdout
    (row,) = [line for line in own.splitlines() if line.startswith("| THEIRS")]
    assert [cell.strip() for cell in row.split("|")[2:-2]] == [
        *("PGD-10", "6/255", "2", "60", "20.5", "50.00", "25.00", "-10.00", "+4.50"),
    ]
