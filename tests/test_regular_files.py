"""Only regular files below a results folder are opened: no pipe blocks, no link is followed, no path is too long."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import baseline
from zsrobust.reporting.report import build
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.results.store import Store
from zsrobust.results.verification import verify

STORED = Path(__file__).parents[1] / "results"
ROW = Path("mini/sound/pgd10-eps=6-255/clip")
FORCED = "zsrobust run --suite mini --defense clip --attack pgd10 --dataset mini_cells --force"


@pytest.fixture
def folder(tmp_path):
    """Two cells of the repository."""
    (tmp_path / "results" / ROW).mkdir(parents=True)
    for name in ("mini_cells", "mini_shapes"):
        for suffix in (".json", ".npz", ".samples.npz"):
            shutil.copy(STORED / ROW / f"{name}{suffix}", tmp_path / "results" / ROW)
    return tmp_path / "results"


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("nowhere")


def outside(path):
    """A link to a whole file of another folder."""
    path.symlink_to(STORED / ROW / path.name)


def listener(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {
    pipe: "a named pipe",
    loop: "a link",
    dangling: "a link",
    outside: "a link",
    listener: "a device or a socket",
}


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("suffix", [".json", ".npz", ".samples.npz"])
def test_what_is_not_a_regular_file_is_one_finding(folder, make, suffix):
    path = folder / ROW / f"mini_cells{suffix}"
    path.unlink()
    make(path)
    (finding,) = verify(folder).findings
    assert (finding.path, finding.remedy) == (path, FORCED)
    assert finding.wrong == f"it is {KINDS[make]}, not a regular file"


@pytest.mark.parametrize("make", KINDS)
def test_every_reader_refuses_it_in_one_line(folder, make):
    path = folder / ROW / "mini_cells.json"
    path.unlink()
    make(path)
    refused = f"mini_cells.json is not a result .it is {KINDS[make]}"
    refused = refused.replace("result .", r"result of zsrobust \(")
    for read in (load_results, lambda folder: build(Store(folder), [])):
        with pytest.raises(ZSRobustError, match=refused):
            read(folder)
    verdicts = {each.cell: each for each in baseline.check(folder, whole_copy(folder)).verdicts}
    assert verdicts[f"{ROW}/mini_cells"].way is None
    assert verdicts[f"{ROW}/mini_shapes"].way == "identical"
    assert Store(folder).find(ROW / "mini_cells.json") == path


def whole_copy(folder):
    """A baseline with the two cells."""
    copy = folder.parent / "baseline"
    for name in ("mini_cells", "mini_shapes"):
        for suffix in (".json", ".npz", ".samples.npz"):
            (copy / ROW).mkdir(parents=True, exist_ok=True)
            shutil.copy(STORED / ROW / f"{name}{suffix}", copy / ROW)
    return copy


@pytest.mark.parametrize("make", KINDS)
def test_files_beside_a_result_are_not_opened_either(folder, make):
    path = folder / ROW / "mini_cells.json"
    for suffix, read in ((".npz", Outcomes.read), (".samples.npz", Samples.read)):
        path.with_suffix(suffix).unlink()
        make(path.with_suffix(suffix))
        with pytest.raises(ZSRobustError, match=f"it is {KINDS[make]}, not a regular file"):
            read(path)
    assert not results.outcomes_match(results.read(path), path)


def test_a_link_to_a_folder_is_not_followed_and_not_left_out(folder, tmp_path):
    shutil.move(folder / "mini", tmp_path / "elsewhere")
    (folder / "mini").symlink_to(tmp_path / "elsewhere")
    (finding,) = verify(folder).findings
    assert (finding.path, finding.remedy) == (folder / "mini", f"rm {folder / 'mini'}")
    with pytest.raises(ZSRobustError, match=r"it is a link, not a regular file"):
        load_results(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert verify(tmp_path / "link").lines == ["2 cells: all as they were stored"]
    assert len(load_results(tmp_path / "link")) == 2


def test_other_pipes_and_links_are_findings_and_hide_no_cell(folder):
    pipe(folder / "pipe")
    loop(folder / "mini" / "loop")
    assert {finding.path.name for finding in verify(folder).findings} == {"pipe", "loop"}
    assert len(load_results(folder)) == 2


def test_a_pipe_in_a_claim_does_not_block(folder):
    claim = folder / ROW / ".mini_cells.json.claim"
    claim.mkdir()
    pipe(claim / "1.2.3.4@host")
    assert [finding.wrong for finding in verify(folder).findings] == [
        "it is a named pipe, not a regular file"
    ]


def test_a_path_beyond_the_limit_of_the_system_is_one_line(folder, zsrobust):
    too_long = "/".join(["x" * 200] * 30)
    assert f"The results folder {too_long} is missing" in zsrobust("verify", too_long, ok=2).stderr
    for command in (["table", "1", "--suite", "mini"], ["report"]):
        said = zsrobust(*command, "--results", too_long, "--baseline", "none", ok=2).stderr
        assert said.startswith("Error: ")
        assert "Traceback" not in said


def test_a_tree_beyond_the_limit_of_the_system_is_one_finding(folder):
    here = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(25):
            os.mkdir("x" * 200)
            os.chdir("x" * 200)
    finally:
        os.chdir(here)
    (finding,) = verify(folder).findings
    assert "File name too long" in finding.wrong
    assert len(load_results(folder)) == 2
