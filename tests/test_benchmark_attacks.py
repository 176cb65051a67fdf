"""The benchmark of attacks: adapters stay in bounds, one module counts, the pool and the page are right."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks/attacks"
N, STEPS = 6, 3


@pytest.fixture(scope="module", autouse=True)
def modules():
    """The benchmark's modules, as they import each other when a script of that folder runs."""
    names = ("adapters", "cases", "judge", "pools", "page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in names}
    for name in [each for each in sys.modules if each.split(".")[0] in names]:
        del sys.modules[name]


class Counted(nn.Module):
    """A network of random weights that counts its passes itself."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.GELU(), nn.Linear(32, 6))
        self.requires_grad_(False)
        self.forward_passes = self.backward_passes = 0

    def forward(self, images):
        self.forward_passes += len(images)
        logits = 20 * self.body((images - 0.5) * 4)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backward_passes += len(gradient)


def target(modules, eps):
    images = torch.from_numpy(np.random.RandomState(0).rand(N, 3, 16, 16)).float()
    classifier = Counted().eval()
    labels = classifier(images).argmax(1)
    task = modules["adapters"].Task(eps, eps / 2, STEPS, 0, "toy", np.arange(N), 2, 5)
    return modules["cases"].Target("toy", classifier, images, labels, task)


@pytest.mark.filterwarnings("ignore:::")  # of the libraries
@pytest.mark.parametrize(
    "library", ["zsrobust", "pyautoattack", "torchattacks", "foolbox", "art", "adv-lib"]
)
def test_adapters_return_images_in_bounds_and_every_pass_is_counted(modules, library):
    adapters, judge = modules["adapters"], modules["judge"]
    if adapters.installed(library) is None:
        pytest.skip(f"{library} is not installed: pip install -r requirements/attacks.txt")
    for kind, attack in adapters.adapter(library).ATTACKS.items():
        # AutoAttack has thousands of queries for images that survive: none does at this eps.
        case = target(modules, 0.3 if kind == "autoattack" else 4 / 255)
        case.classifier.forward_passes = case.classifier.backward_passes = 0
        seen = []

        def spied(classifier, images, labels, task, attack=attack, seen=seen):
            seen.append(attack(classifier, images, labels, task))
            return seen[0]

        verdict = judge.run(spied, case, case.task)
        (found,) = seen
        asked = verdict.forward - case.classifier.forward_passes + N  # the judge asks once more
        assert 0 >= asked >= -3, (
            kind
        )  # and an adapter asks about one image for the number of classes
        assert verdict.backward == case.classifier.backward_passes, kind
        assert found.dtype == torch.float32, kind
        assert found.shape == case.images.shape, kind
        assert float(found.min()) >= 0, kind
        assert float(found.max()) <= 1, kind
        if kind != "fab-t":  # which minimizes the perturbation, and may end beyond eps
            assert float((found - case.images).abs().max()) <= case.task.eps + 1e-6, kind
            assert verdict.refused == 0, kind
        if kind == "pgd" and library not in ("zsrobust", "art"):  # they take all steps
            assert (verdict.forward, verdict.backward) == (N * STEPS, N * STEPS)
        if kind == "autoattack":
            assert verdict.broken.all()


def test_images_beyond_eps_outside_the_cube_or_not_finite_are_not_broken(modules):
    case = target(modules, 4 / 255)

    def cheat(classifier, images, labels, task):
        found = images.flip(0)  # far beyond eps
        found[0], found[1, 0, 0, 0] = images[0] + np.nan, 1.01
        return found

    verdict = modules["judge"].run(cheat, case, case.task)
    assert verdict.refused == N
    assert not verdict.broken.any()
    assert verdict.forward == 0


def rows(library, *seeds):
    common = {"library": library, "classifier": "clip", "dataset": "d", "images": 6, "eps": 0.1}
    counts = {
        "steps": 1,
        "queries": 1,
        "targets": 9,
        "refused": 0,
        "forward": 12,
        "backward": 6,
        "seconds": 2.0,
    }
    return [
        {**common, **counts, "seed": seed, "broken": broken} for seed, broken in enumerate(seeds)
    ]


def test_a_pool_compares_with_the_union_and_names_where_ours_is_weaker(modules):
    pools, page = modules["pools"], modules["page"]
    stored = [*rows("zsrobust", "100000", "100000"), *rows("a", "111110", "011111")]
    found = pools.pool([*stored, *rows("b", "100000")], {"clip"})
    assert found.failed == {"b": "not all of its runs are stored"}
    assert found.union.all()
    assert [found.alone(name) for name in ("zsrobust", "a")] == [0, 5]
    assert [found.optimality(name) for name in ("zsrobust", "a")] == [1 / 6, 5 / 6]
    assert found.against_ours("a") == (5, 1)
    assert found.mean("a", "forward") == 2
    assert pools.p_value(5, 1) == 7 / 64
    assert pools.p_value(5, 0) == 1 / 32
    assert pools.p_value(0, 0) == 1
    (line,) = page.verdicts("PGD", found)
    assert "ours is not weaker than a, which breaks 5 images more often and 1 less often" in line
    stored = [*rows("zsrobust", "000000"), *rows("a", "111110")]
    (line,) = page.verdicts("PGD", pools.pool(stored, {"clip"}))
    assert "ours is WEAKER than a" in line
    assert line in page.summary([line])


def test_a_library_that_raised_is_named_and_not_counted_as_weak(modules):
    failed = [{**row, "error": "ValueError: x"} for row in rows("a", "0")]
    found = modules["pools"].pool([*rows("zsrobust", "100000"), *failed], {"clip"})
    assert found.failed == {"a": "ValueError: x"}
    assert list(found.broken) == ["zsrobust"]


def test_the_page_is_what_the_stored_results_say(modules, tmp_path, monkeypatch):
    page = modules["page"]
    stored = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", tmp_path / "README.md")
    page.PAGE.write_text(stored, encoding="utf-8")
    assert page.write(FOLDER / "results")
    assert page.PAGE.read_text(encoding="utf-8") == stored
