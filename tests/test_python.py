"""`zsrobust.evaluate` on several cells, stored cells, and what a result shows of itself."""

import itertools
import math
from dataclasses import dataclass, field

import fresh
import pytest
import torch
from edits import edited
from test_results import make

import zsrobust as public
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.core.registry import load_plugins
from zsrobust.defenses.workshop import Workshop
from zsrobust.results import Result, Results, paths, read
from zsrobust.results.flags import look_up
from zsrobust.running import bars, bench, compute, run, single

SMALL = {"attack": "pgd:steps=1", "dataset": "mini_shapes", "limit": 4}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """Red flags and the speed of this machine take longer than these cells."""
    load_plugins()
    for (module, name), value in fresh.HURRIED.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(single, "examine_cell", lambda *_: compute.Examined())


class Constant(torch.nn.Module):
    """A classifier that answers class 0 of `classes`, whatever it sees."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        zeros = torch.zeros(len(images), self.classes)
        return zeros.index_fill(1, torch.tensor(0), 1.0) + 0 * images.sum((1, 2, 3))[:, None]


def counted(result):
    """Return what a result says, without times."""
    left_out = ("seconds", "outcomes", "samples", "predicted", "cost")
    return {key: value for key, value in result.to_json().items() if key not in left_out}


def test_several_values_give_the_results_of_every_combination_in_order(tmp_path, monkeypatch):
    made = []
    tower = Workshop.tower
    monkeypatch.setattr(
        Workshop, "tower", lambda self, spec: made.append(spec) or tower(self, spec)
    )
    asked = {
        "attack": ["pgd:steps=1", "pgd:steps=2"],
        "eps": (2 / 255, 6 / 255),
        "dataset": ["mini_shapes", "mini_flags"],
        "seed": range(2),
    }
    found = public.evaluate("clip", limit=2, **asked)
    assert isinstance(found, Results)
    assert made == ["clip"]
    about = [
        (each["attack"], each["eps"], each["dataset"], each["seed"])
        for each in found.frame.to_dict("records")
    ]
    bounds = ["2/255", "6/255"]
    assert about == list(
        itertools.product(asked["attack"], bounds, asked["dataset"], asked["seed"])
    )
    one = public.evaluate(
        "clip", limit=2, attack="pgd:steps=2", eps=6 / 255, dataset="mini_flags", seed=1
    )
    assert isinstance(one, Result)
    assert counted(found[-1]) == counted(one)


def test_the_precision_and_the_compiler_of_a_search_are_those_of_the_command(monkeypatch):
    chosen = []

    def eager(device):
        chosen.append(device.type)
        return {"backend": "eager"}

    monkeypatch.setattr(bench, "compiler", eager)
    monkeypatch.setattr(single, "compiler", eager)
    plain = public.evaluate("clip", **SMALL)
    lower = public.evaluate("clip", **SMALL, precision="bf16")
    assert (plain.identity.search, lower.identity.search) == ("float32", "bf16")
    for defense in ("clip", Constant(len(public.datasets.datasets["mini_shapes"].classes))):
        found = public.evaluate(defense, **SMALL, compiled=True)
        assert found.identity.compiled
        assert found.disagreements is not None
    assert chosen == ["cpu", "cpu"]
    assert not plain.identity.compiled
    assert plain.clean_correct == lower.clean_correct


def test_equal_cells_are_computed_once_and_an_empty_sequence_is_refused():
    found = public.evaluate("clip", **SMALL | {"dataset": ["mini_shapes", "mini_shapes"]})
    assert len(found) == 1
    with pytest.raises(ZSRobustError, match="seed is an empty sequence"):
        public.evaluate("clip", **SMALL, seed=[])


def test_a_stored_cell_is_that_of_run_and_is_read_again(zsrobust, tmp_path, monkeypatch):
    zsrobust(
        *("run", "--suite", "mini", "--defense", "clip", "--attack", "pgd:steps=1"),
        *("--dataset", "mini_shapes", "--limit", "4", "--results", "mine"),
    )
    (path,) = paths(tmp_path / "mine")
    before = path.read_bytes()
    asked = SMALL | {"dataset": ["mini_shapes", "mini_flags"]}
    found = public.evaluate("clip", **asked, results=tmp_path / "mine")
    assert path.read_bytes() == before
    assert found[0] == read(path)
    stored = [read(each) for each in paths(tmp_path / "mine")]
    assert {each.path for each in stored} == {each.path for each in found}

    def refused(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(run, "compute", refused)
    again = public.evaluate("clip", **asked, results=tmp_path / "mine")
    assert list(map(counted, again)) == list(map(counted, found))
    done = zsrobust(
        *("run", "--suite", "mini", "--defense", "clip", "--attack", "pgd:steps=1"),
        *("--dataset", "mini_flags", "--limit", "4", "--results", "mine"),
    )
    assert "0 images attacked" in done.stdout


def test_a_module_is_not_stored(tmp_path):
    with pytest.raises(ZSRobustError, match="cannot store a module: the code of Constant"):
        public.evaluate(Constant(4), **SMALL, results=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_several_seeds_of_a_module():
    classes = len(public.datasets.datasets["mini_shapes"].classes)
    found = public.evaluate(Constant(classes), **SMALL, seed=[0, 1])
    assert [each.identity.seed for each in found] == [0, 1]
    assert len({each.clean_correct for each in found}) == 1
    assert all(each.robust_correct == each.clean_correct for each in found)  # it has one answer


def test_a_cell_that_fails_is_named_after_the_others_are_stored(tmp_path):
    from zsrobust.attacks import Attack, attacks

    @dataclass(frozen=True)
    class Crashing(Attack):
        eps: float = field(default=6 / 255, kw_only=True)

        def __call__(self, classifier, images, labels, draws):
            raise RuntimeError("no gradient here")

    attacks._entries["crashing_here"] = Crashing()
    try:
        asked = SMALL | {"attack": ["crashing_here", "pgd:steps=1"]}
        line = "clip under crashing_here 6/255 on mini_shapes: RuntimeError: no gradient here"
        with pytest.raises(ZSRobustError, match=line):
            public.evaluate("clip", **asked)
        with pytest.raises(ZSRobustError, match=line):
            public.evaluate("clip", **asked, results=tmp_path)
    finally:
        del attacks._entries["crashing_here"]
    found = {read(path).identity.attack.spec: read(path).status for path in paths(tmp_path)}
    assert found == {"crashing_here": "failed", "pgd:steps=1": "ok"}


def test_a_result_has_shares_and_wilson_intervals():
    result = make()  # 5 and 2 of 8 images
    assert (result.clean_accuracy, result.robust_accuracy) == (0.625, 0.25)
    assert (result.clean_interval, result.robust_interval) == (wilson(5, 8), wilson(2, 8))
    row = result.to_dict()
    assert (row["robust_low"], row["robust_high"]) == wilson(2, 8)
    assert (row["defense"], row["eps"], row["limit"], row["status"]) == (
        "clip",
        "6/255",
        None,
        "ok",
    )
    failed = make(status="failed", images=0, clean_correct=0, robust_correct=0)
    numbers = (failed.clean_accuracy, failed.robust_accuracy, *failed.robust_interval)
    assert all(map(math.isnan, numbers))


def test_a_result_shows_itself_in_one_line_and_as_html():
    result = edited(make(flags=["at_chance"]), {"defense.spec": "weights:<b>&"})
    assert repr(result) == (
        "Result(weights:<b>& under pgd10 6/255 on mini_shapes: 8 images, clean 62.5%, "
        "robust 25.0%, flags: at_chance)"
    )
    low, high = (100 * end for end in wilson(2, 8))
    page = result._repr_html_()
    assert f"<td>25.0 [{low:.1f}, {high:.1f}]</td><td>at chance</td>" in page
    assert "<td>weights:&lt;b&gt;&amp;</td>" in page
    assert "<b>" not in page
    failed = make(status="failed", images=0, clean_correct=0, robust_correct=0)
    assert repr(failed) == "Result(clip under pgd10 6/255 on mini_shapes: failed)"
    both = Results([result, failed])
    assert repr(both) == f"{result!r}\n{failed!r}"
    assert both._repr_html_().count("<tr>") == 3
    assert isinstance(both[1:], Results)
    assert list(both[1:]) == [failed]
    assert list(both.frame["status"]) == ["ok", "failed"]


def test_what_is_stored_does_not_change():
    stored = make().to_json()
    assert not {"clean_accuracy", "robust_accuracy", "clean_interval"} & stored.keys()


def test_a_bar_shows_where_somebody_looks_on(capsys):
    public.evaluate("clip", **SMALL)  # standard error is no terminal here
    assert capsys.readouterr().err == ""
    public.evaluate("clip", **SMALL, progress=True)
    assert "attacking" in (shown := capsys.readouterr().err)
    assert "4/4" in shown
    with bars.bars(False) as reporter:
        reporter.note("nobody reads this")
    assert capsys.readouterr().err == ""


def test_a_diagnosis_is_public_and_gives_its_flags_in_words():
    checks = {"correct": 1.0, "images": 32, "clean": 1.0, "zero_gradients": 1.0}
    checks |= {"unstable": 1.0}
    found = public.Diagnosis("mine", "mini_shapes", checks)
    assert len(found.reasons) == len(found.flags) > 1
    for reason, name in zip(found.reasons, found.flags, strict=True):
        flag = look_up(name)
        assert reason == f"{flag.title}: {flag.means} What to do: {flag.remedy}"
        assert flag.title in found.verdict
