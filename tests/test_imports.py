"""Imports point one way, and what must start at once does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zsrobust

PACKAGE = Path(zsrobust.__file__).parent

#: Each room may import those after it, and no other.
ROOMS = [
    "cli", "cluster", "bill", "testing", "stock", "listing", "display", "export", "doctor", "runner", "redflags", "cost", "evaluation", "lineup", "entries",
    "defenses", "wrappers", "ranks", "training", "pixels", "prompts", "classifier", "mini", "attacks", "verification", "datasets", "report", "flags", "regression",
    "comparison", "figures", "tables", "reported", "rows", "suites", "protocols", "results", "statistics", "sharing", "network", "registry",
]  # fmt: skip
#: These tell what is stored, on a laptop, in a second.
READERS = ["registry", "statistics", "results", "suites", "rows", "reported", "tables", "figures", "comparison", "regression",
           "report", "datasets", "flags", "verification"]  # fmt: skip
STRANGERS = [("classifier", "attacks"), ("classifier", "datasets"), ("attacks", "datasets"), ("attacks", "classifier"),
             ("tables", "datasets"), ("prompts", "attacks")]  # fmt: skip


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield parts[0], path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    return {name.split(".")[1] for name in imported(path) if name.startswith("zsrobust.")}


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: getattr(value, "stem", value))
def test_imports_point_down(room, path):
    assert room in ROOMS, f"{room} is a new room: give it its place in ROOMS"
    for other in rooms_imported(path) - {room}:
        assert ROOMS.index(room) < ROOMS.index(other), f"{path.name} imports {other}, which stands above {room}"
        assert (room, other) not in STRANGERS


@pytest.mark.parametrize("room", READERS)
def test_rooms_without_torch(room):
    for path in [path for name, path in modules() if name == room]:
        assert not {"torch", "open_clip"} & {name.split(".")[0] for name in imported(path)}


def test_help_and_table_import_no_torch(tmp_path):
    script = """
import sys
from click.testing import CliRunner
from zsrobust.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
assert CliRunner().invoke(main, ["table", "1", "--suite", "mini"]).exit_code == 2
assert CliRunner().invoke(main, ["report"]).exit_code == 2
assert not {"torch", "open_clip", "rich", "matplotlib"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
