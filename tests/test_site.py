"""The site: every page from a folder of results alone, whose links lead somewhere and whose numbers are the tables'."""

from fractions import Fraction
from pathlib import Path

import pytest
from test_report import HOSTILE, Reader, cell, started
from test_standings import IMAGES, cells

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting.columns import percent
from zsrobust.reporting.report.site import write
from zsrobust.results.cell import Outcomes
from zsrobust.results.store import Store


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "results"
    cells(folder, "tecoa", "autoattack", 0.5)
    cells(folder, "tecoa:eps=1/255", "autoattack", 0.25)
    cells(folder, "tte:of=clip", "adaptive", 0.25)
    cells(folder, "tte:knowledge=oblivious,of=clip", "pgd10", 0.75)
    cell(folder, "tecoa", "mini_shapes", samples=True)
    cell(folder, "weights:x", "mini_shapes", samples=True)  # a hostile name
    cell(folder, "clip", "mini_colors", failed=True)
    return folder


@pytest.fixture(scope="module")
def site(results, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    docs = tmp_path_factory.mktemp("docs")
    (docs / "index.html").write_text("<!doctype html><title>docs</title>")
    assert write(Store(results), out, docs=docs) == len(list(out.rglob("*.html"))) - 1
    return out


def tree(path: Path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8").removeprefix("<!doctype html>"))
    return reader.builder.close()


def test_every_defense_and_dataset_has_a_page_and_every_link_leads_somewhere(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    defenses = {f"defenses/{name}.html" for name in ("tecoa", "tte", "clip", "weights")}
    datasets = {f"datasets/mini_{name}.html" for name in ("shapes", "colors")}
    assert names == {"index.html", "docs/index.html", *defenses, *datasets}
    for name in names:
        page = tree(site / name)
        ids = {each.get("id") for each in page.iter()}
        for link in page.iter("a"):
            address = link.get("href", "")
            if address.startswith("#"):
                assert address[1:] in ids
            elif address and not address.startswith(("https://arxiv.org/", "https://github.com/")):
                place, _, part = address.partition("#")
                target = ((site / name).parent / place).resolve()
                assert target.is_file(), address
                assert not part or part in {each.get("id") for each in tree(target).iter()}


def test_a_site_loads_nothing_and_runs_nothing_of_the_data(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert HOSTILE not in text
        addresses = [each.get("src", "data:") for each in tree(path).iter()]
        assert all(each.startswith("data:") for each in addresses)


def test_the_numbers_of_a_defense_are_those_of_its_cells(results, site):
    page = tree(site / "defenses/tecoa.html")
    lines = {
        (row.findtext("th/small"), row.findall("td")[0].text): [
            each.findtext("span") for each in row.findall("td")[2:4]
        ]
        for row in page.findall(".//tbody/tr")
    }
    for spec in ("tecoa", "tecoa:eps=1/255"):
        found = [
            Outcomes.read(path)
            for path in (results / "mini/sound").glob(
                f"autoattack*/{spec.replace(':', '-').replace('/', '-')}/*.json"
            )
        ]
        assert len(found) == 2
        counts = [
            sum(getattr(each, name) for each in found)
            for name in ("clean_correct", "robust_correct")
        ]
        printed = [percent(Fraction(count, 2 * IMAGES)) for count in counts]
        assert lines[spec, "autoattack"] == printed


def test_all_numbers_have_the_mean_over_training_seeds_beside_each_seed(tmp_path):
    robust = {"fare": 0.5, "fare:seed=1": 0.75, "fare:eps=1/255": 0.25}
    for spec, share in robust.items():
        trained = int(spec.endswith("seed=1"))
        cells(tmp_path / "results", spec, "pgd10", share, trained=trained, checkpoint=spec)
    cells(tmp_path / "results", "fare:seed=2", "pgd10", 0.9, trained=2, datasets=("mini_shapes",))
    write(Store(tmp_path / "results"), tmp_path / "site")
    (mean,) = (
        row
        for row in tree(tmp_path / "site/defenses/fare.html").findall(".//tbody/tr")
        if row.findtext("td/small") == "mean of 2 training seeds"
    )
    assert mean.findtext("th/small") == "fare"
    _, _, clean, shown, _ = mean.findall("td")
    assert [each.text for each in (*clean.iter("span"), *clean.iter("small"))] == [
        "100.00",
        "± 0.00",
    ]
    assert shown.findtext("span") == "62.50"
    assert shown.findtext("small") == f"± {25 / 2**0.5:.2f}"


def test_a_page_tells_the_mechanism_and_that_an_attack_did_not_know_the_defense(site):
    text = "".join(tree(site / "defenses/tte.html").itertext())
    assert "The logits are the mean over views of the image" in text
    assert "the attack does not know the defense; such numbers are usually published" in text
    assert "rank 2 of 2" in text


def test_a_hostile_name_leaves_no_file_outside_the_site(tmp_path):
    cells(tmp_path / "results", "../../evil", "autoattack", 0.5)
    write(Store(tmp_path / "results"), tmp_path / "out/site")
    assert {path.name for path in tmp_path.iterdir()} == {"results", "out"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["site"]
    (page,) = (tmp_path / "out/site/defenses").iterdir()
    links = [each.get("href") for each in tree(tmp_path / "out/site/index.html").iter("a")]
    assert f"defenses/{page.name}" in links


def test_docs_that_are_not_built_are_one_line(results, tmp_path):
    with pytest.raises(ZSRobustError, match="has no index.html. Build the docs first"):
        write(Store(results), tmp_path / "site", docs=tmp_path)


def test_the_command_writes_it(zsrobust, results, tmp_path):
    done = zsrobust("site", "--results", str(results), "--baseline", "none", "--out", "here")
    assert "6 more pages" in done.stdout
    assert (tmp_path / "here/defenses/tecoa.html").is_file()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_have_no_errors(site, scheme):
    """The rules of axe-core for WCAG 2 A and AA, on every kind of page."""
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
    with started((site / "index.html").as_uri()) as browser:
        browser.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        for name in ("index", "defenses/tecoa", "defenses/tte", "datasets/mini_shapes"):
            browser.driver.get((site / f"{name}.html").as_uri())
            found = axe.Axe().run(browser.driver)["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert browser.driver.get_log("browser") == []
            assert browser.run("return window.pwned") is None
