"""The hub: files found, fetched, verified and read, against a server on this machine that speaks its protocol.

huggingface_hub reads its environment when it is imported, so each test runs a few lines in a process of their own.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fresh
import numpy as np
import pytest
from hubserver import Fault, HubServer, hub_environment, parquet, png, wds, zipped
from PIL import Image

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets.sources.formats import _class_names
from zsrobust.datasets.sources.hub import HubSource

PRELUDE = """
import hashlib, json, sys
from pathlib import Path
from zsrobust.datasets.sources import formats, hub
from zsrobust.registry import ZSRobustError
sources, seen, out = json.loads(sys.argv[1]), [], []

def source(name="one"):
    return hub.HubSource(**{key: tuple(v) if isinstance(v, list) else v for key, v in sources[name].items()})

def fetch(name="one", split="test"):
    return hub.download(source(name), split, lambda *about: seen.append(about))

def absent(name="one"):
    return sum(file.will_download for file in hub.files(source(name), "test"))

def rows(opened):
    return [(r.where, hashlib.sha256(r.image).hexdigest(), r.label) for r in opened.records]

def get(name="one", split="test"):
    opened = formats.read(source(name), split, fetch(name, split))
    return [opened.names, rows(opened)]

def error(call, *arguments):
    try:
        call(*arguments)
    except ZSRobustError as error:
        assert "\\n" not in str(error)
        return [type(error).__name__, str(error)]
"""
IMAGES = [(index % 3, png(index)) for index in range(7)]
NAMES = ["cat", "dog", "owl"]


class Runner:
    """Runs lines against the server, in one folder, which holds the cache."""

    def __init__(self, home: Path, hub: HubServer) -> None:
        self.home, self.hub, self.url = home, hub, hub.url

    def __call__(
        self, lines: str, *, environment: dict[str, str] | None = None, **sources: Any
    ) -> Any:
        everything = hub_environment(self.url, self.home, **(environment or {}))
        code = f"{PRELUDE}{lines}\nprint(json.dumps(out))"
        done = fresh.Process(
            fresh.script, code, json.dumps(sources), folder=self.home, environment=everything
        ).end(60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def cached(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.home / "hf/hub"))
            for path in (self.home / "hf/hub").rglob("*")
            if "blobs" in path.parts or "snapshots" in path.parts
            if not path.is_dir()
        )


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def run(tmp_path: Path, hub: HubServer) -> Runner:
    return Runner(tmp_path, hub)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def renamed(tar: bytes, old: str, new: str) -> bytes:
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(tar)) as archive,
        tarfile.open(fileobj=buffer, mode="w") as written,
    ):
        for member in archive:
            content = archive.extractfile(member)
            member.name = new if member.name == old else member.name
            written.addfile(member, content)
    return buffer.getvalue()


def one(
    hub: HubServer, repo: str, files: dict[str, bytes], kind: str = "parquet", **fields: Any
) -> dict[str, Any]:
    return {
        "repo": repo,
        "revision": hub.add(repo, files),
        "format": kind,
        "test": ["test"],
        **fields,
    }


def test_every_format_gives_its_images_labels_and_names_once_online_and_then_offline(hub, run):
    hub.page = 3
    shards = {
        f"data/test-{n:05d}-of-00002-0a1b.parquet": parquet(IMAGES[n * 4 :][:4], NAMES)
        for n in range(2)
    }
    others = {f"data/train-{n:05d}-of-00009.parquet": b"never fetched" for n in range(9)}
    converted = {
        f"default/{s}/0000.parquet": parquet(
            IMAGES[:2], ["1", "2", "3"], extra={"text": ["a b", "c"]}
        )
        for s in ("train", "test")
    }
    converted["default/partial-test/0000.parquet"] = b"never fetched"
    bools = parquet(
        [(True, png(0)), (False, png(1))], None, image="webp", label="cls", struct=False
    )
    tars = wds(
        [(index % 3, content) for index, content in enumerate(png(i) for i in range(11))],
        NAMES,
        shard=1,
    )
    folders = zipped([("owl", png(1)), ("cat", png(2)), ("cat", png(3))], "2750")
    sources = {
        "parquet": one(hub, "o/parquet", {**shards, **others, "README.md": b"-"}),
        "converted": one(hub, "o/converted", converted, test=["train", "test"]),
        "text": one(hub, "o/text", converted, names="text"),
        "bools": one(
            hub, "o/bools", {"data/test-00000-of-00001.parquet": bools}, image="webp", label="cls"
        ),
        "tar": one(hub, "o/tar", {**tars, "train/0.tar": b"never fetched"}, "tar"),
        "zip": one(
            hub,
            "o/zip",
            {"EuroSAT.zip": folders, "other.zip": b"-"},
            "zip",
            test=["EuroSAT.zip"],
            inside="2750",
        ),
    }
    lines = "out = [[n, [absent(n), get(n), get(n) and absent(n)]] for n in sources]"
    online = run(lines, **sources)
    found = {name: opened for name, (_, opened, _) in online}
    assert {name: (before, after) for name, (before, _, after) in online} == {
        "parquet": (2, 0),
        "converted": (2, 0),
        "text": (1, 0),
        "bools": (1, 0),
        "tar": (13, 0),
        "zip": (1, 0),
    }
    rows = [[digest(content), label] for label, content in IMAGES]
    assert [row[1:] for row in found["parquet"][1]] == rows
    assert found["parquet"][0] == NAMES
    assert found["parquet"][1][5][0] == "o/parquet data/test-00001-of-00002-0a1b.parquet row 1"
    assert found["converted"] == [
        None,
        [
            [f"o/converted default/{s}/0000.parquet row {i}", *rows[i]]
            for s in ("train", "test")
            for i in range(2)
        ],
    ]
    assert [found["text"][0], [row[2] for row in found["text"][1]]] == [None, ["a b", "c"]]
    assert [row[1:] for row in found["bools"][1]] == [[digest(png(0)), 1], [digest(png(1)), 0]]
    assert found["bools"][0] is None
    assert found["tar"][0] == NAMES
    assert [row[2] for row in found["tar"][1]] == [index % 3 for index in range(11)]
    assert found["tar"][1][10][0] == "o/tar test/10.tar s0000010"
    with tarfile.open(fileobj=io.BytesIO(tars["test/3.tar"])) as archive:
        webp = archive.extractfile("s0000003.webp").read()
    assert found["tar"][1][3][1] == digest(webp)
    assert np.array_equal(
        Image.open(io.BytesIO(webp)).convert("RGB"), Image.open(io.BytesIO(png(3)))
    )
    assert found["zip"][0] == ["cat", "owl"]
    assert [row[1:] for row in found["zip"][1]] == [
        [digest(png(2)), "cat"],
        [digest(png(3)), "cat"],
        [digest(png(1)), "owl"],
    ]
    assert not [
        request
        for request in hub.requests
        if "README" in request.path or "train-" in request.path or "partial" in request.path
    ]
    # 12 files and a folder, 3 a page: asked for by two dry runs and the download, then never again
    assert len(hub.asked("/tree/" + sources["parquet"]["revision"], "GET")) == 15

    fetched = Counter(
        request.path for request in hub.asked(method="GET") if "/resolve/" in request.path
    )
    assert set(fetched.values()) == {1}
    run.url = "http://127.0.0.1:9"
    offline = run(lines, environment={"HF_HUB_OFFLINE": "1"}, **sources)
    assert [r for _, r in offline] == [[0, opened, 0] for opened in found.values()]


def test_a_cut_connection_is_resumed_where_it_was_cut(hub, run):
    size, cut = 24 << 20, 20 << 20
    content = np.random.default_rng(0).bytes(size)
    source = one(hub, "o/large", {"large.zip": content}, "zip", test=["large.zip"])
    hub.faults.append(Fault("large.zip", times=1, cut=cut))
    (path,), seen = run("out = [[str(p) for p in fetch()], seen]", one=source)
    assert digest(Path(path).read_bytes()) == digest(content)
    gets = hub.asked("large.zip", "GET")
    assert [(request.range, request.status, request.sent) for request in gets] == [
        (None, 200, cut),
        (f"bytes={cut}-", 206, size - cut),
    ]
    assert {step for step, _, _ in seen} == {"downloading o/large"}
    assert seen[0][1] < size
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ["downloading o/large", size, size]

    hub.faults.append(Fault("never.zip", cut=1000))
    never = one(hub, "o/never", {"never.zip": content}, "zip", test=["never.zip"])
    lines = "import time; time.sleep = lambda seconds: None; out = [error(fetch), absent()]"
    (kind, line), missing = run(lines, one=never)
    assert (kind, missing) == ("Unreachable", 1)
    assert "gives no answer for its files (" in line
    assert not [path for path in run.cached() if "never" in path]


def test_a_changed_file_is_fetched_once_more_then_refused_and_never_kept(hub, run):
    file = "data/test-00000-of-00001.parquet"
    content = parquet(IMAGES, NAMES)
    for repo, times in (("o/once", 1), ("o/always", 9)):
        hub.faults.append(
            Fault(f"{repo}/resolve/{hub.add(repo, {file: content})}/{file}", times=times, flip=1000)
        )
    sources = {repo: one(hub, f"o/{repo}", {file: content}) for repo in ("once", "always")}
    once, always, missing = run(
        "out = [get('once'), error(get, 'always'), absent('always')]",
        **sources,
    )
    assert [row[1:] for row in once[1]] == [[digest(image), label] for label, image in IMAGES]
    assert always[0] == "ZSRobustError"
    assert always[1].startswith(f"o/always {file}: two downloads differ from the hub's checksum")
    assert [len(hub.asked(f"{sources[repo]['revision']}/{file}", "GET")) for repo in sources] == [
        2,
        2,
    ]
    assert missing == 1
    assert not [path for path in run.cached() if "always" in path]

    # A file that was damaged in place is noticed, even if its time says that nothing has changed.
    (kept,) = (path for path in (run.home / "hf/hub").rglob("blobs/*"))
    stamp = kept.stat()
    damaged = bytearray(kept.read_bytes())
    damaged[1000] ^= 1
    kept.write_bytes(damaged)
    os.utime(kept, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    offline = {"HF_HUB_OFFLINE": "1"}
    assert (
        run("out = get('once')", **sources)
        == run("out = get('once')", environment=offline, **sources)
        == once
    )
    assert len(hub.asked(f"{sources['once']['revision']}/{file}", "GET")) == 3


@pytest.mark.parametrize("size", [8, 64], ids=["as git stores it", "as LFS stores it"])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_small_and_large_files_are_verified_on_every_disk(hub, run, size, links):
    content = zipped([("cat", png(0, size))])
    source = one(hub, "o/one", {"a.zip": content}, "zip", test=["a.zip"])
    hub.faults.append(Fault("a.zip", times=3, flip=100))
    environment = {} if links else {"HF_HUB_DISABLE_SYMLINKS": "1"}
    (kind, line), paths = run(
        "out = [error(fetch), list(map(str, fetch()))]", environment=environment, one=source
    )
    assert kind == "ZSRobustError"
    assert "two downloads differ from the hub's checksum" in line
    assert [Path(path).is_symlink() for path in paths] == [links]
    assert Path(paths[0]).read_bytes() == content
    assert len(hub.asked("a.zip", "GET")) == 4
    offline = {"HF_HUB_OFFLINE": "1", **environment}
    assert run("out = list(map(str, fetch()))", environment=offline, one=source) == paths


@pytest.mark.parametrize(
    "listing",
    ["", "{", "[]", "3", '{"files": 3}', "[" * 100_000, '{"format_version": 1, "files": []}']
    + [f'{{"format_version": 1, "files": {{"a": {entry}}}}}' for entry in ("3", "{}", "[]")],
)
def test_a_damaged_list_of_files_is_asked_for_again_or_one_line(hub, run, listing):
    source = one(hub, "o/one", {"data/test-00000-of-00001.parquet": parquet(IMAGES, NAMES)})
    found = run("out = get()", one=source)
    (stored,) = (run.home / "hf/hub").rglob("trees/*.json")
    stored.write_text(listing)
    again = run(
        "out = [None, None]\ntry: out[0] = get()\nexcept ZSRobustError as e: out[1] = str(e)",
        one=source,
    )
    assert again[0] == found or "datasets--o--one is damaged (" in again[1]
    offline = run("out = error(get)", environment={"HF_HUB_OFFLINE": "1"}, one=source)
    assert offline is None or offline[0] in ("Unreachable", "ZSRobustError")


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub, run):
    file = "data/test-00000-of-00001.parquet"
    content = {file: parquet(IMAGES, NAMES)}
    two = {f"{f}/test-00000-of-00001.parquet": b"-" for f in ("a", "b")}
    sources = {
        "gated": one(hub, "o/gated", content),
        "repo": {**one(hub, "o/there", content), "repo": "o/nowhere"},
        "revision": {**one(hub, "o/there", content), "revision": "f" * 40},
        "split": one(hub, "o/there", content, test=["valid"]),
        "folders": one(hub, "o/two", two),
        "few": one(hub, "o/few", {"data/test-00000-of-00002.parquet": b"-"}),
        "gone": one(hub, "o/gone", content),
        "column": one(hub, "o/there", content, label="fine_label"),
        "none": one(hub, "o/there", content, test=[]),
        "name": {**one(hub, "o/there", content), "repo": "a b"},
        "busy": one(hub, "o/busy", content),
    }
    hub.add("o/gated", content, gated=True)
    hub.faults += [
        Fault(f"{sources['gone']['revision']}/{file}", status=404, code="EntryNotFound"),
        Fault(f"o/busy/revision/{sources['busy']['revision']}", status=503),
    ]
    lines = dict(run("out = [(name, error(get, name)) for name in sources]", **sources))
    assert {name for name, (kind, _) in lines.items() if kind == "Unreachable"} == {"busy"}
    page = f"{hub.url}/datasets"
    for name, words in {
        "gated": f"Accept its terms at {page}/o/gated and set HF_TOKEN",
        "repo": "There is no dataset o/nowhere on the hub, or it is private.",
        "revision": f"o/there has no revision {'f' * 40}",
        "split": f"o/there has no parquet files of split 'valid'. Its files: {page}/o/there/tree/",
        "folders": "o/two has split 'test' in several folders. Name the folder too",
        "few": "o/few lists 1 files of split 'test', and their names give another number",
        "gone": f"o/gone has no {file}.",
        "column": "o/there has no column 'fine_label', but image, label.",
        "none": "o/there serves as no test split.",
        "name": "There is no dataset a b on the hub",
        "busy": f"o/busy: {hub.url} gives no answer for its list of files (",
    }.items():
        assert words in lines[name][1]
    named = {**sources["folders"], "test": ["b/test"]}
    refused, let_in, path = run(
        "import os; os.environ['HF_TOKEN'] = 'hf_other'; out = [error(get, 'gated')]\n"
        f"os.environ['HF_TOKEN'] = {hub.token!r}; out += [get('gated'), hub.files(source('named'), 'test')[0].filename]",
        **sources,
        named=named,
    )
    assert refused == lines["gated"]
    assert len(let_in[1]) == 7
    assert path == "b/test-00000-of-00001.parquet"


def test_without_a_network_it_says_so_at_once(hub, run):
    source = one(hub, "o/one", {"data/test-00000-of-00001.parquet": parquet(IMAGES, NAMES)})
    offline = {"HF_HUB_OFFLINE": "1"}
    (kind, line) = run("out = error(get)", environment=offline, one=source)
    assert (kind, hub.requests) == ("Unreachable", [])
    assert "o/one is not, or not all, on this machine, and HF_HUB_OFFLINE is set." in line
    assert run("out = absent()", one=source) == 1
    assert run("out = error(absent)[0]", environment=offline, one=source) == "Unreachable"
    run.url = "http://127.0.0.1:9"
    for call in ("absent", "get"):
        (kind, line), seconds = run(
            f"import time; start = time.monotonic(); out = [error({call}), time.monotonic() - start]",
            one=source,
        )
        assert kind == "Unreachable"
        assert "o/one: http://127.0.0.1:9 gives no answer for its list of files (" in line
        assert seconds < 5  # a retry would wait longer than a busy machine takes


def test_a_part_that_is_missing_is_missed_without_a_network(hub, run):
    rows = parquet(IMAGES, NAMES)
    files = {f"default/test/{number:04}.parquet": rows for number in range(2)}
    source = one(hub, "o/two", files)
    run("out = fetch() and None", one=source)
    (part,) = (run.home / "hf/hub").rglob("snapshots/*/default/test/0001.parquet")
    part.unlink()
    run.url = "http://127.0.0.1:9"
    assert run("out = error(get)[0]", one=source) == "Unreachable"
    assert (
        run("out = error(get)[0]", environment={"HF_HUB_OFFLINE": "1"}, one=source) == "Unreachable"
    )


def test_a_cache_that_takes_no_files_is_no_matter_of_the_network(hub, run):
    source = one(hub, "o/one", {"data/test-00000-of-00001.parquet": parquet(IMAGES, NAMES)})
    (run.home / "file").write_text("no folder")
    room, store = run(
        "usage = hub.shutil.disk_usage; hub.shutil.disk_usage = lambda path: usage(path)._replace(free=5)\n"
        "out = [error(get)]; hub.shutil.disk_usage = usage; out.append(error(get))",
        environment={"HF_HUB_CACHE": str(run.home / "file" / "hf")},
        one=source,
    )
    assert room[0] == store[0] == "ZSRobustError"
    assert "has room for 0.0 GB. Make room there, or set HF_HOME" in room[1]
    assert "o/one: its files cannot be stored under" in store[1]


def test_damaged_files_are_named(hub, run):
    table, tars = parquet(IMAGES, NAMES), wds(IMAGES, NAMES)
    tar = tars["test/0.tar"]
    header = bytearray(tar)
    header[2048 + 148 : 2048 + 152] = b"7777"  # the checksum in the third member's header
    folders = zipped([("cat", png(0, 32))])
    flipped = folders[:100] + bytes([folders[100] ^ 1]) + folders[101:]
    only = "data/test-00000-of-00001.parquet"
    rows = [(0, png(0)), (-1, png(1))]
    sources = {
        "truncated": one(hub, "o/truncated", {only: table[:-100]}),
        "page": one(hub, "o/page", {only: table[:4] + b"\xff" * 300 + table[304:]}),
        "unknown": one(hub, "o/unknown", {only: parquet(rows, NAMES)}),
        "tar": one(hub, "o/tar", {**tars, "test/0.tar": tar[:3000]}, "tar"),
        "header": one(hub, "o/header", {**tars, "test/0.tar": bytes(header)}, "tar"),
        "shards": one(hub, "o/shards", {**tars, "test/nshards.txt": b"2"}, "tar"),
        "sample": one(
            hub,
            "o/sample",
            {**tars, "test/0.tar": renamed(tar, "s0000002.cls", "s0000002.txt")},
            "tar",
        ),
        "picture": one(
            hub,
            "o/picture",
            {**tars, "test/0.tar": renamed(tar, "s0000003.webp", "s0000003.txt")},
            "tar",
        ),
        "zip": one(hub, "o/zip", {"a.zip": flipped}, "zip", test=["a.zip"]),
        "cut": one(hub, "o/cut", {"a.zip": folders[:-30]}, "zip", test=["a.zip"]),
        "empty": one(hub, "o/empty", {"a.zip": folders}, "zip", test=["a.zip"], inside="2750"),
    }
    lines = dict(run("out = [(name, error(get, name)) for name in sources]", **sources))
    for name, path in {
        "truncated": only,
        "page": only,
        "tar": "test/0.tar",
        "header": "test/0.tar",
        "zip": "a.zip",
        "cut": "a.zip",
    }.items():
        assert f"{path} is damaged (" in lines[name][1], name
    assert "o/unknown data/test-00000-of-00001.parquet row 1 has no label." in lines["unknown"][1]
    assert (
        "o/shards has shards [0] of the 2 that o/shards test/nshards.txt tells of."
        in lines["shards"][1]
    )
    assert "o/picture test/0.tar s0000003 has no image." in lines["picture"][1]
    assert "o/empty has no folders of classes inside '2750'." in lines["empty"][1]
    assert "o/sample test/0.tar s0000002 has no label." in lines["sample"][1]


def test_memory_does_not_grow_with_the_file(hub, run):
    large = [(index % 3, np.random.default_rng(index).bytes(100_000)) for index in range(800)]
    sources = {
        "large": one(hub, "o/large", {"test/0000.parquet": parquet(large, NAMES)}),
        "small": one(hub, "o/small", {"test/0000.parquet": parquet(large[:200], NAMES)}),
    }
    # ru_maxrss would start at what pytest has.
    grown, count = run(
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) >> 10\n"
        "paths = {name: fetch(name) for name in sources}\n"
        "count = lambda name: sum(1 for _ in formats.read(source(name), 'test', paths[name]).records)\n"
        "count('small'); before = peak(); out = [count('large'), peak() - before][::-1]",
        **sources,
    )
    assert count == 800
    assert grown < 30  # MB; the file is 60 MB larger


def test_names_that_are_mere_numbers_are_no_names():
    def named(names: list[str]) -> list[str] | None:
        return _class_names(
            {
                b"huggingface": json.dumps(
                    {"info": {"features": {"label": {"names": names}}}}
                ).encode()
            },
            "label",
        )

    assert named(["1", "2", "3"]) is None
    assert named([str(index) for index in range(12)]) is None
    assert named(["1", "10", "2"]) == ["1", "10", "2"]
    assert named(["cat", "2"]) == ["cat", "2"]
    assert _class_names({}, "label") is None


def test_a_revision_is_a_full_commit():
    with pytest.raises(ZSRobustError, match="revision 'main' is not a full commit"):
        HubSource(repo="o/one", revision="main", format="zip")


def test_importing_the_module_is_cheap():
    lines = (
        "print([m for m in ('torch', 'pyarrow', 'huggingface_hub', 'pandas') if m in sys.modules])"
    )
    code = f"import sys; from zsrobust.datasets.sources import formats, hub; {lines}"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        == b"[]\n"
    )
