"""The report: its numbers are the table's, in the file and in a real browser; what is hostile stays text."""

import base64
import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import figures
from zsrobust.reporting.columns import DASH, percent
from zsrobust.reporting.report import build
from zsrobust.reporting.report.gallery import _png
from zsrobust.reporting.rows import rows
from zsrobust.reporting.tables import ROWS
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.flags import look_up
from zsrobust.results.selection import Selection
from zsrobust.results.store import load_results, read, write
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
    result = Result(
        identity,
        images=images,
        clean_correct=outcomes.clean_correct,
        robust_correct=outcomes.robust_correct,
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
    if failed:
        result.status, result.clean_correct, result.robust_correct = "failed", 0, 0
        result.error = f"Traceback (most recent call last):\nzsrobust.evaluation.CheatError: left [0, 1] {HOSTILE}\n"
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
    return build(folder)


def stored(page: str, name: str = "page") -> Any:
    return json.loads(re.findall(rf'id="data-{name}">(.*?)</script>', page)[0])


def expected(folder: Path, metric: Any = "robust", **chosen: Any) -> dict[str, list[str]]:
    """What the tables print, by the method's title: the means, and then the datasets."""
    found = rows(Selection.of(MINI, **chosen).cells(load_results(folder)), MINI)
    printed = {}
    for spec in sorted(found, key=lambda spec: list(DEFENSES).index(spec)):
        shares = [found[spec].mean(metric), found[spec].mean(metric, zero_shot=True)]
        shares += [found[spec].share(name, metric) for name in MINI.datasets]
        printed[DEFENSES[spec]] = [DASH if share is None else percent(share) for share in shares]
    return {title: printed[title] for title in [*ROWS.values(), HOSTILE] if title in printed}


class Reader(HTMLParser):
    """Collects the rows of the first table, every tag, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.tags[-1] in ("td", "th", "strong"):
            self.rows[-1][-1] += data.strip()


def parsed(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_same_folder_makes_the_same_page(folder, page):
    assert build(folder) == page


def test_every_cell_is_in_the_page(folder, page):
    data = stored(page)
    frame = load_results(folder)
    assert [each["path"] for each in data["cells"]] == [
        str(Path(path).relative_to(folder)) for path in frame["path"]
    ]
    shown = {number for view in data["views"] for row in view["rows"] for number in row["cells"]}
    assert shown - {None} == set(range(len(frame)))
    for each, path in zip(data["cells"], frame["path"], strict=True):
        assert {name: data["pool"][number] for name, number in each["identity"].items()} == read(
            Path(path)
        ).identity


@pytest.mark.parametrize("metric", ["robust", "clean"])
def test_numbers_are_those_of_the_tables(folder, page, metric):
    data = stored(page)
    view = data["views"][0]
    printed = {}
    for row in view["rows"]:
        numbers = [
            None if number is None else data["cells"][number].get(metric) for number in row["cells"]
        ]
        printed[row["title"]] = [each["text"] if each else DASH for each in row["means"][metric]]
        printed[row["title"]] += [each[1] if each else DASH for each in numbers]
    assert printed == expected(folder, metric)
    assert list(printed) == [
        "CLIP",
        "FT-TeCoA",
        "PMG-AFT",
        HOSTILE,
    ]  # the paper's order, then the others
    assert printed["CLIP"][0] == DASH  # its row misses a cell
    assert printed[HOSTILE][3] == DASH  # a failed cell


def test_the_first_view_stands_in_the_page_without_scripts(folder, page):
    reader = parsed(page)
    assert reader.rows[0][:4] == ["Method", "Average", "Zero-shot", "Shapes"]
    assert {row[0]: row[1:] for row in reader.rows[1:5]} == expected(folder)


def test_views_choose_images(page):
    views = [view["key"] for view in stored(page)["views"]]
    of = {
        (key["suite"], key["attack"], key["eps"], key["images"])
        for key in views
        if key["protocol"] == "sound"
    }
    assert of == {
        ("mini", "pgd10", "6/255", "suite"),
        ("mini", "pgd10", "6/255", "16"),
        ("mini", "pgd10", "3/255", "suite"),
        ("mini", "autoattack", "6/255", "suite"),
        ("mini", "autoattack", "6/255", "all"),
        ("mine", "pgd10", "6/255", "suite"),
    }
    assert views[0] == {
        "suite": "mini",
        "protocol": "sound",
        "attack": "pgd10",
        "eps": "6/255",
        "images": "suite",
        "seed": "0",
    }


def test_hostile_text_is_escaped(page):
    reader = parsed(page)
    assert reader.tags.count("script") == 4  # three of data, one of ours
    assert reader.tags.count("img") == reader.tags.count("figure")  # none but the figures
    assert HOSTILE in json.dumps(stored(page)).replace('\\"', '"')


def test_it_needs_nothing_else(page):
    assert all(each.startswith(("data:", "#")) for each in parsed(page).addresses)
    assert "default-src 'none'" in page
    assert "url(" not in page


def test_flags_are_explained_and_failures_listed(page):
    text = re.sub(r"<[^>]+>", "", page)
    for flag in (look_up(ZERO), look_up("attack_warned")):
        assert flag.sentence in text
        assert flag.means in text
        assert f"What to do: {flag.remedy}" in text
    assert (
        html.escape(HOSTILE, quote=False).replace('"', "&#34;") in page.partition("<h3>Messages")[2]
    )
    assert "PMG-AFT under pgd10, eps 6/255, mini, sound: Colors" in text
    assert "zsrobust.evaluation.CheatError: left [0, 1] &lt;/script&gt;" in text


def test_figures_are_described(folder, page):
    described = figures.describe("1", load_results(folder), Selection.of(MINI))
    assert parsed(page).tags.count("figure") >= 1
    assert described.splitlines()[0] in page


def test_what_an_oblivious_attack_left_is_never_the_best(tmp_path):
    right = {
        spec: cell(tmp_path, spec, "mini_shapes")[0].robust_correct
        for spec in ("tecoa", "pmg_aft", "clip")
    }
    *_, second, best = sorted(right, key=right.__getitem__)
    assert right[second] < right[best]
    cell(tmp_path, best, "mini_shapes", knowledge="oblivious")
    view = stored(text := build(tmp_path))["views"][0]
    assert view["best"]["robust"][2] == right[second] / 40
    assert [line["defense"] for line in view["rows"] if line.get("oblivious")] == [best]
    strong = re.findall(r'<tr><th scope="row">([^<]*)</th>(?:(?!</tr>).)*<strong>', text)
    assert strong == [DEFENSES[second]]


def test_damaged_outcomes_are_noted(tmp_path):
    cell(tmp_path, "tecoa", "mini_shapes")
    cell(tmp_path, "pmg_aft", "mini_shapes", samples=True)
    first, second = (
        next(tmp_path.rglob(f"{name}/mini_shapes.npz")) for name in ("tecoa", "pmg_aft")
    )
    first.unlink()
    second.write_bytes(b"damaged")
    second.with_suffix(".samples.npz").write_bytes(b"damaged")
    page = build(tmp_path)
    classes, gallery = stored(page, "classes")["cells"], stored(page, "gallery")["cells"]
    assert all("Run the cell again" in text for text in [*classes.values(), *gallery.values()])
    assert len(classes) == 2
    assert len(gallery) == 1
    second.write_bytes(
        Outcomes(np.arange(2), np.arange(2), np.arange(2), np.zeros(2, np.float32)).to_bytes()
    )
    assert "is not what this cell was counted from" in build(tmp_path)


def test_images_are_those_that_were_attacked(folder, page):
    data, gallery = stored(page), stored(page, "gallery")
    number = next(
        n
        for n, each in enumerate(data["cells"])
        if each["path"] == "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes.json"
    )
    samples = Samples.read(folder / data["cells"][number]["path"])
    assert samples is not None
    sample = gallery["cells"][str(number)][0]
    clean, _, adversarial = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(gallery["images"][each]))))
        .transpose(2, 0, 1)
        .astype(int)
        for each in sample["images"]
    )
    assert np.array_equal(clean, samples.pixels[0])
    assert abs(adversarial - clean).max() == 6
    assert sample["magnified"] == 21


@pytest.mark.parametrize(("side", "shown"), [(32, 32), (224, 112), (250, 83)])
def test_large_images_are_reduced(side, shown):
    image = Image.open(io.BytesIO(base64.b64decode(_png(np.zeros((3, side, side))))))
    assert image.size == (shown, shown)


@pytest.mark.parametrize("present", [True, False])
def test_a_folder_without_results_is_an_error(tmp_path, present):
    with pytest.raises(ZSRobustError, match=r"holds no results\. Make some: zsrobust run"):
        build(tmp_path if present else tmp_path / "nowhere")


# In a real browser.


class Browser:
    """A page open in Chromium, and what its tests ask of it."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, fragment: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)

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
        script = """return [...document.querySelectorAll("#board tbody tr")].map((row) =>
            [row.cells[0].firstChild.textContent, ...[...row.querySelectorAll(".value")].slice(0, -1).map((each) => each.textContent)])"""
        return {row[0]: row[1:] for row in self.run(script)}

    def sorted_by(self, table: str = "#board") -> list[list[str]]:
        script = f"""return [...document.querySelectorAll("{table} [aria-sort]")].map((each) => [each.dataset.sort, each.ariaSort])"""
        return list(self.run(script))


@pytest.fixture(scope="session")
def chromium(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
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
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(manager))
    yield Browser(driver, path.as_uri())
    driver.quit()


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
    browser.click("[data-sort=average] button")
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
    browser.click("[data-sort=average] button")
    assert browser.sorted_by() == [["average", "ascending"]]
    assert list(browser.board) == [*best[::-1], "CLIP", HOSTILE]


def test_browser_sorts_by_keyboard(browser, folder):
    browser.run("document.querySelector('[data-sort=mini_shapes] button').focus()")
    for direction in ("descending", "ascending"):
        browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
        assert browser.sorted_by() == [["mini_shapes", direction]]
    printed = {title: float(numbers[2]) for title, numbers in expected(folder).items()}
    shown = list(browser.board)
    assert [printed[title] for title in shown] == sorted(printed.values())


def test_browser_filters(browser, folder):
    browser.choose("attack", "autoattack")
    assert "attack=autoattack" in browser.fragment
    assert browser.board == expected(folder, attack="autoattack")
    browser.choose("images", "all")
    assert browser.board["FT-TeCoA"][:4] == [
        DASH,
        DASH,
        expected(folder, attack="autoattack", limit=10**9)["FT-TeCoA"][2],
        DASH,
    ]
    browser.choose("attack", "pgd10")
    browser.choose("eps", "3/255")
    assert "eps=3/255" in browser.fragment
    assert list(browser.board) == ["FT-TeCoA"]
    browser.choose("protocol", "reference")
    assert list(browser.board) == ["FT-TeCoA"]
    browser.choose("suite", "mine")
    mean, measured = browser.board["FT-TeCoA"]
    assert mean == DASH != measured  # nobody knows which datasets the suite has
    browser.driver.back()
    browser.run("return new Promise((done) => setTimeout(done, 50))")
    assert "protocol=reference" in browser.find("#caption").text.replace(
        "protocol reference", "protocol=reference"
    )


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


def test_browser_tells_where_a_number_comes_from(browser, folder):
    stored_cell = read(folder / "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes.json")
    button = "#board tbody tr:nth-child(2) td:nth-child(4) .number"
    assert (
        browser.find(button)
        .get_attribute("title")
        .startswith(f"{stored_cell.robust_correct} of 40 images; 95% interval")
    )
    browser.run("arguments[0].focus()", browser.find(button))
    browser.driver.switch_to.active_element.send_keys("\ue007")
    shown = browser.find("#details").text
    assert stored_cell.outcomes in shown
    assert json.loads(browser.find("#details pre").text) == stored_cell.identity
    assert "torch 2.6" in shown
    assert "100 images forward, 50 backward" in shown
    browser.driver.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not browser.run("return document.getElementById('details').open")
    assert browser.driver.switch_to.active_element == browser.find(button)


def test_browser_tells_of_means_and_failures(browser):
    browser.click("#board tbody tr:nth-child(2) td:nth-child(2) .number")
    assert "16 datasets, each weighing the same" in browser.find("#details").text
    browser.click("#details .close")
    browser.click("#board tbody tr:nth-child(4) td:nth-child(5) .number")
    assert f"CheatError: left [0, 1] {HOSTILE}" in browser.find("#details pre").text


def test_browser_shows_a_dataset_class_by_class(browser, folder):
    browser.click("#datasets a[href*=mini_colors]")
    assert "dataset=mini_colors" in browser.fragment
    assert browser.driver.switch_to.active_element == browser.find("#dataset")
    assert not browser.find("#leaderboard").is_displayed()
    script = "return [...document.querySelectorAll('#classes tbody tr')].map((row) => [...row.cells].map((each) => each.textContent))"
    shown = browser.run(script)
    outcomes = {
        name: Outcomes.read(folder / f"mini/sound/pgd10-eps=6-255/{name}/mini_colors.npz")
        for name in ("tecoa", "pmg_aft", "clip")
    }
    assert outcomes["tecoa"].classes is not None
    by_name = {row[0]: row for row in shown}
    for label, name in enumerate(outcomes["tecoa"].classes):
        numbers = []
        for each in (outcomes["tecoa"], outcomes["pmg_aft"]):
            of_class = each.labels == label
            right = of_class & (each.clean == label)
            numbers += [
                percent(Fraction(int(kept.sum()), int(of_class.sum())))
                for kept in (right, right & (each.adversarial == label))
            ]
        assert by_name[name][1:2] + by_name[name][4:8] == [
            str((outcomes["tecoa"].labels == label).sum()),
            *numbers,
        ]
    assert by_name["class 0"][4:8] == [DASH] * 4  # of a cell that stored no names
    browser.click("#classes [data-sort='robust-1'] button")
    column = [float(row[5]) for row in browser.run(script) if row[5] != DASH]
    assert column == sorted(column, reverse=True)
    browser.click("#dataset .back a")
    assert browser.find("#leaderboard").is_displayed()


def test_browser_shows_the_gallery(browser):
    browser.open("#dataset=mini_shapes")
    images = browser.run("""return Promise.all([...document.querySelectorAll(".gallery img")].map((each) =>
        each.decode().then(() => [each.naturalWidth, each.alt])))""")
    assert len(images) == 2 * 2 * 3
    assert {width for width, _ in images} == {32}
    assert "magnified 21 times" in images[1][1]
    said = browser.find(".gallery").text
    assert "red circle" in said
    assert HOSTILE in said  # the name of a class, as text


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
