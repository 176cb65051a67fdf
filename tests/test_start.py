"""What a command imports before it answers, and the index that makes it possible."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import fresh
import numpy as np
import pytest

from zsrobust.core import index
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, Images, datasets
from zsrobust.defenses.workshop import Workshop
from zsrobust.models import remembered
from zsrobust.models.clip import find_clip, weights_digest
from zsrobust.running.bench import Bench
from zsrobust.running.plan import plan
from zsrobust.settings import protocols, suites

COMMAND = """
import sys
from click.testing import CliRunner
from zsrobust.cli import main
done = CliRunner().invoke(main, sys.argv[1:])
print(done.output.strip())
if done.exception and not isinstance(done.exception, SystemExit):
    print(repr(done.exception))
heavy = {"torch", "torchvision", "open_clip", "pandas", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy
"""
PLUGIN = """
from dataclasses import dataclass
from zsrobust.attacks import attacks
from zsrobust.attacks.pgd import PGD

@dataclass(frozen=True, kw_only=True)
class Mine(PGD):
    "An attack of somebody else."

attacks.register("somebodys_pgd")(Mine())
"""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("list", "SUITES"),
        ("list attacks", "pgd100"),
        ("list defenses --suite paper", "not trained on paper yet"),
        ("list datasets", "mini_shapes"),
        ("list suites", "paper_imagenet"),
        ("list protocols", "reference"),
        ("run --suite mini --defense nope", "Unknown defense 'nope'. See: zsrobust list defenses"),
        ("run --defense pmg-aft", "Unknown defense 'pmg-aft'. Did you mean pmg_aft?"),
        ("run --suite mini --attack pgdd", "Unknown attack 'pgdd'. Did you mean pgd?"),
        ("run --suite mini --attack pgd10:stepz=3", "has no field 'stepz'. Its fields: eps, norm"),
        ("run --suite mini --attack pgd:loss=hinge", "loss='hinge' is not one of ce, margin"),
        ("run --suite mini --defense tecoa:lr=x", "lr='x' is not a number"),
        ("run --suite mini --defense tte:of=tekoa", "Did you mean tecoa"),
        ("run --suite mini --defense tte:lrr=1", "defense 'tte' of 'tecoa' has no field 'lrr'"),
        ("run --suite mini --defense fare4_vit_b32:lr=1", "'fare4_vit_b32' has no field 'lr'"),
        ("run --suite mini --dataset x", "Unknown dataset 'x'"),
        ("run --suite x", "Unknown suite 'x'"),
        ("run --suite mini --protocol x", "Unknown protocol 'x'"),
        ("run --suite mini --table 1 --protocol x", "Unknown protocol 'x'"),
        ("doctor --suite mini --defense x", "Unknown defense 'x'"),
        ("train x --suite mini", "Unknown defense 'x'"),
        ("export x --suite mini --out x", "Unknown defense 'x'"),
        ("data mini_shape", "Unknown dataset 'mini_shape'. Did you mean mini_shapes?"),
    ],
)
def test_lists_and_errors_import_nothing_heavy(words, answer, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout


FROM_REGISTRIES = """
import json
from zsrobust.core.registry import load_plugins
from zsrobust.running import indexing
load_plugins()
print(indexing.text())
"""


def test_the_index_equals_the_registries(tmp_path):
    made = fresh.Process(
        fresh.script, FROM_REGISTRIES, folder=tmp_path, environment=os.environ
    ).end()
    assert made.returncode == 0, made.stderr
    stored = json.loads(index.FILE.read_text(encoding="utf-8"))
    next_command = "python -m zsrobust.running.indexing"
    assert json.loads(made.stdout) == stored, f"The index is stale. Next: {next_command}"


CHECKS = """
import sys
LATE = "pgd:steps=-1", "torchattacks"  # what the entries alone know
from zsrobust.attacks import attacks
from zsrobust.core import index
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses

def said(function, *given):
    try:
        function(*given)
    except ZSRobustError as error:
        return str(error)

assert index.read() is not None
of_index = []
for spec in sys.argv[1:]:
    of_index.append([said(index.check, [spec]), said(index.check, (), [spec])])
for spec, early in zip(sys.argv[1:], of_index, strict=True):
    for one, late in zip(early, [said(defenses.create, spec), said(attacks.create, spec)]):
        assert one == late or (one is None and spec in LATE), (spec, one, late)
assert said(index.check, ["nope"]) is None, "with plugins loaded, only the registries are asked"
"""


def test_the_index_says_what_the_registries_say(tmp_path):
    """For each spec, as a defense and as an attack: the same line, or none."""
    specs = ["pgd", "pgd:stepz=1", "pgd:steps=x", "pgd:norm=l9", "pgd:eot=none", "pgd:steps=-1"]
    specs += ["pgd:steps=1,steps=2", "pgd:", "tecoa", "tecoa:lr=1e-4", "tecoa:lr=no", "tecoaa"]
    specs += ["tecoa:interpolation=none", "pmg_aft:distance=l7", "clip:lr=1", "weights:x.pt"]
    specs += ["tte:of=clip", "tte:of=tecoa:lr=q", "tte:pad=q", "tte:lr=1e-4", "tte:knowledge=some"]
    specs += ["soup:of=tecoa+fare", "soup:of=tecoa+fair", "interpolation:of=tekoa,weight=0.5"]
    specs += ["fare4_vit_b32:x=1", "cola:of=clip", "torchattacks", "", ":", "\n"]
    done = fresh.Process(
        fresh.script, CHECKS, *specs, folder=tmp_path, environment=os.environ
    ).end()
    assert done.returncode == 0, done.stderr


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
from zsrobust.cli import main
main(sys.argv[2:])
"""


def installed(folder, name="somebodys"):
    """Write a module and the entry point of a distribution, as an installer would."""
    (folder / f"{name}.py").write_text(PLUGIN)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[zsrobust]\n{name} = {name}\n")


@pytest.mark.parametrize(
    ("words", "code", "answer"),
    [
        ("list attacks", 0, "somebodys_pgd"),
        ("run --suite mini --attack somebody_pgd", 2, "Did you mean somebodys_pgd?"),
        ("run --suite mini --attack somebodys_pgd:stepz=1", 2, "has no field 'stepz'"),
    ],
)
@pytest.mark.parametrize("how", ["installed", "file"])
def test_the_entries_of_a_plugin_are_listed_checked_and_found(how, words, code, answer, tmp_path):
    if how == "installed":
        installed(tmp_path)
        line = words.split()
    else:
        (tmp_path / "mine.py").write_text(PLUGIN)
        line = ["--plugin", "mine.py", *words.split()]
    done = fresh.Process(
        fresh.script, INSTALLED, str(tmp_path), *line, folder=tmp_path, environment=os.environ
    ).end()
    assert done.returncode == code, done.stderr
    assert answer in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "text", "error"),
    [(["int", "none"], "many", True), ([["a", "b"], "none"], "none", False), (["bool"], "1", True)],
)
def test_a_type_in_the_index_accepts_what_it_says(kind, text, error):
    from zsrobust.core.specs import parse_fields

    if error:
        with pytest.raises(ZSRobustError):
            parse_fields({"x": text}, {"x": index.decode(kind)}, "here")
    else:
        parse_fields({"x": text}, {"x": index.decode(kind)}, "here")


RESULTS = Path(__file__).parents[1] / "results"
STORED = """
import sys
from zsrobust.cli import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" in sys.modules
    heavy = {"torchvision", "open_clip", "pandas"} & sys.modules.keys()
    assert not heavy, heavy
"""


def test_a_run_of_stored_cells_loads_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    known = find_clip(suites.load("mini").backbone)
    words = f"run --suite mini --defense clip --dataset mini_cells --baseline {RESULTS}"
    done = subprocess.run(
        [sys.executable, "-c", STORED, *words.split(), "--attack", "pgd10"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 images attacked" in done.stdout
    late = find_clip(known.name)
    assert "model" not in vars(late)
    assert (late.about, late.name) == (known.about, known.name)
    assert weights_digest(late.model.state_dict()) == weights_digest(known.model.state_dict())
    assert late.config == known.config


@pytest.mark.parametrize("change", ["content", "gone", "damaged", "not a table", "unwritable"])
def test_what_is_remembered_is_computed_again_after_a_change(change, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ZSROBUST_CACHE", "/dev/null/x" if change == "unwritable" else str(cache))
    file = tmp_path / "weights"
    file.write_text("one")
    remembered.remember("key", remembered.stamps([file]), {"digest": "1"})
    if change == "unwritable":
        assert remembered.recall("key", dict) is None
        return
    assert remembered.recall("key", dict) == {"digest": "1"}
    assert remembered.recall("key", str) is None  # not such a value
    if change == "content":
        file.write_text("three")
    elif change == "gone":
        file.unlink()
    else:
        (cache / "remembered.json").write_text("{" if change == "damaged" else '{"key": 3}')
    assert remembered.recall("key", dict) is None


def test_files_that_changed_while_they_were_read_are_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_text("one")
    taken = remembered.stamps([file])
    file.write_text("three")
    remembered.remember("key", taken, 1)
    remembered.remember("other", [], 1)
    assert remembered.recall("key", int) is None
    assert remembered.recall("other", int) is None


CHANGES = ["nothing", "size", "time", "another limit", "another file", "unknown files"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_dataset_stays_closed_until_one_of_its_files_changes(change, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    file, opened = tmp_path / "pixels", []
    file.write_bytes(bytes(range(48)))

    def select(*chosen):
        opened.append(chosen)
        pixels = np.frombuffer(file.read_bytes()[:48], np.uint8).reshape(4, 3, 2, 2)
        return Images(pixels=pixels, labels=np.arange(4), cut=Cut(2))

    monkeypatch.setattr("zsrobust.running.bench._select", select)
    suite = suites.load("mini")
    bench = Bench(suite, protocols.load("sound"), Workshop(suite, tmp_path))
    known = () if change == "unknown files" else (file,)
    (cell,) = plan(suite, bench.protocol, ["clip"], ["pgd10"], ["mini_cells"])
    cell = replace(cell, dataset=replace(cell.dataset, files=known))
    first = bench.facts(cell)
    assert first == select().facts
    opened.clear()
    if change == "size":
        file.write_bytes(bytes(range(1, 50)))
    elif change == "time":
        about = file.stat()
        file.write_bytes(bytes(range(1, 49)))
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    elif change == "another file":
        other = tmp_path / "others"
        other.write_bytes(bytes(range(2, 50)))
        cell = replace(cell, dataset=replace(cell.dataset, files=(other,)))
        file = other
    elif change == "another limit":
        cell = replace(cell, key=cell.key._replace(limit=3))
    found = bench.facts(cell)
    assert bool(opened) is (change != "nothing")
    assert (found == first) is (change not in ("size", "time", "another file"))


def test_the_files_of_mini_are_all_that_its_images_are_made_from():
    package = Path(files("zsrobust.mini"))
    sources = {path for path in package.iterdir() if path.is_file()}
    # The model's training and the page about the suite are not read.
    unread = {package / name for name in ("__init__.py", "README.md", "pretrain.py")}
    for name in suites.load("mini").datasets:
        assert set(datasets[name].files) == sources - unread
