"""The wheel is whole: built from the checkout, unpacked elsewhere, used from there, with nothing of the checkout in reach."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "zsrobust"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in a copy, so that the checkout stays as it is."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(SOURCE, place / "zsrobust", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        ".",
    ]
    subprocess.run(
        command,
        cwd=place,
        check=True,
        env={**os.environ, "PIP_NO_CACHE_DIR": "1"},
        capture_output=True,
    )
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel):
    expected = {
        f"zsrobust/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {Path(name).suffix for name in found} >= {
        ".py",
        ".toml",
        ".json",
        ".csv",
        ".npz",
        ".safetensors",
        ".html",
        ".css",
        ".js",
        ".md",
    }
    assert found == expected
    assert "zsrobust/py.typed" in found  # type checkers read our annotations


def call(site, folder, *arguments):
    """The command line in a fresh process: its own modules first, neither the checkout nor the current folder, no network."""
    lines = "import sys, zsrobust, zsrobust.cli; print(zsrobust.__file__, file=sys.stderr); zsrobust.cli.main(sys.argv[1:])"
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "OMP_NUM_THREADS", "SYSTEMROOT")
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", lines, *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[0] == str(site / "zsrobust/__init__.py")
    return done.stdout


def test_it_lists_runs_and_tells_outside_the_checkout(site, tmp_path):
    listed = call(site, tmp_path, "list")
    for name in ("paper", "sound", "pmg_aft", "autoattack", "mini_shapes"):
        assert name in listed
    what = ("--suite", "mini", "--defense", "clip", "--attack", "pgd:steps=1", "--limit", "8")
    call(
        site,
        tmp_path,
        "run",
        *what,
        "--dataset",
        "mini_shapes",
        "--dataset",
        "mini_handwriting",
        "--yes",
    )
    assert len(list((tmp_path / "runs").rglob("*.json"))) == 2
    call(site, tmp_path, "report", "--out", "page.html")
    assert "mini_handwriting" in (tmp_path / "page.html").read_text()


def test_pull_requests_are_built_as_pushes_are():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "\non: [push, pull_request]\n" in workflow


def test_the_lower_bounds_that_are_tested_are_those_that_are_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = sorted(
        need
        for needs in (project["dependencies"], *project["optional-dependencies"].values())
        for need in needs
    )
    lines = (ROOT / "requirements/lowest.txt").read_text().splitlines()
    assert sorted(line for line in lines if line and not line.startswith("#")) == [
        need.replace(">=", "==") for need in promised
    ]
