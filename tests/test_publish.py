"""The files around the docs: versions on the published site, the gallery, the notebooks, the citation."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))


@pytest.fixture
def publish():
    spec = importlib.util.spec_from_file_location("publish", DOCS / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.publish


def test_a_version_is_published_beside_the_others(publish, tmp_path):
    built, site = tmp_path / "built", tmp_path / "site"
    (built / "_static").mkdir(parents=True)
    (built / ".doctrees").mkdir()
    site.mkdir()
    for version in ("latest", "v0.9.0", "v0.10.0", "v0.2.1"):
        (built / "index.html").write_text(version)
        publish(built, site, version, "https://example.org/z")
    (built / "index.html").write_text("anew")
    publish(built, site, "latest", "https://example.org/z")

    listed = json.loads((site / "versions.json").read_text())
    assert [each["version"] for each in listed] == ["latest", "v0.10.0", "v0.9.0", "v0.2.1"]
    assert [each["version"] for each in listed if each["preferred"]] == ["v0.10.0"]
    assert listed[1]["url"] == "https://example.org/z/v0.10.0/"
    assert (site / "latest" / "index.html").read_text() == "anew"
    assert (site / "v0.9.0" / "index.html").read_text() == "v0.9.0"
    assert 'href="v0.10.0/"' in (site / "index.html").read_text()
    assert (site / ".nojekyll").exists()
    assert not (site / "latest" / ".doctrees").exists()


@pytest.mark.parametrize("version", ["../elsewhere", "main", "v1/..", ""])
def test_a_folder_that_is_not_a_version_is_refused(publish, tmp_path, version):
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit, match="is not a version"):
        publish(tmp_path, tmp_path, version, "")
    assert (tmp_path / "kept").exists()


def test_the_gallery_has_every_figure_and_every_table_of_mini():
    page = (DOCS / "gallery.md").read_text()
    made = {path.name for path in (ROOT / "results" / "mini").glob("figure*.svg")}
    made |= {path.name for path in (ROOT / "results" / "mini").glob("table*.md")}
    assert made
    assert set(re.findall(r"\.\./results/mini/([\w.]+)", page)) == made
    tables = re.findall(r"^### Table (\w+)\n\n```{include} (\S+)$", page, re.MULTILINE)
    assert all(place.endswith((f"table{n}.md", f"table_{n}.md")) for n, place in tables)


def test_every_page_is_in_the_contents_of_the_site():
    contents = re.findall(
        r"^```{toctree}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.M | re.S
    )
    named = {line for text in contents for line in text.splitlines() if line and line[0] != ":"}
    pages = {
        str(path.relative_to(DOCS).with_suffix(""))
        for path in DOCS.rglob("*.md")
        if "_build" not in path.parts
    }
    assert named == pages - {"index", "README"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_text_whose_code_compiles(notebook):
    text = notebook.read_text()
    assert re.match(r"---\n.*kernelspec:\n  display_name: .*?\n---\n\n# ", text, re.DOTALL)
    cells = re.findall(r"^```{code-cell} ipython3\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(cells) >= 3
    for cell in cells:
        first, _, rest = cell.partition("\n")
        if first != "%%sh":  # which fails if the shell does
            compile(rest if first.startswith("%%") else cell, str(notebook), "exec")


def test_the_citation_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
