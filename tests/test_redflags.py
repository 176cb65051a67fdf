import json
import re

import masked
import numpy as np
import pytest
import torch
from torch import nn

import zsrobust as package
from zsrobust import results
from zsrobust.attacks import attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.evaluation.redflags import measurements
from zsrobust.evaluation.redflags.measurements import examine
from zsrobust.reporting.report.flags import _UNKNOWN, explain
from zsrobust.results import flags
from zsrobust.results.flags import FLAGS, raised, sentences
from zsrobust.running import run
from zsrobust.testing import LinearClassifier, toy

EPS = 8 / 255


def sample(classes=4, images=16, seed=0):
    classifier, data = toy(classes, images, seed=seed)
    return classifier, torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)


def look(classifier, pixels, labels, attack=None, **more):
    draws = Draws.of(0, "toy", np.arange(len(labels)))
    return examine(
        classifier, attack or PGD(eps=EPS, step_size=EPS / 4), pixels, labels, draws, **more
    )


def names(checks):
    return {flag.name for flag in raised(checks)}


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 1 / 255), ("linf", EPS), ("l2", 0.3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_honest_classifier_raises_nothing(classes, norm, eps, seed):
    checks = look(*sample(classes, seed=seed), PGD(eps=eps, norm=norm, step_size=eps / 4))
    assert not names(checks), checks


@pytest.mark.parametrize(
    ("kind", "expected"), masked.CAUGHT.items(), ids=lambda each: getattr(each, "__name__", "")
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_masked_defense_is_caught_by_its_flag(kind, expected, norm):
    classifier, pixels, labels = sample()
    eps = EPS if norm == "linf" else 0.3
    checks = look(
        kind(classifier).eval(), pixels, labels, PGD(eps=eps, norm=norm, step_size=eps / 4)
    )
    assert expected <= names(checks), checks


def test_a_gradient_that_points_anywhere_is_caught():
    classifier, pixels, labels = sample()
    assert names(look(masked.Shattered(classifier), pixels, labels)) & {
        "black_box",
        "standing",
        "no_growth",
        "more_steps",
    }


def test_what_cannot_be_broken_is_no_robustness():
    classifier, pixels, _ = sample()
    constant = masked.Constant(classifier)
    with torch.no_grad():
        labels = constant(pixels).argmax(1)
    found = look(constant, pixels, labels)
    assert found["standing"] == found["zero_gradients"] == 1
    assert {"standing", "zero_gradients", "no_growth"} <= names(found)


class Partly(nn.Module):
    """A classifier that cuts the gradient of images whose first pixel is bright."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        cut = images[:, :1, :1, :1] > 0.9
        return self.classifier(torch.where(cut, images.detach(), images))


def test_shares_are_counted_image_by_image():
    classifier, pixels, labels = sample()
    pixels[:4, 0, 0, 0] = 1
    with torch.no_grad():
        right = classifier(pixels).argmax(1) == labels
    checks = look(Partly(classifier), pixels, labels)
    assert checks["correct"] == right.sum()
    assert checks["zero_gradients"] == pytest.approx(float(right[:4].sum() / right.sum()), abs=1e-6)


@pytest.mark.parametrize(("eps", "kept"), [(0.4 / 255, 0), (0.8 / 255, 1)])
def test_a_perturbation_below_half_a_level_is_lost_in_8_bits(eps, kept):
    ones = torch.ones(3 * 4 * 4)
    classifier = LinearClassifier(
        torch.stack([ones, -ones]), torch.tensor([0.0, 2 * 48 * 127.8 / 255])
    )
    pixels = torch.full((6, 3, 4, 4), 128 / 255)  # class 0 from 127.8 of 255 levels on
    checks = look(classifier, pixels, torch.zeros(6, dtype=torch.long), PGD(eps=eps, step_size=eps))
    assert (checks["broken"], checks["eight_bits"]) == (6, kept)
    assert ("eight_bits" in names(checks)) == (not kept)


def test_it_leaves_everything_as_it_was_and_repeats_itself():
    classifier, pixels, labels = sample()
    defense = masked.RandomResize(classifier).train()
    kept = {name: each.clone() for name, each in defense.state_dict().items()}
    state, images = torch.random.get_rng_state(), pixels.clone()
    first = look(defense, pixels, labels)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert look(defense, pixels, labels) == first
    assert defense.training
    assert all(each.requires_grad and each.grad is None for each in defense.parameters())
    assert all(torch.equal(each, kept[name]) for name, each in defense.state_dict().items())
    assert torch.equal(images, pixels)
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("error")
def test_warnings_of_the_probes_are_not_heard():
    classifier, pixels, labels = sample()
    look(masked.StopGradient(classifier), pixels, labels)


def test_batches_do_not_matter():
    classifier, pixels, labels = sample(5)
    whole, split = look(classifier, pixels, labels), look(classifier, pixels, labels, batch_size=5)
    assert whole.keys() == split.keys()
    assert all(split[name] == pytest.approx(value, abs=2e-4) for name, value in whole.items())


def test_where_nothing_is_right_only_the_outputs_are_looked_at():
    classifier, pixels, labels = sample()
    checks = look(classifier, pixels, (labels + 1) % 4)
    assert checks["correct"] == 0
    assert checks.keys() == {
        "images",
        "correct",
        "unstable",
        "coupled",
        "inside",
        "probabilities",
        "attack_steps",
    }
    assert not names(checks)


def test_an_attack_that_sees_another_model_is_judged_on_the_deployed_one():
    classifier, pixels, labels = sample()
    adaptive = look(masked.StopGradient(classifier), pixels, labels, target=classifier)
    assert not names(adaptive), adaptive  # a stand-in with the same logits
    other = LinearClassifier(torch.randn(4, 3 * 64, generator=torch.Generator().manual_seed(7)))
    assert {"black_box", "standing"} & names(look(classifier, pixels, labels, target=other))


def test_an_oblivious_attack_says_nothing_of_gradients():
    classifier, pixels, labels = sample()
    other = LinearClassifier(torch.randn(4, 3 * 64, generator=torch.Generator().manual_seed(7)))
    checks = look(classifier, pixels, labels, target=other, knowledge="oblivious")
    assert checks.keys() == {
        "images",
        "correct",
        "unstable",
        "coupled",
        "inside",
        "probabilities",
        "attack_steps",
    }


@pytest.mark.parametrize("images", [16, 28, 32, 64])
@pytest.mark.parametrize("name", ["more_steps", "black_box"])
def test_enough_images_are_attacked_at_length_to_raise_a_flag(images, name, monkeypatch):
    classifier, pixels, labels = sample(images=images)
    wrong = classifier.weight[(labels + 1) % 4].reshape(pixels.shape).sign() * 0.5 + 0.5
    if name == "more_steps":
        monkeypatch.setattr(measurements, "_longer", lambda hard, points: wrong[: len(points)])
    else:
        monkeypatch.setattr(measurements.Sample, "square", lambda hard, queries: wrong[: len(hard)])
    checks = look(classifier, pixels, labels, PGD(eps=1e-5, step_size=1e-6))
    assert name in names(checks), checks


class Standardized(masked.Masked):
    """Divides by the deviation over the batch: of one image there is none."""

    def change(self, images):
        return images / images.std(0) * images.std(0)


def test_what_is_no_number_is_stored_as_a_huge_one_and_raises_its_flag():
    classifier, pixels, labels = sample()
    checks = look(Standardized(classifier), pixels, labels)
    assert checks["coupled"] == measurements.NOT_FINITE
    assert "coupled" in names(checks)


QUIET = {
    "images": 16,
    "correct": 16,
    "unstable": 0,
    "coupled": 0,
    "inside": 0,
    "probabilities": 0,
    "attack_steps": 10,
    "zero_gradients": 0,
    "saturated": 0,
    "vanishing": 1,
    "no_growth": 0,
    "standing": 0,
    "broken": 16,
    "more_steps": 0,
    "black_box": 0,
    "eight_bits": 1,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"zero_gradients": 1 / 16}, "zero_gradients"),
        ({"vanishing": 99}, None),
        ({"vanishing": 1e6}, "vanishing"),
        ({"unstable": 1e-6, "coupled": 5e-3}, None),  # sums in another order
        ({"unstable": 0.1}, "unstable"),
        ({"unstable": 0.1, "coupled": 0.1}, "unstable"),
        ({"coupled": 0.1}, "coupled"),
        ({"inside": 1}, "inside"),
        ({"probabilities": 1}, "probabilities"),
        ({"saturated": 1 / 16}, None),
        ({"saturated": 0.5}, "saturated"),
        ({"black_box": 1 / 16}, None),
        ({"black_box": 2 / 16}, "black_box"),
        ({"black_box": 1 / 4, "correct": 4}, None),  # one image
        ({"standing": 1 / 16}, None),
        ({"standing": 1 / 2}, "standing"),
        ({"standing": 1 / 2, "correct": 2}, None),
        ({"no_growth": 3 / 16}, None),
        ({"no_growth": 5 / 16}, "no_growth"),
        ({"more_steps": 2 / 8, "correct": 8}, None),
        ({"more_steps": 4 / 16}, "more_steps"),
        ({"more_steps": 4 / 16, "attack_steps": 100}, None),  # it has taken them
        ({"broken": 3, "eight_bits": 0}, None),
        ({"eight_bits": 0.4}, "eight_bits"),
        ({"overstated": 2 / 16}, None),
        ({"overstated": 3 / 16}, "overstated"),
        ({"canary": 0.2}, None),
        ({"canary": 0.3}, "canary"),
    ],
)
def test_flags_are_raised_from_a_bound_on_and_by_enough_images(changes, expected):
    assert names({**QUIET, **changes}) == ({expected} if expected else set())


def test_every_flag_has_its_sentence_and_the_report_explains_it():
    assert (
        len({flag.sentence for flag in FLAGS.values()})
        == len({flag.title for flag in FLAGS.values()})
        == len(FLAGS)
    )
    for name, flag in FLAGS.items():
        assert name == flag.name
        assert re.fullmatch(r"Red flag: .*\.", flag.sentence)
        explained = explain(flag.sentence)
        assert flag.means in explained
        assert flag.remedy in explained
    assert explain("Red flags could not be computed: RuntimeError: no") != _UNKNOWN
    assert explain("Red flag: something new.") == _UNKNOWN


def test_sentences_join_what_attacks_warned_of_each_once():
    (zero,) = sentences({**QUIET, "zero_gradients": 1})
    assert sentences({**QUIET, "zero_gradients": 1}, ["another", zero]) == sorted(["another", zero])


@pytest.fixture
def quick():
    return {"dataset": "mini_cells", "limit": 16, "attack": "pgd2"}


def test_cells_carry_their_measurements(zsrobust, tmp_path, monkeypatch):
    command = (
        "run",
        "--suite",
        "mini",
        "--defense",
        "clip",
        "--attack",
        "pgd2",
        "--dataset",
        "mini_cells",
        "--limit",
        "8",
    )
    zsrobust(*command, whole=True)
    (path,) = tmp_path.rglob("*.json")
    stored = results.read(path)
    assert stored.checks["images"] == 8
    assert stored.flags == sentences(stored.checks)
    assert stored.forward < 8 * 6  # those of the cell alone
    for names_of in (stored.checks, json.loads(path.read_text())["checks"]):
        assert {"zero_gradients", "standing", "unstable"} <= names_of.keys()

    def broken(*_, **__):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(run, "examine", broken)
    zsrobust(*command, "--force", whole=True)
    again = results.read(path)
    assert (again.status, again.checks) == ("ok", None)
    assert again.flags == ["Red flags could not be computed: RuntimeError: no memory at all"]
    assert again.robust_correct == stored.robust_correct


def test_a_module_that_is_evaluated_is_examined_too(quick):
    class Gray(nn.Module):
        def forward(self, images):
            return torch.stack([0 * images.sum((1, 2, 3)) + each for each in (1.0, 0.0)], 1)

    result = package.evaluate(Gray(), **quick)
    assert result.checks["standing"] == 1
    assert FLAGS["zero_gradients"].sentence in result.flags
    assert package.evaluate("clip", **quick).flags == []


def test_the_sample_is_never_larger_than_the_cell_and_else_the_same(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "examine", lambda *arguments, **_: seen.append(arguments[2]) or {})
    for limit in (4, 40, None):
        package.evaluate("clip", dataset="mini_cells", limit=limit, attack="pgd2")
    few, many, every = seen
    assert (len(few), len(many)) == (4, measurements.SAMPLE)
    assert torch.equal(many, every)


class Silent:
    """An attack that says nothing of its steps."""

    eps, norm = EPS, "linf"


def test_steps_are_those_of_the_attack():
    classifier, pixels, labels = sample()
    silent = look(classifier, pixels, labels, Silent())
    assert "attack_steps" not in silent
    assert "more_steps" not in names({**QUIET, "more_steps": 1, "attack_steps": flags.MANY})
    assert "more_steps" not in names(
        {key: each for key, each in (QUIET | {"more_steps": 1}).items() if key != "attack_steps"}
    )
    for spec, steps in (("pgd2", 2), ("pgd100", 100), ("pgd:eot=10", 10), ("pgd:restarts=10", 10)):
        assert look(classifier, pixels, labels, attacks.create(spec))["attack_steps"] == steps
    assert attacks["pgd100"].passes(4)[1] >= flags.MANY
