"""The report: its numbers are the table's, in the file and in a real browser; what is hostile stays text."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np
import pytest
from edits import edited
from PIL import Image

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import columns, figures
from zsrobust.reporting.columns import DASH, percent
from zsrobust.reporting.report import build
from zsrobust.reporting.report.gallery import _png
from zsrobust.reporting.rows import rows
from zsrobust.reporting.standings import rankings
from zsrobust.reporting.tables import ROWS
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.flags import look_up
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.results.store import Store, load_results, read, write
from zsrobust.settings import suites

MINI = suites.load("mini")
HOSTILE = '</script><img src=x onerror="window.pwned=1">'
ZERO = "attack_zero_gradients"
DEFENSES = {"clip": "CLIP", "pmg_aft": "PMG-AFT", "tecoa": "FT-TeCoA", "weights:x": HOSTILE}


def cell(
    folder: Path,
    defense: str,
    dataset: str,
    *,
    attack: str = "pgd10",
    eps: str = "6/255",
    images: int = 40,
    limit: int | None = None,
    suite: str = "mini",
    protocol: str = "sound",
    failed: bool = False,
    flags: tuple[str, ...] = (),
    messages: list[str] | None = None,
    named: bool = True,
    samples: bool = False,
    seed: int = 0,
    knowledge: str = "",
) -> tuple[Result, Outcomes]:
    """Write a cell whose numbers differ from every other's."""
    random = np.random.default_rng(sum(map(ord, f"{defense}{dataset}{attack}{eps}{limit}")))
    labels = np.arange(images) % 4
    clean = np.where(random.random(images) < 0.8, labels, (labels + 1) % 4)
    adversarial = np.where(random.random(images) < 0.5, clean, (labels + 2) % 4)
    names = np.array(["red circle", HOSTILE, "blue star", "<b>ring</b>"]) if named else None
    outcomes = Outcomes(labels, clean, adversarial, np.full(images, 0.02, np.float32), names)
    about = {
        "name": dataset,
        "title": dataset.removeprefix("mini_").capitalize(),
        "images": images,
        "limit": limit,
        "classes": 4,
        "templates": ["a photo of a {}"],
        "prompts": "0" * 16,
        "digest": f"digest of {dataset}",
    }
    identity = {
        "suite": suite,
        "protocol": protocol,
        "defense": {"spec": defense, "title": DEFENSES[defense]},
        "attack": {"spec": attack, "eps": eps, "steps": 10},
        "dataset": about,
        "seed": seed,
    }
    if knowledge:
        identity["defense"]["knowledge"] = knowledge
    counts: dict[str, Any] = {
        "clean_correct": outcomes.clean_correct,
        "robust_correct": outcomes.robust_correct,
    }
    if failed:
        error = f"Traceback (most recent call last):\nzsrobust.evaluation.CheatError: left [0, 1] {HOSTILE}\n"
        counts = {"status": "failed", "error": error}
    result = Result(
        identity=Identity.from_json(identity),
        images=images,
        **counts,
        flags=list(flags),
        messages=messages,
        seconds=1.5,
        forward=100,
        backward=50,
        device="cpu",
        versions={"zsrobust": "0.1.0", "torch": "2.6"},
    )
    looks = None
    if samples:
        pixels, change = (
            random.integers(0, 256, (2, 3, 32, 32)),
            random.integers(-127, 128, (2, 3, 32, 32)),
        )
        looks = Samples(np.array([0, 1]), pixels.astype(np.uint8), change.astype(np.int8), 6 / 255)
    write(result, None if failed else outcomes, folder, None if failed else looks)
    return result, outcomes


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete row, an incomplete one, a failed cell, a hostile defense; subsets, another eps, suite and protocol."""
    folder = tmp_path_factory.mktemp("report") / "results"
    for place, dataset in enumerate(MINI.datasets):
        cell(folder, "tecoa", dataset, samples=place < 2, images=40 + place)
        cell(
            folder,
            "pmg_aft",
            dataset,
            samples=place < 2,
            images=40 + place,
            flags=(ZERO,) if place == 1 else (),
        )
        if dataset != "mini_cells":
            cell(folder, "clip", dataset, images=40 + place, named=False)
        cell(folder, "tecoa", dataset, attack="autoattack", images=32, limit=32)
    cell(folder, "weights:x", "mini_shapes", flags=("attack_warned",), messages=[HOSTILE])
    cell(folder, "weights:x", "mini_colors", failed=True)
    cell(folder, "tecoa", "mini_shapes", eps="3/255")
    cell(folder, "tecoa", "mini_shapes", attack="autoattack")
    cell(folder, "tecoa", "mini_shapes", limit=16, images=16)
    cell(folder, "tecoa", "birds", suite="mine")
    cell(folder, "tecoa", "mini_shapes", protocol="reference")
    return folder


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    return build(Store(folder))


def expected(folder: Path, metric: Any = "robust", **chosen: Any) -> dict[str, list[str]]:
    """What the tables print, by the method's title: the means, and then the datasets."""
    found = rows(Selection.of(MINI, **chosen).cells(load_results(folder)), MINI)
    printed = {}
    for spec in sorted(found, key=lambda spec: list(DEFENSES).index(spec)):
        shares = [found[spec].mean(metric), found[spec].mean(metric, zero_shot=True)]
        counts = [found[spec].counts(name, metric) for name in MINI.datasets]
        of_means = (
            counts,
            [n for n, name in zip(counts, MINI.datasets, strict=True) if name != "mini_train"],
        )
        for each, plain in zip(of_means, list(shares), strict=True):
            above = [max(0, (Fraction(*n) - Fraction(1, 4)) / Fraction(3, 4)) for n in each if n]
            shares.append(None if plain is None else sum(above, Fraction(0)) / len(above))
        shares += [each and Fraction(*each) for each in counts]
        printed[DEFENSES[spec]] = [DASH if share is None else percent(share) for share in shares]
    return {title: printed[title] for title in [*ROWS.values(), HOSTILE] if title in printed}


class Reader(HTMLParser):
    """Makes a tree of a page."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in self.VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def parsed(page: str) -> Element:
    reader = Reader()
    reader.feed(page.removeprefix("<!doctype html>"))
    return reader.builder.close()


def of_class(element: Element, name: str) -> list[Element]:
    return [each for each in element.iter() if name in each.get("class", "").split()]


def words(element: Element) -> str:
    return "".join(element.itertext())


def printed(view: Element, metric: str = "robust") -> dict[str, list[str]]:
    """What a view shows, by the method's title: the means, and then the datasets; without the time."""
    (board,) = (each for each in of_class(view, "board") if each.get("data-metric") == metric)
    return {
        str(row.findtext("th")): [words(value) for value in of_class(row, "value")][:-1]
        for row in board.findall(".//tbody/tr")
    }


def details(tree: Element, place: str) -> Element:
    """Where the numbers of the cell come from that is stored at a place."""
    return next(
        each for each in of_class(tree, "details") if place in [dd.text for dd in each.iter("dd")]
    )


def test_the_same_folder_makes_the_same_page(folder, page):
    assert build(Store(folder)) == page


def test_every_cell_is_in_the_page(folder, page):
    tree = parsed(page)
    opened = {each.get("popovertarget") for each in of_class(tree, "number")}
    for path in load_results(folder)["path"]:
        found = details(tree, str(Path(path).relative_to(folder)))
        assert found.get("id") in opened
        (identity,) = of_class(found, "identity")
        assert json.loads(words(identity)) == read(Path(path)).identity.to_json()


@pytest.mark.parametrize("metric", ["robust", "clean"])
def test_numbers_are_those_of_the_tables(folder, page, metric):
    shown = printed(of_class(parsed(page), "view")[0], metric)
    assert shown == expected(folder, metric)
    assert list(shown) == [
        "CLIP",
        "FT-TeCoA",
        "PMG-AFT",
        HOSTILE,
    ]  # the paper's order, then the others
    assert shown["CLIP"][0] == DASH  # its row misses a cell
    assert shown[HOSTILE][3] == DASH  # a failed cell


def test_without_scripts_every_view_is_shown(page):
    tree = parsed(page)
    first, *others = of_class(tree, "view")
    assert first.get("hidden") is None
    assert all(view.get("hidden") == "" for view in others)
    (style,) = tree.findall("head/noscript/style")
    assert (
        words(style)
        == ".view[hidden], .board[hidden], .ranking[hidden] { display: block !important }"
    )
    digest = base64.b64encode(hashlib.sha256(words(style).encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page


def test_views_choose_images(page):
    names = ("suite", "protocol", "attack", "eps", "images", "seed")
    views = [
        [view.get(f"data-{name}") for name in names] for view in of_class(parsed(page), "view")
    ]
    assert {(suite, *key) for suite, protocol, *key, _ in views if protocol == "sound"} == {
        ("mini", "pgd10", "6/255", "suite"),
        ("mini", "pgd10", "6/255", "16"),
        ("mini", "pgd10", "3/255", "suite"),
        ("mini", "autoattack", "6/255", "suite"),
        ("mini", "autoattack", "6/255", "all"),
        ("mine", "pgd10", "6/255", "suite"),
    }
    assert views[0] == ["mini", "sound", "pgd10", "6/255", "suite", "0"]


def test_a_column_added_in_one_place_is_in_the_leaderboard(folder, monkeypatch):
    added = columns.Column(
        "sum", "Sum", lambda row: columns.Entry(f"{len(row.cells)} in all"), places={"report"}
    )
    monkeypatch.setattr(columns, "DETAILS", (*columns.DETAILS, added))
    for board in of_class(parsed(build(Store(folder))), "board"):
        assert [words(each) for each in board.iter("th") if each.get("scope") == "col"][-1] == "Sum"
        assert all("in all" in words(row[-1]) for row in board.findall(".//tbody/tr"))


def test_hostile_text_is_escaped(page):
    tree = parsed(page)
    assert len(list(tree.iter("script"))) == 1
    assert not list(tree.iter("b"))
    for image in tree.iter("img"):
        assert str(image.get("src")).startswith("data:image/")
    for name in (HOSTILE, "<b>ring</b>"):
        assert name in words(tree)
    for element in tree.iter():
        assert not [name for name in element.attrib if name == "style" or name.startswith("on")]


def test_it_needs_nothing_else(page):
    addresses = [
        address
        for element in parsed(page).iter()
        for name in ("src", "href")
        if (address := element.get(name)) is not None
    ]
    links = {each.get("href") for each in parsed(page).iter("a")}  # readers may follow them
    assert addresses
    assert all(each.startswith(("data:", "#")) for each in addresses if each not in links)
    assert "default-src 'none'" in page
    assert "url(" not in page


def test_flags_are_explained_and_failures_listed(page):
    text = re.sub(r"<[^>]+>", "", page)
    for flag in (look_up(ZERO), look_up("attack_warned")):
        assert flag.sentence in text
        assert flag.means in text
        assert f"What to do: {flag.remedy}" in text
    (section,) = (each for each in parsed(page).iter("section") if each.get("id") == "flags")
    assert HOSTILE in [code.text for code in section.iter("code")]
    assert "PMG-AFT under pgd10, eps 6/255, mini, sound: Colors" in text
    assert "zsrobust.evaluation.CheatError: left [0, 1] &lt;/script&gt;" in text


def test_figures_are_described(folder, page):
    described = figures.describe("1", load_results(folder), Selection.of(MINI))
    assert of_class(parsed(page), "plate")
    assert described.splitlines()[0] in page


def test_what_an_oblivious_attack_left_is_never_the_best(tmp_path):
    right = {
        spec: cell(tmp_path, spec, "mini_shapes")[0].robust_correct
        for spec in ("tecoa", "pmg_aft", "clip")
    }
    *_, second, best = sorted(right, key=right.__getitem__)
    assert right[second] < right[best]
    cell(tmp_path, best, "mini_shapes", knowledge="oblivious")
    board = of_class(parsed(build(Store(tmp_path))), "board")[0]
    strong = [row.findtext("th") for row in board.findall(".//tbody/tr") if of_class(row, "best")]
    assert strong == [DEFENSES[second]]
    told = {row.findtext("th"): words(row.find("th")) for row in board.findall(".//tbody/tr")}
    assert "the attack does not know the defense; not ranked" in told.pop(DEFENSES[best])
    assert not any("know" in each for each in told.values())


@pytest.mark.parametrize("templates", [None, {"a": 1}, 7, [], [3, None]])
def test_prompts_of_any_type_are_printed_or_left_out(tmp_path, templates):
    result, outcomes = cell(tmp_path, "tecoa", "mini_shapes")
    write(edited(result, {"dataset.templates": templates}), outcomes, tmp_path)
    (dataset,) = of_class(parsed(build(Store(tmp_path))), "dataset")
    assert "40 images. Classes: 4." in words(dataset)
    assert ("Prompts: “3”, “None”." in words(dataset)) == (templates == [3, None])


def test_damaged_outcomes_are_noted(tmp_path):
    cell(tmp_path, "tecoa", "mini_shapes")
    cell(tmp_path, "pmg_aft", "mini_shapes", samples=True)
    first, second = (
        next(tmp_path.rglob(f"{name}/mini_shapes.npz")) for name in ("tecoa", "pmg_aft")
    )
    first.unlink()
    second.write_bytes(b"damaged")
    second.with_suffix(".samples.npz").write_bytes(b"damaged")
    (dataset,) = of_class(parsed(build(Store(tmp_path))), "dataset")
    assert words(dataset).count("Run the cell again") == 3  # both outcomes, and the samples
    assert not of_class(dataset, "classes")
    assert not of_class(dataset, "gallery")
    second.write_bytes(
        Outcomes(np.arange(2), np.arange(2), np.arange(2), np.zeros(2, np.float32)).to_bytes()
    )
    assert "does not belong to the counts of this cell" in build(Store(tmp_path))


def test_images_are_those_that_were_attacked(folder, page):
    samples = Samples.read(folder / "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes.json")
    assert samples is not None
    dataset = of_class(of_class(parsed(page), "view")[0], "dataset")[0]
    assert dataset.get("data-dataset") == "mini_shapes"
    (card,) = (each for each in of_class(dataset, "card") if each.findtext("h5") == "FT-TeCoA")
    images = list(of_class(card, "triple")[0].iter("img"))
    clean, _, adversarial = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image.get("src", "").partition(",")[2]))))
        .transpose(2, 0, 1)
        .astype(int)
        for image in images
    )
    assert np.array_equal(clean, samples.pixels[0])
    assert abs(adversarial - clean).max() == 6
    assert "magnified 21 times" in str(images[1].get("alt"))


def test_images_beyond_the_budget_are_left_out_with_a_note(folder, page, monkeypatch):
    monkeypatch.setattr("zsrobust.reporting.report.datasets.BUDGET", 0)
    shown = build(Store(folder))
    assert "the page would be too large" in shown
    assert "the page would be too large" not in page
    assert len(of_class(parsed(shown), "card")) < len(of_class(parsed(page), "card"))


@pytest.mark.parametrize(("side", "shown"), [(32, 32), (224, 112), (250, 83)])
def test_large_images_are_reduced(side, shown):
    image = Image.open(io.BytesIO(base64.b64decode(_png(np.zeros((3, side, side))))))
    assert image.size == (shown, shown)


@pytest.mark.parametrize("present", [True, False])
def test_a_folder_without_results_is_an_error(tmp_path, present):
    with pytest.raises(ZSRobustError, match=r"has no results\. Next: zsrobust run"):
        build(Store(tmp_path if present else tmp_path / "nowhere"))


# In a real browser.

SHOWN = ".view:not([hidden]) .board:not([hidden])"
OPENED = ".details:popover-open"


class Browser:
    """A page open in Chromium, and what its tests ask of it."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, fragment: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)
        self.settle()

    def settle(self) -> None:
        """Wait for what the page does after an event, such as a change of its address."""
        self.run("return new Promise((done) => setTimeout(done, 50))")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.run(
            "arguments[0].scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'})",
            self.find(selector),
        )
        self.find(selector).click()

    def choose(self, name: str, value: str) -> None:
        self.find(f"#filter-{name} option[value='{value}']").click()

    @property
    def fragment(self) -> str:
        return str(self.run("return location.hash"))

    @property
    def board(self) -> dict[str, list[str]]:
        """The leaderboard as text, without the time."""
        script = """return [...document.querySelectorAll(arguments[0] + " tbody tr")].map((row) =>
            [row.cells[0].firstChild.textContent, ...[...row.querySelectorAll(".value")].slice(0, -1).map((each) => each.textContent)])"""
        return {row[0]: row[1:] for row in self.run(script, SHOWN)}

    def sorted_by(self) -> list[list[str]]:
        script = f"""return [...document.querySelectorAll("{SHOWN} [aria-sort]")].map((each) => [each.dataset.sort, each.ariaSort])"""
        return list(self.run(script))


@contextmanager
def started(address: str) -> Iterator[Browser]:
    """Chromium without a window, for the page at an address; without it, the test is skipped."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    manager = shutil.which("chromedriver")
    if not program or not manager:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for name in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "force-prefers-reduced-motion",
    ):
        options.add_argument(f"--{name}")
    options.add_argument("--window-size=1400,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(manager))
    try:
        yield Browser(driver, address)
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def chromium(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    with started(path.as_uri()) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The page, freshly opened; after each test the console is clean, and nothing came from elsewhere or from the data."""
    chromium.open()
    yield chromium
    assert chromium.driver.get_log("browser") == []
    assert (
        chromium.run("return performance.getEntriesByType('resource').map((each) => each.name)")
        == []
    )
    assert chromium.run("return window.pwned") is None


def test_browser_shows_the_numbers_of_the_tables(browser, folder):
    assert browser.board == expected(folder)
    browser.click("#metric-clean + span")
    assert browser.board == expected(folder, "clean")
    assert "metric=clean" in browser.fragment


def test_browser_sorts(browser, folder):
    assert browser.sorted_by() == [["method", "ascending"]]
    browser.click(f"{SHOWN} [data-sort=average] button")
    assert browser.sorted_by() == [["average", "descending"]]
    means = {
        title: float(numbers[0])
        for title, numbers in expected(folder).items()
        if numbers[0] != DASH
    }
    best = sorted(means, key=means.__getitem__, reverse=True)
    assert list(browser.board) == [*best, "CLIP", HOSTILE]  # what has no mean stays last
    assert browser.fragment.endswith("sort=average&dir=desc")
    assert (
        browser.find("#status").get_attribute("textContent")
        == "Sorted by Average, descending; 4 rows."
    )
    browser.click(f"{SHOWN} [data-sort=average] button")
    assert browser.sorted_by() == [["average", "ascending"]]
    assert list(browser.board) == [*best[::-1], "CLIP", HOSTILE]


def test_browser_sorts_by_keyboard(browser, folder):
    browser.run("arguments[0].focus()", browser.find(f"{SHOWN} [data-sort=mini_shapes] button"))
    for direction in ("descending", "ascending"):
        browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
        assert browser.sorted_by() == [["mini_shapes", direction]]
    printed = {title: float(numbers[4]) for title, numbers in expected(folder).items()}
    shown = list(browser.board)
    assert [printed[title] for title in shown] == sorted(printed.values())


def test_browser_filters(browser, folder):
    browser.choose("attack", "autoattack")
    assert "attack=autoattack" in browser.fragment
    assert browser.board == expected(folder, attack="autoattack")
    browser.choose("images", "all")
    assert browser.board["FT-TeCoA"][:6] == [
        *[DASH] * 4,
        expected(folder, attack="autoattack", limit=10**9)["FT-TeCoA"][4],
        DASH,
    ]
    browser.choose("attack", "pgd10")
    browser.choose("eps", "3/255")
    assert "eps=3/255" in browser.fragment
    assert list(browser.board) == ["FT-TeCoA"]
    browser.choose("protocol", "reference")
    assert list(browser.board) == ["FT-TeCoA"]
    browser.choose("suite", "mine")
    mean, above, measured = browser.board["FT-TeCoA"]
    assert mean == above == DASH != measured  # nobody knows which datasets the suite has
    browser.driver.back()
    browser.settle()
    assert "protocol reference" in browser.find(f"{SHOWN} .caption").text


def test_browser_opens_what_the_address_says(browser, folder):
    browser.open(
        "#suite=mini&protocol=sound&attack=autoattack&eps=6/255&metric=clean&sort=mini_shapes&dir=asc"
    )
    assert browser.board == expected(folder, "clean", attack="autoattack")
    assert browser.sorted_by() == [["mini_shapes", "ascending"]]
    browser.open(
        "#suite=none&attack=%E0&eps&sort=nonsense&dataset=__proto__"
    )  # nonsense is the first view
    assert browser.board == expected(folder)
    assert browser.sorted_by() == [["method", "ascending"]]


def test_browser_shows_where_a_number_comes_from(browser, folder):
    stored_cell = read(folder / "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes.json")
    button = browser.find(f"{SHOWN} tbody tr:nth-child(2) td:nth-child(6) .number")
    assert button.get_attribute("title").startswith(
        f"{stored_cell.robust_correct} of 40 images; 95% interval"
    )
    browser.run("arguments[0].focus()", button)
    browser.driver.switch_to.active_element.send_keys("\ue007")
    shown = browser.find(OPENED).text
    assert str(stored_cell.outcomes) in shown
    assert json.loads(browser.find(f"{OPENED} .identity").text) == stored_cell.identity.to_json()
    assert "torch 2.6" in shown
    assert "100 images forward, 50 backward" in shown
    browser.driver.switch_to.active_element.send_keys("\ue004")  # Tab: into what was opened
    assert browser.run("return document.activeElement.closest('.details')") == browser.find(OPENED)
    browser.driver.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not browser.run("return document.querySelector(arguments[0])", OPENED)
    assert browser.driver.switch_to.active_element == button


def test_browser_explains_means_and_failures(browser):
    browser.click(f"{SHOWN} tbody tr:nth-child(2) td:nth-child(2) .number")
    assert "16 datasets, each weighing the same" in browser.find(OPENED).text
    browser.click(f"{OPENED} .close")
    assert not browser.run("return document.querySelector(arguments[0])", OPENED)
    browser.click(f"{SHOWN} tbody tr:nth-child(4) td:nth-child(7) .number")
    assert f"CheatError: left [0, 1] {HOSTILE}" in browser.find(f"{OPENED} pre").text


def test_browser_shows_a_dataset_class_by_class(browser, folder):
    dataset = ".view:not([hidden]) [data-dataset=mini_colors]"
    browser.click(f"{dataset} summary")
    browser.settle()
    assert "dataset=mini_colors" in browser.fragment
    script = "return [...arguments[0].querySelectorAll('.classes tbody tr')].map((row) => [...row.cells].map((each) => each.textContent))"
    shown = browser.run(script, browser.find(dataset))
    outcomes = {
        name: Outcomes.read(folder / f"mini/sound/pgd10-eps=6-255/{name}/mini_colors.npz")
        for name in ("tecoa", "pmg_aft", "clip")
    }
    assert outcomes["tecoa"].classes is not None
    by_name = {row[0]: row for row in shown}
    for label, name in enumerate(outcomes["tecoa"].classes):
        numbers = []
        for each in (outcomes["tecoa"], outcomes["pmg_aft"]):
            of_class_ = each.labels == label
            right = of_class_ & (each.clean == label)
            numbers += [
                percent(Fraction(int(kept.sum()), int(of_class_.sum())))
                for kept in (right, right & (each.adversarial == label))
            ]
        assert by_name[name][1:2] + by_name[name][4:8] == [
            str((outcomes["tecoa"].labels == label).sum()),
            *numbers,
        ]
    assert by_name["class 0"][4:8] == [DASH] * 4  # of a cell that stored no names
    browser.click(f"{dataset} [data-sort='robust-1'] button")
    column = [float(row[5]) for row in browser.run(script, browser.find(dataset)) if row[5] != DASH]
    assert column == sorted(column, reverse=True)
    assert "dataset=mini_colors" in browser.fragment  # the board's order is another matter
    browser.click(f"{dataset} summary")
    browser.settle()
    assert "dataset=" not in browser.fragment


def test_browser_opens_the_dataset_of_the_address(browser):
    browser.open("#dataset=mini_shapes")
    summary = browser.find(".view:not([hidden]) [data-dataset=mini_shapes] summary")
    assert browser.driver.switch_to.active_element == summary
    assert browser.run("return arguments[0].parentElement.open", summary)
    browser.choose("eps", "3/255")
    assert browser.fragment.endswith("dataset=mini_shapes")
    assert browser.find(".view:not([hidden]) [data-dataset=mini_shapes] .methods").is_displayed()


def test_browser_shows_the_gallery(browser):
    browser.open("#dataset=mini_shapes")
    dataset = ".view:not([hidden]) [data-dataset=mini_shapes]"
    images = browser.run(
        """return Promise.all([...document.querySelectorAll(arguments[0])].map((each) => {
        each.loading = "eager"; return each.decode().then(() => [each.naturalWidth, each.alt])}))""",
        f"{dataset} .gallery img",
    )
    assert len(images) == 2 * 2 * 3
    assert {width for width, _ in images} == {32}
    assert "magnified 21 times" in images[1][1]
    shown = browser.find(f"{dataset} .gallery").text
    assert "red circle" in shown
    assert HOSTILE in shown  # the name of a class, as text


def test_browser_draws_the_figures(browser):
    widths = browser.run(
        "return Promise.all([...document.querySelectorAll('.plate')].map((each) => each.decode().then(() => each.naturalWidth)))"
    )
    assert widths
    assert all(widths)


def test_browser_goes_to_sections_and_keeps_the_address(browser):
    browser.choose("attack", "autoattack")
    before = browser.fragment
    browser.click("nav a[href='#flags']")
    assert browser.fragment == before
    assert browser.driver.switch_to.active_element == browser.find("#flags")
    assert HOSTILE in browser.find("#flags").text
    browser.click("#theme")
    assert browser.run("return document.documentElement.dataset.theme") == "light"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_text_has_contrast(browser, scheme):
    """4.5 to 1, of everything that is text, as WCAG reckons it."""
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.open()
    worst = browser.run("""
        const light = (color) => color.map((each) => (each /= 255) <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
            .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const paint = (colors) => { for (const each of colors) { canvas.fillStyle = each; canvas.fillRect(0, 0, 1, 1) }
            return light([...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)) };
        const soft = getComputedStyle(document.querySelector("#filters input:checked + span")).backgroundColor;
        return Math.min(...[...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()
            && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((each) => {
                const backs = each.closest(".number") ? [soft] : [];
                for (let up = each; up; up = up.parentElement) backs.unshift(getComputedStyle(up).backgroundColor);
                const [a, b] = [paint([...backs]), paint([...backs, getComputedStyle(each).color])].sort((x, y) => x - y);
                return (b + 0.05) / (a + 0.05);
            }))""")
    assert worst >= 4.5


def test_browser_is_usable_on_a_narrow_screen(browser):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for fragment in ("", "#dataset=mini_shapes"):
            browser.open(fragment)
            assert (
                browser.run("return document.documentElement.scrollWidth") <= 360
            )  # tables scroll inside their regions
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


RANKING = ".ranking:not([hidden])"


def ranked(browser) -> list[list[str]]:
    script = """return [...document.querySelectorAll(arguments[0] + " tbody tr:not([hidden])")].map((row) =>
        [row.cells[0].textContent, row.cells[1].querySelector(".open").firstChild.textContent.trim()])"""
    return list(browser.run(script, RANKING))


def test_browser_ranks_searches_and_copies(browser, folder):
    found = rankings(load_results(folder), [MINI])[0]
    everything = [[str(each.rank or "—"), each.title] for each in found.standings]
    assert ranked(browser) == everything
    browser.run("arguments[0].value = 'teco'", browser.find("#choice-find"))
    browser.find("#choice-find").send_keys("A")
    assert ranked(browser) == [each for each in everything if each[1] == "FT-TeCoA"]
    assert "find=tecoA" in browser.fragment
    browser.click("[data-copy=csv]")
    text = browser.find("#copy-text").get_attribute("value").splitlines()
    assert text[0].startswith("Rank,Defense,Kind,Worst case,Worst case: 95% interval,")
    (one,) = [each for each in found.standings if each.title == "FT-TeCoA"]
    assert text[1].startswith(f"{one.rank},FT-TeCoA,trained,{one.worst.text},")
    assert len(text) == 2
    browser.click("#copy .close")
    browser.click("[data-copy=tex]")
    assert rf"{one.worst.text} (" in browser.find("#copy-text").get_attribute("value")
    browser.click("#copy .close")
    browser.open("#kind=test-time")
    assert ranked(browser) == []
    browser.open("#ranking=99")  # nonsense is the first ranking
    assert ranked(browser) == everything


def test_browser_shows_the_attacks_of_a_defense(browser):
    browser.click(f"{RANKING} tbody tr:first-child .open")
    shown = browser.find(".details:popover-open").text
    assert "autoattack" in shown
    assert "https://arxiv.org/abs/2212.07016" in browser.run(
        "return [...document.querySelectorAll('.details:popover-open a')].map((each) => each.href)"
    )
