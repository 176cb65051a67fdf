import subprocess
import sys
from fractions import Fraction
from xml.etree import ElementTree

import pytest
from edits import edited
from test_results import make, outcomes

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import figures, trade_off, zoo
from zsrobust.reporting.rows import Need, rows
from zsrobust.reporting.tables import ROWS
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

SUITE = suites.Suite(
    name="mini",
    title="two sets",
    backbone="none",
    train_on="mini_a",
    datasets=("mini_b", "mini_a"),
    attack={"eps": 6 / 255},
    recipe={"eps": 6 / 255},
    sweep=(6 / 255, 3 / 255),
)
CHOSEN = Selection.of(SUITE)
CURVE = [f"interpolation:of=tecoa,weight={weight}" for weight in (0.2, 0.4, 0.6, 0.8)]
HISTORY = [{"loss": 2.0, "distance": 0.25}, {"loss": 1.0, "distance": 0.375}]


def put(folder, defense, counts, eps="6/255", **changes):
    """Store a row: (robust, clean) of 8 images on each of the two sets."""
    for dataset, (robust, clean) in zip(SUITE.datasets, counts, strict=True):
        cell = make(defense, dataset, robust_correct=robust, clean_correct=clean, **changes)
        results.write(edited(cell, {"attack.eps": eps}), outcomes(), folder)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    put(folder, "clip", [(0, 8), (1, 7)])
    for place, defense in enumerate([*ROWS][1:]):
        put(
            folder,
            defense,
            [(place, 8 - place), (2, 6)],
            training={"epoch_seconds": 1.0, "history": HISTORY},
        )
    for place, defense in enumerate(CURVE):
        put(folder, defense, [(1, 7 - place), (2, 6)])
    for defense in ("tecoa", "pmg_aft"):
        put(folder, f"{defense}:eps=3/255", [(3, 6), (4, 6)], eps="3/255")
    return load_results(folder)


def value(frame, **wanted):
    for column, each in wanted.items():
        frame = frame[frame[column] == each]
    return frame["value"].item()


def test_figure_1_holds_the_cells_and_their_average(stored):
    frame = figures.data("1", stored, CHOSEN)
    assert list(dict.fromkeys(frame["title"])) == ["CLIP", "FT-Standard", "FT-TeCoA", "PMG-AFT"]
    assert list(dict.fromkeys(frame["dataset"])) == ["mini_b", "mini_a", "average"]
    assert value(frame, series="tecoa", dataset="mini_b", metric="robust") == 12.5
    assert value(frame, series="tecoa", dataset="mini_b", metric="clean") == 87.5
    assert value(frame, series="tecoa", dataset="average", metric="robust") == (12.5 + 25) / 2
    cell = frame[
        (frame["series"] == "clip") & (frame["dataset"] == "mini_a") & (frame["metric"] == "clean")
    ].iloc[0]
    assert (cell["low"] / 100, cell["high"] / 100) == pytest.approx(wilson(7, 8))


def test_figure_2_starts_at_zero_and_follows_the_history(stored):
    frame = figures.data("2", stored, CHOSEN)
    for series in ("ft_standard", "tecoa", "pmg_aft"):
        part = frame[frame["series"] == series]
        assert list(zip(part["x"], part["value"], strict=True)) == [(0, 0), (1, 0.25), (2, 0.375)]


def test_figure_4_trains_and_tests_at_the_same_bound(stored):
    at_three = [Need(f"{spec}:eps=3/255", "pgd10", 3 / 255) for spec in ("tecoa", "pmg_aft")]
    assert figures.needs("4", SUITE) == [at_three[0], Need("tecoa"), at_three[1], Need("pmg_aft")]
    frame = figures.data("4", stored, CHOSEN)
    assert value(frame, spec="tecoa:eps=3/255", metric="robust") == 100 * 7 / 16
    assert value(frame, spec="tecoa", metric="robust") == 100 * 3 / 16
    assert list(frame[frame["metric"] == "clean"]["x"]) == [3 / 255, 6 / 255] * 2


def test_figure_4_is_of_suites_with_bounds_alone():
    with pytest.raises(ZSRobustError, match="has no bounds for Figure 4"):
        figures.needs("4", suites.Suite(**{**vars(SUITE), "sweep": ()}))
    with pytest.raises(ZSRobustError, match="Leave out --eps"):
        figures.data("4", load_results("nowhere"), Selection.of(SUITE, eps=3 / 255))


def test_figure_5_holds_the_means_and_the_curve_joins_clip_and_tecoa(stored):
    frame = figures.data("5", stored, CHOSEN)
    found = rows(CHOSEN.cells(stored), SUITE)
    assert set(frame["spec"]) == {*ROWS, *CURVE}
    wanted = {need.defense for need in figures.needs("5", SUITE)}
    assert wanted == {*ROWS, *zoo.titles(), *CURVE}
    for point in frame.to_dict("records"):
        row = found[point["spec"]]
        assert Fraction(point["value"]) / 100 == row.mean(point["metric"])
        assert (point["low"] / 100, point["high"] / 100) == pytest.approx(
            row.interval(point["metric"])
        )
    curve = frame[(frame["series"] == "interpolation") & (frame["metric"] == "clean")]
    assert list(curve["x"]) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert list(curve["spec"])[::5] == ["clip", "tecoa"]


def test_the_needs_of_a_real_suite():
    mini = suites.load("mini")
    assert figures.needs("1", mini) == [
        Need(name) for name in ("clip", "ft_standard", "tecoa", "pmg_aft")
    ]
    assert figures.needs("2", mini) == [Need(name) for name in ("ft_standard", "tecoa", "pmg_aft")]
    assert [need.defense for need in figures.needs("4", suites.load("paper"))] == [
        "tecoa",
        "tecoa:eps=2/255",
        "tecoa:eps=4/255",
        "pmg_aft",
        "pmg_aft:eps=2/255",
        "pmg_aft:eps=4/255",
    ]


def written(drawn):
    """Return the words that stand in a figure."""
    from matplotlib.text import Text

    return [each.get_text() for each in drawn.findobj(Text) if each.get_visible()]


def test_a_series_with_missing_cells_is_left_out_and_named(stored):
    stored = stored[(stored["defense"] != "clip") | (stored["dataset"] == "mini_a")].copy()
    stored.loc[(stored["defense"] == "pmg_aft") & (stored["dataset"] == "mini_b"), "made"] = (
        "another"
    )
    line = "not drawn, incomplete: CLIP, PMG-AFT (of different checkpoints)"
    assert set(figures.data("1", stored, CHOSEN)["series"]) == {"ft_standard", "tecoa"}
    assert line in " ".join(written(figures.draw("1", stored, CHOSEN))).replace("\n", " ")
    assert figures.describe("1", stored, CHOSEN).endswith(f"({line})")
    assert "interpolation" not in set(
        figures.data("5", stored, CHOSEN)["series"]
    )  # it begins at CLIP
    one_set = stored[stored["dataset"] == "mini_a"]  # whose cells know the history as well
    assert not any("not drawn" in each for each in written(figures.draw("2", one_set, CHOSEN)))


@pytest.mark.parametrize(
    ("number", "chosen", "command"),
    [
        ("4", {}, "zsrobust run --suite mini --figure 4"),
        (
            "1",
            {"protocol": "reference", "limit": 4},
            "run --suite mini --protocol reference --figure 1 --limit 4",
        ),
        (
            "2",
            {"eps": 1 / 255},
            "--defense ft_standard --defense tecoa --defense pmg_aft --attack pgd10 --eps 1/255",
        ),
    ],
)
def test_nothing_to_draw_names_the_next_command(stored, number, chosen, command):
    stored = stored if chosen else load_results("nowhere")
    with pytest.raises(ZSRobustError, match=f"Figure {number} has no complete row .*{command}$"):
        figures.draw(number, stored, Selection.of(SUITE, **chosen))


def test_unknown_figures_and_formats(stored):
    with pytest.raises(ZSRobustError, match="There is no figure '3'. Figures: 1, 2, 4, 5"):
        figures.draw("3", stored, CHOSEN)
    with pytest.raises(
        ZSRobustError,
        match=r"The suffix '.gif' is not a figure format. Write to a file that ends in .svg, .png, .pdf",
    ):
        figures.render(figures.draw("2", stored, CHOSEN), ".gif")


@pytest.mark.parametrize("number", figures.FIGURES)
def test_an_svg_is_outlines_with_a_title_the_same_every_time(stored, number):
    content = figures.render(figures.draw(number, stored, CHOSEN), ".svg")
    assert content == figures.render(figures.draw(number, stored, CHOSEN), ".svg")
    tree = ElementTree.fromstring(content)  # noqa: S314  # what we rendered
    found = [(each.tag.rpartition("}")[2], each.text) for each in tree.iter()]
    assert found[1] == ("title", f"Figure {number}. {figures.FIGURES[number].caption}.")
    assert "protocol sound; eps" in dict(found)["description"]
    assert not {"text", "date"} & dict(found).keys()


def test_a_pdf_embeds_its_fonts_and_a_png_is_a_column_wide(stored):
    drawn = figures.draw("2", stored, CHOSEN)
    pdf = figures.render(drawn, ".pdf")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    png = figures.render(drawn, ".png")
    assert int.from_bytes(png[16:20], "big") == 3.25 * 300
    assert pdf == figures.render(figures.draw("2", stored, CHOSEN), ".pdf")


@pytest.mark.parametrize("number", figures.FIGURES)
def test_words_are_large_enough_and_apart(stored, number):
    from matplotlib.text import Annotation, Text

    drawn = figures.draw(number, stored, CHOSEN)
    assert min(each.get_fontsize() for each in drawn.findobj(Text) if each.get_text()) >= 6
    boxes = [each.get_window_extent() for each in drawn.findobj(Annotation)]
    assert len(boxes) == (len(ROWS) + len(CURVE) if number == "5" else 0)
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


def test_drawing_leaves_the_users_settings_alone(stored):
    import matplotlib

    before = matplotlib.rcParams.copy()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none"}):
        odd = figures.render(figures.draw("2", stored, CHOSEN), ".svg")
    assert odd == figures.render(figures.draw("2", stored, CHOSEN), ".svg")
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


def test_the_description_holds_the_numbers(stored):
    assert figures.describe("5", stored, CHOSEN).splitlines()[:3] == [
        "Figure 5. Average robust against average clean accuracy (%), under PGD-10.",
        "Suite mini (two sets); trained on mini_a; protocol sound; eps 6/255; thin lines are 95% intervals.",
        "CLIP: robust 6.25; clean 93.75.",
    ]
    assert "interpolation: robust 6.25 at weight 0, 18.75 at weight 0.2" in figures.describe(
        "5", stored, CHOSEN
    )
    assert (
        "CLIP: robust 0.00 on B, 12.50 on A, 6.25 on average; clean 100.00 on B"
        in figures.describe("1", stored, CHOSEN)
    )
    assert "PMG-AFT: distance 0.0000 at epoch 0, 0.2500 at epoch 1, 0.3750 at" in figures.describe(
        "2", stored, CHOSEN
    )
    assert "FT-TeCoA: robust 43.75 at eps 3/255, 18.75 at eps 6/255; clean" in figures.describe(
        "4", stored, CHOSEN
    )


def test_the_module_starts_without_matplotlib_and_torch():
    script = "import sys, zsrobust.reporting.figures; assert not {'matplotlib', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """The whole zoo, most of it in a small region, some of it in one point."""
    folder = tmp_path_factory.mktemp("crowd")
    for place, need in enumerate(figures.needs("5", SUITE)):
        robust, clean = 200 + 7 * (place % 5), 520 + 11 * (place % 7)
        put(folder, need.defense, [(robust, clean)] * 2, images=1000)
    return load_results(folder)


def test_the_whole_zoo_is_named_beside_its_points(crowd):
    from matplotlib.text import Annotation

    drawn = figures.draw("5", crowd, CHOSEN)
    (axes,) = drawn.axes
    names = drawn.findobj(Annotation)
    assert len(names) == len({*ROWS, *zoo.titles(), *CURVE})
    boxes = [each.get_window_extent() for each in names]
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)
    assert all(axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max) for box in boxes)
    for name, box in zip(names, boxes, strict=True):  # in reach of its point
        point = axes.transData.transform(name.xy)
        nearest = [min(max(point[i], box.min[i]), box.max[i]) for i in (0, 1)]
        gap = sum((a - b) ** 2 for a, b in zip(point, nearest, strict=True)) ** 0.5
        assert gap <= 60 * drawn.dpi / 72
    assert not any("not drawn" in each for each in written(drawn))


def test_kinds_of_methods_differ_without_color(crowd):
    frame = figures.data("5", crowd, CHOSEN)
    kinds = {zoo.method(name).kind for name in frame["series"] if name != "interpolation"}
    assert {"reference", "tower", "prompts", "mixture"} == kinds == set(trade_off.LOOKS)
    looks = [(look.marker, look.filled) for look in trade_off.LOOKS.values()]
    assert len(set(looks)) == len(looks)
    legend = set(written(figures.draw("5", crowd, CHOSEN)))
    assert {*trade_off.KINDS.values(), "front: no point is better in both"} <= legend


def test_the_front_is_of_points_that_nothing_dominates(tmp_path):
    # robust and clean of 8: FARE and FT-TeCoA are one point; PMG-AFT is dominated by CLIP's clean.
    for spec, robust, clean in (
        ("clip", 1, 8),
        ("ft_standard", 1, 7),
        ("tecoa", 3, 5),
        ("fare", 3, 5),
        ("pmg_aft", 2, 5),
        ("vpt_tecoa", 4, 4),
    ):
        put(tmp_path, spec, [(robust, clean)] * 2)
    frame = figures.data("5", load_results(tmp_path), CHOSEN)
    best = trade_off.front(trade_off.positions(frame))
    assert list(best["series"]) == ["vpt_tecoa", "tecoa", "fare", "clip"]
    assert figures.describe("5", load_results(tmp_path), CHOSEN).splitlines()[-2] == (
        "No other point is better in both, from robust to clean: VPT-TeCoA, FT-TeCoA, FARE, CLIP."
    )


def test_the_ends_of_the_curve_are_not_named_twice_on_the_front(stored):
    best = trade_off.front(trade_off.positions(figures.data("5", stored, CHOSEN)))
    assert not best.duplicated(["series", "x"]).any()
    curve = best[best["series"] == "interpolation"]
    assert ((curve["x"] > 0) & (curve["x"] < 1)).all()


def test_a_row_of_an_oblivious_attack_is_left_out(stored):
    stored = stored.copy()
    stored.loc[stored["defense"] == "pmg_aft", "knowledge"] = "oblivious"
    assert "pmg_aft" not in set(figures.data("5", stored, CHOSEN)["series"])
    assert "PMG-AFT (oblivious attack)" in figures.describe("5", stored, CHOSEN)


def test_no_marker_of_figure_4_hides_another(stored):
    same = stored.copy()
    same[["robust_correct", "clean_correct"]] = [3, 6]  # all points of both methods coincide
    drawn = figures.draw("4", same, CHOSEN)
    for axes in drawn.axes:
        first, second = axes.lines
        assert first.get_xydata().tolist() == second.get_xydata().tolist()  # no jitter
        assert first.get_markersize() > 2 * second.get_markersize()
        assert first.get_marker() != second.get_marker()
        assert {line.get_markerfacecolor() for line in axes.lines} == {"none"}
