"""What was printed: complete, consistent with itself, and doubted exactly where its own arithmetic says so."""

import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from itertools import pairwise

import pytest

from zsrobust.core.intervals import wilson
from zsrobust.reporting import reported
from zsrobust.reporting.reported import (
    QUALITIES,
    average,
    cell,
    cells,
    errata,
    others,
    seconds,
    statements,
)

#: The columns, and the images of their full splits.
IMAGES = {
    "cifar10": 10000,
    "cifar100": 10000,
    "stl10": 8000,
    "sun397": 108754,
    "food101": 25250,
    "oxford_pets": 3669,
    "flowers102": 6149,
    "dtd": 1880,
    "eurosat": 27000,
    "fgvc_aircraft": 3333,
    "tiny_imagenet": 10000,
    "imagenet": 50000,
    "caltech101": 8677,
    "caltech256": 30607,
    "stanford_cars": 8041,
    "pcam": 32768,
}
SIX = ["clip", "ft_standard", "tecoa", "pmg_aft", "vpt_tecoa", "vpt_pmg_aft"]
ROWS = {"1": SIX, "2": SIX, "3": ["clip", "tecoa", "pmg_aft"]}
ABLATIONS = [
    ("4", "tecoa"),
    ("4", "pmg_aft:beta=0"),
    ("4", "pmg_aft"),
    ("5", "pmg_aft"),
    ("5", "pmg_aft:distance=l2"),
    ("5", "pmg_aft:distance=l2,layer=feature"),
    ("5", "pmg_aft:distance=cosine,layer=feature"),
]
EVERY = [
    (table, defense, name) for table, rows in ROWS.items() for defense in rows for name in IMAGES
]
AVERAGES = [(table, defense) for table, rows in ROWS.items() for defense in rows]
CENT = Decimal("0.01")

#: Robust above clean accuracy, an outlier, AutoAttack on two classes.
DOUBTFUL = {
    ("1", "tecoa", "pcam"),
    ("1", "pmg_aft", "pcam"),
    ("2", "tecoa", "pcam"),
    ("2", "pmg_aft", "pcam"),
    ("1", "vpt_pmg_aft", "dtd"),
    ("3", "tecoa", "sun397"),
    ("3", "clip", "pcam"),
    ("3", "tecoa", "pcam"),
    ("3", "pmg_aft", "pcam"),
}


#: What the neighbor was copied from: cells above suspicion themselves.
ORIGINALS = {("2", "tecoa", "stanford_cars"), ("2", "pmg_aft", "stanford_cars")}


def percent(table, defense, name):
    return cell(table, defense, name).percent


def stated(table, defense, metric=None):
    return average(table, defense, metric).percent


def mean(table, defense):
    return sum(percent(table, defense, name) for name in IMAGES) / 16


def file(name):
    return resources.files(reported).joinpath(name).read_text(encoding="utf-8")


def named_by(erratum):
    """Return the cells that an erratum names."""
    return {
        (table, row, column)
        for table in erratum.table.split(",")
        for row in erratum.rows
        for column in erratum.columns
    }


def test_every_cell_is_there_once_in_the_papers_order():
    frame = cells()
    assert list(zip(frame["table"], frame["defense"], frame["dataset"], strict=True)) == EVERY
    assert len(frame) == 6 * 16 * 2 + 3 * 16
    kinds = {(row.table, row.metric, row.attack, row.eps) for row in frame.itertuples()}
    assert kinds == {
        ("1", "robust", "pgd10", "1/255"),
        ("2", "clean", "", ""),
        ("3", "robust", "autoattack", "1/255"),
    }


def test_cells_are_as_printed():
    assert percent("1", "clip", "cifar10") == Decimal("42.18")
    assert percent("2", "vpt_pmg_aft", "pcam") == Decimal("58.95")
    assert percent("3", "pmg_aft", "caltech256") == Decimal("43.16")
    assert str(percent("3", "clip", "dtd")) == "0.00"
    assert all(percent(*where).as_tuple().exponent == -2 for where in EVERY)
    assert cells()["percent"].sum() == pytest.approx(float(sum(percent(*where) for where in EVERY)))


def test_nothing_is_there_that_is_not_printed():
    assert cell("3", "ft_standard", "cifar10") is None
    assert cell("4", "tecoa", "cifar10") is None
    assert cell("1", "clip", "mini_shapes") is None
    assert average("3", "vpt_tecoa") is None
    assert average("4", "tecoa") is None, "two are printed: say which"
    assert average("s1", "tecoa", "clean") is None
    assert average("s2", "pmg_aft", "clean") is None
    assert seconds("3", "ft_standard") is None


@pytest.mark.parametrize(("table", "defense"), AVERAGES)
def test_an_average_is_doubted_where_it_does_not_follow(table, defense):
    claim, own = average(table, defense), mean(table, defense)
    follows = abs(own - claim.percent) <= CENT
    assert claim.quality == (("ok",) if follows else ("average",))
    assert bool(claim.doubt) is not follows
    for name in claim.doubt:
        assert table == errata()[name].table
        assert defense in errata()[name].rows
    row = cells_of_averages()[table, defense]
    assert (row["follows"], row["metric"]) == (
        "yes" if follows else "no",
        "clean" if table == "2" else "robust",
    )
    assert abs(Decimal(row["mean_of_cells"]) - own) <= Decimal("0.00005")


def cells_of_averages():
    return {(row["table"], row["defense"]): row for row in reported._rows("averages.csv")}


def test_six_of_fifteen_averages_do_not_follow():
    assert list(cells_of_averages()) == AVERAGES
    doubted = {
        (table, defense): average(table, defense).doubt
        for table, defense in AVERAGES
        if average(table, defense).doubt
    }
    assert doubted == {
        ("1", "pmg_aft"): ("E4",),
        ("1", "vpt_pmg_aft"): ("E5",),
        ("2", "tecoa"): ("E1",),
        ("2", "pmg_aft"): ("E2",),
        ("2", "vpt_pmg_aft"): ("E3",),
        ("3", "clip"): ("E6",),
    }


def possible(value, images):
    """Whether some share of the images rounds, or is cut, to a percentage with two decimals."""
    low, high = (value - CENT / 2) * images / 100, (value + CENT) * images / 100
    return any(low <= k < high for k in range(max(int(low), 0), int(high) + 2))


def qualities():
    """Return what every cell's quality has to be, worked out from the printed numbers."""
    found = {where: set() for where in EVERY}
    for table, defense, name in EVERY:
        where = (table, defense, name)
        if not possible(percent(*where), IMAGES[name]):
            found[where].add("impossible")
        if where in DOUBTFUL:
            found[where].add("doubtful")
        if abs(mean(table, defense) - stated(table, defense)) > CENT:
            found[where].add("average")
    for table, defense in AVERAGES:
        for left, right in pairwise(IMAGES):
            if percent(table, defense, left) == percent(table, defense, right) > 1:
                for where in {(table, defense, left), (table, defense, right)} - ORIGINALS:
                    found[where].add("duplicate")
    return found


def test_the_quality_of_every_cell_follows_from_the_printed_numbers():
    for where, words in qualities().items():
        assert cell(*where).quality == tuple(
            word for word in QUALITIES if word in (words or {"ok"})
        ), where


def test_robust_above_clean_accuracy_is_doubtful_on_both_sides():
    above = {
        (defense, name)
        for defense in SIX
        for name in IMAGES
        if percent("1", defense, name) > percent("2", defense, name)
    }
    assert above == {("tecoa", "pcam"), ("pmg_aft", "pcam")}
    assert {(table, *where) for table in "12" for where in above} <= DOUBTFUL


def test_errata_and_cells_name_each_other():
    extra = {
        ("1", "tecoa", "pcam"): "E1",
        ("1", "pmg_aft", "pcam"): "E2",
    }  # the other side of the comparison
    for where in EVERY:
        named = {erratum.id for erratum in errata().values() if where in named_by(erratum)}
        doubt = cell(*where).doubt
        assert set(doubt) == named | {extra[where]} if where in extra else set(doubt) == named
        assert list(doubt) == sorted(doubt, key=lambda name: int(name[1:]))
        if {"doubtful", "duplicate"} & set(cell(*where).quality):
            assert doubt, where


def test_errata_are_about_rows_and_columns_there_are():
    assert list(errata()) == [f"E{number}" for number in range(1, 24)]
    for erratum in errata().values():
        assert set(erratum.rows) <= set(SIX)
        assert set(erratum.columns) <= set(IMAGES)
        assert set(erratum.table.split(",")) <= {*"12345", "text"}
        assert named_by(erratum) <= set(EVERY)
        assert erratum.confidence
        assert erratum.kind


def test_an_erratum_repeats_the_cell_it_doubts():
    for name in ("E1", "E2", "E3", "E7", "E8", "E9", "E10", "E11", "E13", "E15"):
        for where in named_by(errata()[name]):
            assert str(percent(*where)) in errata()[name].printed


#: Robust cells at chance: images in every twentieth batch of 256, and those of the largest class.
AT_CHANCE = {
    "E21": (1792, Fraction(16391, 32768)),
    "E22": (1536, Fraction(3000, 27000)),
    "E23": (512, Fraction(1, 10)),
}


@pytest.mark.parametrize("name", AT_CHANCE)
def test_the_intervals_of_cells_at_chance_contain_it(name):
    images, chance = AT_CHANCE[name]
    erratum = errata()[name]
    assert erratum.kind == "at chance"
    assert str(images) in erratum.why
    (dataset,) = erratum.columns
    found = set()
    for defense in filter(lambda row: cell(erratum.table, row, dataset), SIX):
        correct = round(float(percent(erratum.table, defense, dataset)) / 100 * images)
        low, high = wilson(correct, images)
        if low <= chance <= high:
            found.add(defense)
    assert found == set(erratum.rows)
    assert all(name in cell(erratum.table, defense, dataset).doubt for defense in found)


def test_what_the_errata_work_out():
    def alone(table, defense, name, average):
        """Return what a cell is if it alone is wrong and the average right."""
        return percent(table, defense, name) + 16 * (Decimal(average) - mean(table, defense))

    assert alone("2", "tecoa", "pcam", "46.99") == Decimal("54.21")
    assert alone("2", "pmg_aft", "pcam", "55.71") == Decimal("57.68")
    assert alone("2", "pmg_aft", "pcam", "55.72") == Decimal("57.84")
    assert alone("2", "vpt_pmg_aft", "dtd", "36.03") == Decimal("10.06")
    assert alone("1", "pmg_aft", "caltech101", "31.95") == Decimal("21.72")
    assert alone("1", "vpt_pmg_aft", "dtd", "22.74") == Decimal("3.75")
    assert (16 * mean("3", "clip"), 16 * stated("3", "clip")) == (
        Decimal("28.40"),
        Decimal("27.84"),
    )


@pytest.mark.parametrize("erratum", errata().values(), ids=lambda erratum: erratum.id)
def test_a_footnote_is_one_short_sentence_or_two(erratum):
    assert erratum.line.startswith(f"{erratum.id}: printed {erratum.printed}. ")
    assert erratum.line.endswith(".")
    assert len(erratum.line) < 250
    assert "\n" not in erratum.line


def test_a_footnote():
    assert errata()["E2"].line == (
        "E2: printed 48.24. The clean accuracy of PMG-AFT on PCAM equals StanfordCars in the same row, and is below the robust"
        " accuracy of the same model (57.64 in Table 1)."
    )


def test_what_a_table_says_under_a_claim():
    assert reported.doubts(cell("1", "clip", "cifar10")) == []
    assert reported.doubts(cell("2", "tecoa", "pcam")) == [errata()["E1"].line]
    assert reported.doubts(average("1", "pmg_aft")) == [errata()["E4"].line]
    assert reported.doubts(cell("1", "clip", "dtd")) == [
        "Impossible: no number of correct images of the full split rounds or truncates to it."
    ]
    assert reported.doubts(average("s1", "tecoa")) == [
        "Derived: not printed, but follows from two printed numbers."
    ]
    assert len(reported.doubts(cell("2", "clip", "dtd"))) == 2


def test_ablations_and_what_contradicts_them():
    assert [(row["table"], row["defense"]) for row in reported._rows("ablations.csv")] == ABLATIONS
    assert [(str(stated(*row, "clean")), str(stated(*row, "robust"))) for row in ABLATIONS] == [
        ("46.99", "26.96"),
        ("58.28", "28.44"),
        ("55.72", "32.04"),
        ("55.71", "31.95"),
        ("48.21", "27.23"),
        ("38.32", "22.90"),
        ("52.98", "24.53"),
    ]
    doubted = {
        row for row in ABLATIONS for metric in ("clean", "robust") if average(*row, metric).doubt
    }
    assert doubted == {("4", "pmg_aft"), ("5", "pmg_aft")}
    assert (
        stated("4", "pmg_aft", "robust")
        != stated("5", "pmg_aft", "robust")
        == stated("1", "pmg_aft")
    )
    assert average("5", "pmg_aft", "clean").quality == ("doubtful",)


def test_the_second_suite_has_one_stated_and_one_derived_average():
    assert (
        average("s1", "pmg_aft", "robust")
        == average("s1", "pmg_aft")
        == reported.Claim(Decimal("26.06"), ("ok",), ())
    )
    assert average("s1", "tecoa", "robust") == reported.Claim(Decimal("21.35"), ("derived",), ())


def test_seconds():
    assert [seconds("1", defense) for defense in SIX] == [0, 234, 551, 849, 364, 661]
    assert all(seconds(table, defense) == seconds("1", defense) for table, defense in AVERAGES)
    paper = json.loads(file("hyperparameters.json"))["paper"]
    (times,) = [entry["value"] for entry in paper["stated"] if entry["name"] == "seconds_per_epoch"]
    assert times == {defense: seconds("1", defense) for defense in SIX if defense != "clip"}


def test_the_arithmetic_of_the_text():
    rows = {row.id: row for row in statements().itertuples()}
    assert len(rows) == len(statements())
    gains = {
        "robust_gain_over_tecoa": ("1", "pmg_aft", "tecoa"),
        "clean_gain_over_tecoa": ("2", "pmg_aft", "tecoa"),
        "robust_gain_over_clip": ("1", "pmg_aft", "clip"),
        "tecoa_clean_drop": ("2", "clip", "tecoa"),
    }
    for name, (table, above, below) in gains.items():
        assert (
            Decimal(rows[name].value)
            == Decimal(rows[name].from_averages)
            == stated(table, above) - stated(table, below)
        )
        assert (
            abs(Decimal(rows[name].from_cells) - mean(table, above) + mean(table, below))
            <= CENT / 2
        )
    for metric in ("robust", "clean"):
        gain = stated("4", "pmg_aft:beta=0", metric) - stated("4", "tecoa", metric)
        assert Decimal(rows[f"general_{metric}_gain"].value) == gain
    assert Decimal(rows["extra_seconds"].value) == seconds("1", "pmg_aft") - seconds("1", "tecoa")
    for name, table in (("clip_pgd10", "1"), ("clip_autoattack", "3")):
        assert Decimal(rows[name].value) == stated(table, "clip")
        assert abs(Decimal(rows[name].from_cells) - mean(table, "clip")) <= CENT / 2
    gain = Decimal(rows["cifar100_gain_over_tecoa"].value)
    assert stated("s1", "pmg_aft") - stated("s1", "tecoa") == gain == Decimal("4.71")
    for row in rows.values():
        if row.id.startswith("figure5") and row.value:
            assert (row.kind, Decimal(row.value)) == (
                "derived",
                stated("2" if row.metric == "clean" else "1", row.defense),
            )


def test_the_gain_over_the_zero_shot_sets_alone():
    gain = (
        sum(
            percent("1", "pmg_aft", name) - percent("1", "tecoa", name)
            for name in IMAGES
            if name != "tiny_imagenet"
        )
        / 15
    )
    assert round(gain, 2) == Decimal("5.78")


def test_statements_are_stated_derived_or_unavailable():
    frame = statements()
    assert set(frame["kind"]) == {"stated", "derived", "unavailable"}
    assert ((frame["value"] == "") == (frame["kind"] == "unavailable")).all()
    assert set(frame["unit"]) == {"percent", "points", "seconds", ""}


def test_other_papers_are_of_known_origin_and_grade():
    frame = others()
    assert len(frame) == 1044
    assert Counter(frame["grade"]) == {
        "full text": 927,
        "third-party note": 66,
        "readme": 37,
        "third-hand": 14,
    }
    assert Counter(frame["origin"]) == {
        "measured": 760,
        "printed": 241,
        "self-reported": 38,
        "copied": 5,
    }
    assert Counter(frame["defense"]) == {"clip": 131, "tecoa": 180, "pmg_aft": 180, "": 553}
    assert set(IMAGES) < set(frame["dataset"])
    assert set(frame["dataset"]) - set(IMAGES) == {
        "average",
        "Country211",
        "ImageNet-A",
        "ImageNet-O",
        "ImageNet-R",
        "UCF101",
    }
    assert (frame["clean"].notna() | frame["robust"].notna()).all()
    assert frame[["clean", "robust"]].stack().dropna().between(0, 100).all()
    assert (frame.loc[frame["robust"].isna(), ["attack", "eps"]] == "").all(axis=None)


def test_what_is_copied_is_the_mean_of_what_it_was_copied_from():
    frame = others()
    source = frame[
        (frame["paper"] == "TGA-ZSR")
        & (frame["table"] == "Table 3")
        & ~frame["dataset"].isin(["average", "imagenet"])
    ]
    means = source.groupby("method")["robust"].mean().round(2)
    copied = frame[frame["origin"] == "copied"]
    assert len(copied) == 5
    for row in copied.itertuples():
        assert row.robust == pytest.approx(means[row.method], abs=0.011), row.method


def test_what_the_errata_quote_of_other_papers():
    frame = others()
    plain = frame[(frame["defense"] == "clip") & frame["clean"].notna()].set_index(
        ["paper", "dataset"]
    )["clean"]
    assert [plain[paper, "caltech101"].item() for paper in ("TGA-ZSR", "DOC")] == [85.34, 85.69]
    assert [plain[paper, "fgvc_aircraft"].item() for paper in ("TGA-ZSR", "DOC")] == [20.25, 20.07]


def test_a_caller_cannot_change_what_others_get():
    frame, entries = cells(), errata()
    frame["percent"] = 0.0
    entries.clear()
    assert cells()["percent"].sum() > 0
    assert len(errata()) == 23


def test_the_files_speak_of_the_paper_alone():
    files = [
        path
        for path in resources.files(reported).iterdir()
        if path.name.endswith((".csv", ".json", ".md"))
    ]
    assert len(files) == 10
    for path in files:
        text = path.read_text(encoding="utf-8").lower()
        assert not [
            word
            for word in ("audit", "/work", "session", "not captured", "[inference]")
            if word in text
        ], path.name
        if path.name.endswith(".csv"):
            assert "()" not in text


def test_the_readme_explains_every_file_and_word():
    text = file("README.md")
    words = [
        path.name
        for path in resources.files(reported).iterdir()
        if path.name.endswith((".csv", ".json"))
    ]
    for word in [*words, *QUALITIES, *others()["origin"].unique(), *others()["grade"].unique()]:
        assert f"`{word}`" in text
