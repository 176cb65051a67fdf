"""Results on the hub: pushed and read by the real command line and the real client, against a hub on this machine.

huggingface_hub reads its environment when it is imported, so each command has a process of its own.
"""

import json
from pathlib import Path

import fresh
import pytest
from hubserver import Fault, HubServer, hub_environment
from test_forged import PLACE, forge

from zsrobust import results

OTHER = PLACE.with_name("mini_shapes.json")


class Command:
    """The command line in a process of its own, which sees this hub and a cache in this folder."""

    def __init__(self, home: Path, hub: HubServer) -> None:
        self.home, self.hub, self.url = home, hub, hub.url

    def __call__(self, *arguments: str, ok: int = 0, **more: str) -> fresh.Done:
        return self.run(fresh.command, arguments, False, ok=ok, **more)

    def python(self, code: str, **more: str) -> str:
        return self.run(fresh.script, code, ok=0, **more).stdout

    def run(self, function, *arguments, ok: int, **more: str) -> fresh.Done:
        environment = {
            **hub_environment(self.url, self.home),
            "HF_TOKEN": self.hub.token,
            "ZSROBUST_RESULTS": "runs",
            "ZSROBUST_CACHE": str(self.home / "cache"),
            **more,
        }
        done = fresh.Process(function, *arguments, folder=self.home, environment=environment).end()
        assert done.returncode == ok, done.stdout + done.stderr
        return done


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def zsrobust(tmp_path, hub):
    forge(tmp_path / "runs")
    forge(tmp_path / "runs", OTHER)
    return Command(tmp_path, hub)


def test_a_push_is_one_commit_and_a_second_one_sends_what_changed(zsrobust, hub, tmp_path):
    said = zsrobust("push", "runs", "ada/robust").stdout
    (commit,) = hub.commits
    assert len(commit) == 7  # two cells of three files, and the card
    repo = hub.repos["dataset", "ada/robust"]
    for path in results.paths(tmp_path / "runs"):
        for suffix in (".json", ".npz", ".samples.npz"):
            file = path.with_suffix(suffix)
            name = file.relative_to(tmp_path / "runs").as_posix()
            assert repo.files[name] == file.read_bytes()
    assert f"2 cells at {hub.url}/datasets/ada/robust/commit/{repo.revision}" in said
    assert "Next: zsrobust table --suite mini --results hf://ada/robust" in said
    card = repo.files["README.md"].decode()
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert 'pretty_name: "zsrobust results: mini"' in front
    assert "viewer: false" in front
    assert "* Cells: 2" in body
    assert "zsrobust verify hf://ada/robust" in body

    zsrobust("push", "runs", "ada/robust")
    assert len(hub.commits) == 1  # nothing changed, nothing sent
    forge(tmp_path / "runs", seconds=1.0)
    zsrobust("push", "runs", "ada/robust")
    assert hub.commits[1:] == [[PLACE.as_posix()]]


def test_a_push_takes_cells_away_only_if_it_is_told_to(zsrobust, hub, tmp_path):
    zsrobust("push", "runs", "ada/robust")
    first = hub.repos["dataset", "ada/robust"].revision
    for suffix in (".json", ".npz", ".samples.npz"):
        (tmp_path / "runs" / OTHER).with_suffix(suffix).unlink()
    line = zsrobust("push", "runs", "ada/robust", ok=2).stderr
    assert f"ada/robust has 3 files that these results lack, first {OTHER}. Next: add" in line
    assert len(hub.commits) == 1
    zsrobust("push", "runs", "ada/robust", "--delete")
    assert sorted(hub.commits[1]) == sorted(
        ["README.md", *(str(OTHER.with_suffix(end)) for end in (".json", ".npz", ".samples.npz"))]
    )
    count = "from zsrobust import load_results; print(len(load_results('hf://ada/robust{}')))"
    assert zsrobust.python(count.format("")) == "1\n"
    assert zsrobust.python(count.format(f"@{first}")) == "2\n"


def test_what_verify_finds_is_not_pushed(zsrobust, hub, tmp_path):
    (tmp_path / "runs" / OTHER.with_suffix(".npz")).unlink()
    done = zsrobust("push", "runs", "ada/robust", ok=1)
    assert f"Refused: runs/{OTHER.with_suffix('.npz')}: the outcomes are missing." in done.stderr
    assert hub.requests == []


def test_a_submission_is_pushed_with_its_statement(zsrobust, hub):
    zsrobust("submit", "runs", "--by", "Ada", "--out", "submission")
    zsrobust("push", "submission", "ada/robust")
    files = hub.repos["dataset", "ada/robust"].files
    assert json.loads(files["SUBMISSION.json"])["by"] == "Ada"
    assert "Ada ran these cells" in files["README.md"].decode()
    assert "2 cells: all as they were stored" in zsrobust("verify", "hf://ada/robust").stdout


def test_every_command_reads_it_once_online_and_then_offline(zsrobust, hub, tmp_path):
    zsrobust("push", "runs", "ada/robust")
    place, plain = "hf://ada/robust", ("--suite", "mini", "--baseline", "none")
    table = zsrobust("table", "1", *plain).stdout
    assert "FT-TeCoA" in table
    seen = len(hub.requests)
    assert zsrobust("table", "1", *plain, "--results", place).stdout == table
    assert len(hub.requests) > seen
    fetched = [request for request in hub.requests[seen:] if "/resolve/" in request.path]
    assert fetched
    again = len(hub.requests)
    assert zsrobust("table", "1", *plain, "--results", place).stdout == table
    assert not [request for request in hub.requests[again:] if "/resolve/" in request.path]

    zsrobust.url = "http://127.0.0.1:9"  # nobody answers there
    assert zsrobust("table", "1", *plain, "--results", place).stdout == table
    offline = {"HF_HUB_OFFLINE": "1"}
    said = zsrobust("check", place, "--against", place, **offline).stdout
    assert "2 cells agree (2 identical)" in said
    zsrobust("report", "--results", place, "--baseline", "none", **offline)
    assert "FT-TeCoA" in (tmp_path / "report.html").read_text()


def test_an_address_that_leads_nowhere_is_one_line(zsrobust, hub, tmp_path):
    def line(place, *more, **environment):
        done = zsrobust("table", "1", "--results", place, *more, ok=2, **environment)
        (only,) = done.stderr.splitlines()
        return only

    assert "Cannot read hf://ada/none: there is no such repository" in line("hf://ada/none")
    assert "hf://ada is not an address of results. Write hf://OWNER/NAME" in line("hf://ada")
    zsrobust("push", "runs", "ada/robust")
    assert "Cannot read hf://ada/robust: it has no such revision" in line("hf://ada/robust@v9")
    assert "The results hf://ada/robust are not on this machine, and HF_HUB_OFFLINE is set" in line(
        "hf://ada/robust", HF_HUB_OFFLINE="1"
    )
    hub.faults.append(Fault(f"{OTHER}", status=404, code="EntryNotFound"))
    assert "Cannot read hf://ada/robust: " in line("hf://ada/robust")
    assert not list((tmp_path / "cache/results/ada--robust").glob("[0-9a-f]*"))
    done = zsrobust("run", "--suite", "mini", "--results", "hf://ada/robust", ok=2)
    assert "hf://ada/robust is read only" in done.stderr


def test_a_push_without_a_token_or_a_network_is_one_line(zsrobust, hub):
    for token in ("", "hf_other"):
        done = zsrobust("push", "runs", "ada/robust", ok=2, HF_TOKEN=token)
        assert "Cannot upload to ada/robust: " in done.stderr
        assert "HF_TOKEN" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "is not a repository of the hub" in zsrobust("push", "runs", "robust", ok=2).stderr
    zsrobust.url = "http://127.0.0.1:9"
    done = zsrobust("push", "runs", "ada/robust", ok=2)
    assert "ada/robust cannot be uploaded from here, and http://127.0.0.1:9 does not answer" in (
        done.stderr
    )
