"""The pages of docs/ and the README: their commands are run, their Python is executed, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import masked
import pytest

from zsrobust.cli import main
from zsrobust.results.flags import known

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem
)
def test_the_examples_of_a_page_run(page, zsrobust, tmp_path, monkeypatch):
    """In their order: a block that names a file is that file, shell is the real command line, Python shares one namespace."""
    namespace: dict[str, object] = {}
    for language, code in BLOCK.findall(page.read_text()):
        first = code.partition("\n")[0]
        if named := re.fullmatch(r"# (\w+\.(py|toml))", first):
            (tmp_path / named[1]).write_text(code)
        if language == "sh":
            for line in code.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "zsrobust", line
                zsrobust(*arguments, ZSROBUST_RESULTS="runs")  # the default
        elif language == "python" and (not named or named[1].startswith("check_")):
            exec(compile(code, str(page), "exec"), namespace)  # noqa: S102  # a page of ours


def commands(page: Path) -> list[str]:
    """Return the calls of the command line on a page: in lines of their own, and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    lines = [
        line.strip() for line in text.splitlines() if re.match(r"(    )?zsrobust [a-z-]", line)
    ]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`(zsrobust [a-z][^`…]*)`", " ".join(prose.split()))
    chained = re.findall(r"&& (zsrobust [a-z].*)$", text, re.MULTILINE)
    return [*lines, *quoted, *chained]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_commands_on_a_page_have_options_that_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a folder that is to be read need not be
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        while words[0] == "--plugin":
            words = words[2:]
        command = main.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {
            "--"
        }, line
        assert isinstance(command, click.Command)


def test_the_page_on_commands_names_every_command():
    named = {line.split()[1] for line in commands(ROOT / "docs" / "commands.md")}
    assert named >= set(main.commands)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES],
    ids=lambda page: page.stem,
)
def test_links_of_a_page_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE) if anchor else []
        anchors = [
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
        ]
        assert not anchor or anchor in anchors, target


def rows_of_tables(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("|")]


def test_tables_of_the_readme_fit_a_screen():
    rows = rows_of_tables(ROOT / "README.md")
    assert len(rows) > 5
    assert max(map(len, rows)) <= 80
    assert {row.count("|") for row in rows} == {6}, "one table of five columns"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_of_a_page_fit_a_screen(page):
    assert all(len(row) <= 100 for row in rows_of_tables(page))


def test_the_page_on_architecture_names_every_folder_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^  ([a-z]+)/ ", page, re.MULTILINE))
    package = ROOT / "zsrobust"
    there = {
        path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert named == there


def test_the_page_on_numbers_explains_every_flag_as_the_code_does():
    page = (ROOT / "docs" / "numbers.md").read_text()
    told = re.findall(r"^\*\*(.+)\.\*\* (.+) \*What to do:\* (.+)$", page, re.MULTILINE)
    assert told == [
        (flag.title[0].upper() + flag.title[1:], flag.means, flag.remedy)
        for flag in known().values()
    ]


def test_the_page_on_numbers_has_the_doctors_tables():
    page = (ROOT / "docs" / "numbers.md").read_text()
    table = re.search(r"<!-- doctor -->\n(.*)<!-- end of doctor -->", page, re.DOTALL)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    measured = {row[1].strip("`"): row for row in rows if len(row) == 6}
    kinds = {kind.__name__: title for title, kinds in masked.KINDS.items() for kind in kinds}
    assert measured.keys() >= kinds.keys()
    assert all(measured[name][0] == title for name, title in kinds.items())
    caught = [sum(measured[name][place] == "caught" for name in kinds) for place in (4, 5)]
    assert f"Of {len(kinds)} masked defenses" in table
    assert f"catch {caught[0]}, and the doctor catches {caught[1]}." in table
    honest = [row for row in rows if len(row) == 4 and row[1].isdigit()]
    assert len(honest) >= 12
    assert all(int(row[1]) >= 8 and row[2] == "0" for row in honest)
