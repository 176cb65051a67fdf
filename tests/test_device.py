"""What a GPU needs to be fast, checked without one: no waits in inner loops, pinned uploads, fused attention."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from optima import linear, numbers
from tiny import two_classes
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

from zsrobust.attacks import attacks
from zsrobust.attacks.search import Search
from zsrobust.datasets import Cut, Images
from zsrobust.datasets.pixels import tensor
from zsrobust.evaluation.referee import Case, judge, run_case
from zsrobust.models.clip import load_clip
from zsrobust.models.compiled import Filled
from zsrobust.settings import suites
from zsrobust.testing import toy
from zsrobust.training import Recipe
from zsrobust.training.learner import Learner

#: By spec: its waits for each pass of the classifier, and further ones in a pass that breaks an image.
WAITS = {
    "pgd:restarts=2": (1, 0),
    "pgd:early_stop=false": (0, 0),
    "mim": (1, 0),
    "mim:early_stop=false": (0, 0),
    "feature_l2": (0, 0),
    "apgd": (1, 1),
    "apgd:loss=dlr": (1, 1),
    "apgd:loss=targeted": (1, 1),
    "fab": (2, 1),  # one is Newton's method, which is done after its first round here
    "square": (1, 2),
}


class Counted(nn.Module):
    """A classifier that counts its passes."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier, self.passes = classifier, 0

    def forward(self, images):
        self.passes += 1
        return self.classifier(images)

    def features(self, images):
        self.passes += 1
        return self.classifier.features(images)


def attacked(spec, share, steps):
    """Return waits and passes of an attack with `share` of the eps that breaks every image."""
    classifier, images, labels, reach = linear("linf")
    eps = float(reach.max()) * share
    attack = attacks.create(spec, {"eps": eps})
    attack = replace(attack, **{"queries" if spec == "square" else "steps": steps})
    attack = replace(attack, step_size=eps / 4) if hasattr(attack, "step_size") else attack
    counted = Counted(classifier)
    with Waits() as waits:
        attack(counted, images, labels, numbers(images))
    return waits.count, counted.passes


@pytest.mark.parametrize("spec", WAITS)
def test_the_host_waits_so_often_in_each_pass(spec, monkeypatch):
    each, more = WAITS[spec]
    (few, short), (many, long) = (attacked(spec, 1e-4, steps) for steps in (6, 18))
    assert long >= short + 8
    assert many - few == each * (long - short)

    found = []
    take = Search.take

    def watched(*given):
        kept = take(*given)
        found.append(kept is not None)
        return kept

    monkeypatch.setattr(Search, "take", watched)
    waits, passes = attacked(spec, 0.7, 18)
    breaking = more * sum(found) - (more == 2 and found[0])  # Square asks after its start anyway
    verified = any(found)  # a last pass with one wait, for those that it takes back
    assert waits == few + each * (passes - verified - short) + breaking + verified
    assert any(found) == (more > 0)


@pytest.fixture(scope="module")
def clip():
    return load_clip(suites.load("mini").backbone)


@pytest.fixture
def learner(clip):
    """A training by PGD-10 on random images."""
    pixels = np.random.RandomState(0).randint(0, 256, (8, 3, 32, 32)).astype(np.uint8)
    dataset, images = two_classes(pixels)
    recipe = Recipe(
        objective="tecoa", attack="pgd10", eps=0.01, step_size=0.01, epochs=1, batch_size=8
    )
    return Learner(recipe, clip, dataset, images, None, checkpoint_activations=False)


def test_a_training_step_never_waits(learner):
    with Waits() as waits:
        totals = learner.gradients(0, torch.arange(8))
        finite = learner.finite()
        learner.move(0)
    assert waits.count == 0
    assert finite
    assert totals.isfinite().all()


class Operations(TorchDispatchMode):
    """Writes down the operations that forward and backward passes run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.add(function.__name__.split(".")[0])
        return function(*arguments, **(keywords or {}))

    def has(self, part):
        return any(part in name for name in self.names)


def test_attention_is_fused_in_passes_with_a_gradient(clip):
    classifier = clip.classifier([["a cat"], ["a dog"]])
    images = torch.rand(2, 3, clip.side, clip.side, requires_grad=True)
    with Operations() as forward:
        loss = classifier(images).sum()
    with Operations() as backward:
        torch.autograd.grad(loss, images)
    for passed in (forward, backward):
        assert passed.has("scaled_dot_product")
        assert not passed.has("softmax")


class Halves(TorchFunctionMode):
    """Writes down what is computed in bf16 inside the classifier, and outside of it."""

    def __init__(self):
        super().__init__()
        self.inside, self.names = False, {True: set(), False: set()}

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.bfloat16:
            self.names[self.inside].add(function.__name__)
        return found


@pytest.mark.parametrize(
    "spec", ["pgd", "pgd:norm=l2", "apgd:steps=5", "fab:steps=5", "square:queries=5"]
)
def test_a_search_in_bf16_leaves_the_arithmetic_of_the_attack_in_float32(spec):
    classifier, images = toy(4)

    class Watched(nn.Module):
        def forward(self, points):
            halves.inside = True
            logits = classifier(points)
            halves.inside = False
            return logits

    attack = attacks.create(spec, {"eps": 0.004})
    with Halves() as halves:
        judge(Case(Watched(), attack, spec, images, batch_size=24, search="bf16"))
    assert halves.names == {True: {"matmul"}, False: set()}


class Pretended(TorchFunctionMode):
    """Pretends that the CPU is a GPU, and writes down how tensors get there."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function is torch.Tensor.pin_memory:
            self.calls.append("pinned")
            return arguments[0].clone()
        if function is torch.Tensor.to and arguments[1:] == ("cuda",):
            self.calls.append((arguments[0].dtype, keywords))
            return arguments[0]
        return function(*arguments, **keywords)


@pytest.mark.parametrize("cut", [None, Cut(8)])
def test_pictures_go_to_a_gpu_as_bytes_from_pinned_memory(cut):
    pixels = np.random.RandomState(0).randint(0, 256, (5, 3, 16, 16)).astype(np.uint8)
    images, chosen = Images(pixels=pixels, labels=np.zeros(5, np.int64)), np.array([3, 1])
    with Pretended() as pretended:
        found = tensor(images, chosen, cut, "cuda")
    assert pretended.calls == ["pinned", (torch.uint8, {"non_blocking": True})]
    assert torch.equal(found, tensor(images, chosen, cut))


@pytest.fixture(scope="module")
def script():
    """The benchmark of devices, as it imports its neighbors when it runs as a script."""
    folder = Path(__file__).parents[1] / "benchmarks"
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "attacks"))
        patch.syspath_prepend(str(folder / "speed"))
        yield importlib.import_module("device")
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def smoke(script, *more):
    return script.main(["--smoke", "--precisions", "float32", *more])


@pytest.mark.filterwarnings("ignore:::")  # of the libraries
def test_the_script_for_a_gpu_measures_all_its_rows_and_stores_none_of_a_trial(
    script, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys.modules["measure"], "RESULTS", tmp_path)
    rows = smoke(script, "--what", "PGD-10", "training", "APGD-100")
    assert "not measured" not in capsys.readouterr().out
    ours = {row["what"]: row for row in rows if row["by"].startswith("zsrobust")}
    assert list(ours) == ["PGD-10", "training", "APGD-100"]
    assert all(row["TFLOP/s"] > 0 and row["% of products"] > 0 for row in rows)
    robust = {row["by"]: row["robust %"] for row in rows if row["what"] == "PGD-10"}
    assert robust["zsrobust, all steps, compiled"] == robust["zsrobust, all steps"]
    assert robust["zsrobust, all steps, channels-last"] == robust["zsrobust, all steps"]
    robust = {row["by"]: row["robust %"] for row in rows if row["what"] == "APGD-100"}
    assert robust["zsrobust, compiled"] == robust["zsrobust"]
    assert list(tmp_path.iterdir()) == []


def test_the_script_for_a_gpu_names_what_the_minutes_do_not_suffice_for(script, capsys):
    assert smoke(script, "--minutes", "0", "--what", "PGD-10") == []
    assert "not measured: mini, PGD-10, float32, zsrobust" in capsys.readouterr().out


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """What torch compiles is not kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


class Graphs:
    """A backend of torch.compile that runs graphs as they are, and writes down their batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, graph, inputs):
        self.sizes.extend(each.shape[0] for each in inputs if each.ndim == 4)
        return graph.forward


def test_a_compiled_classifier_sees_few_batch_sizes_and_returns_the_same_logits():
    classifier, images = toy(40)
    graphs = Graphs()
    filled = Filled(classifier, 32, backend=graphs)
    points = torch.from_numpy(images.pixels).float() / 255
    for number in (40, *range(32, 0, -1)):
        torch.testing.assert_close(filled(points[:number]), classifier(points[:number]))
    assert sorted(graphs.sizes) == [2, 8, 32]


def test_gradients_through_a_compiled_tower_are_those_of_the_plain_one(clip):
    classifier = clip.classifier([["a cat"], ["a dog"]]).eval().requires_grad_(False)
    images = torch.rand(3, 3, clip.side, clip.side, requires_grad=True)
    both = (classifier, Filled(classifier, 8, backend="aot_eager"))
    plain, compiled = (torch.autograd.grad(each(images)[:, 0].sum(), images)[0] for each in both)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("spec", ["pgd", "apgd:steps=10", "square:queries=20"])
def test_a_compiled_search_has_the_verdicts_and_waits_of_the_plain_one(spec, monkeypatch):
    for name in ("__init__", "__setstate__"):  # torch's first compilation replaces them
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True, raising=False)
    classifier, images = toy(24)
    graphs = Graphs()
    plain = Case(classifier, attacks.create(spec, {"eps": 0.004}), spec, images, batch_size=24)
    compiled = replace(plain, compiler={"backend": graphs})
    one, other = run_case(plain), run_case(compiled)
    assert 0 < one.robust_correct < one.clean_correct
    assert other.error is None
    assert other.notes == one.notes == []
    assert other.messages is None
    assert other.robust_correct == one.robust_correct
    assert other.backward == one.backward
    assert other.forward == one.forward + one.robust_correct  # asks what its own arithmetic says
    assert (one.disagreements, other.disagreements) == (None, 0)
    assert set(graphs.sizes) <= {2, 6, 24}
    assert len(graphs.sizes) <= 6  # with a gradient, and without

    monkeypatch.setattr(torch, "compile", lambda module, **arguments: module)  # modes are traced
    counts = []
    for case in (plain, compiled):
        with Waits() as waits:
            run_case(case)
        counts.append(waits.count)
    assert counts[1] == counts[0] + 2  # of that question, whatever the number of steps


def test_what_a_compiled_search_broke_wrongly_is_attacked_again_by_the_plain_classifier():
    classifier, images = toy(8)

    def wrong(graph, inputs):
        def run(*given):
            return tuple(-each for each in graph.forward(*given))

        return run

    attack = attacks.create("pgd", {"eps": 0.004})
    case = Case(classifier, attack, "pgd", images, batch_size=8)
    plain, judged = run_case(case), run_case(replace(case, compiler={"backend": wrong}))
    assert judged.disagreements == plain.clean_correct > 0
    assert judged.robust_correct == plain.robust_correct


def test_a_classifier_that_torch_cannot_compile_fails_the_cell_in_one_line():
    classifier, images = toy(4)

    def broken(graph, inputs):
        raise NotImplementedError("an operator is missing")

    attack = attacks.create("pgd", {"eps": 0.004})
    judged = run_case(Case(classifier, attack, "pgd", images, compiler={"backend": broken}))
    assert judged.error.splitlines()[-1].endswith("Leave out --compile.")


def test_an_image_step_has_the_operations_of_its_products(script):
    layer = nn.Linear(6, 5, bias=False).requires_grad_(False)
    images = torch.rand(3, 6, requires_grad=True)
    with script.counted() as counter:
        torch.autograd.grad(layer(images).sum(), images)
    assert counter.flop == 2 * 2 * 3 * 6 * 5
