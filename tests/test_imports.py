"""Imports point one way, and what must start at once does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zsrobust

PACKAGE = Path(zsrobust.__file__).parent

#: A folder imports those after it, and no other.
FOLDERS = [
    "cli",
    "running",
    "evaluation",
    "defenses",
    "training",
    "models",
    "attacks",
    "mini",
    "datasets",
    "reporting",
    "results",
    "settings",
    "core",
]
#: Nothing in these imports torch, so that tables and reports start at once.
WITHOUT_TORCH = FOLDERS[FOLDERS.index("reporting") :]
#: An attack sees a classifier, images and labels, and a model no attacks; whatever the order of the folders.
STRANGERS = [("models", "attacks"), ("attacks", "datasets"), ("reporting", "datasets")]
#: Files beside the folders, which may import anything; nothing but the command line imports them.
BESIDE = {"__init__", "__main__", "lineup", "registry", "testing"}


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = list(files())


def test_every_folder_has_its_place():
    assert {folder for folder, _ in FILES} - BESIDE == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_down(folder):
    for path in [path for name, path in FILES if name == folder]:
        for other in {
            name.split(".")[1] for name in imported(path) if name.startswith("zsrobust.")
        } - {folder}:
            assert other in FOLDERS, f"{path.relative_to(PACKAGE)} imports {other}"
            assert FOLDERS.index(folder) < FOLDERS.index(other), (
                f"{path.relative_to(PACKAGE)} imports {other}, above it"
            )
            assert (folder, other) not in STRANGERS, f"{path.relative_to(PACKAGE)} imports {other}"


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_folders_without_torch(folder):
    for path in [path for name, path in FILES if name == folder]:
        assert not {"torch", "open_clip"} & {name.split(".")[0] for name in imported(path)}, (
            path.relative_to(PACKAGE)
        )


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
