import dataclasses
import json
import re
import warnings
from pathlib import Path

import masked
import numpy as np
import pytest
import torch
from torch import nn

import zsrobust as package
from zsrobust import attacks as attacks_module
from zsrobust import results
from zsrobust.attacks import Attack, apgd, attacks, autoattack
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.redflags import measurements, passes, searches
from zsrobust.evaluation.redflags.measurements import examine
from zsrobust.evaluation.redflags.rules import MANY, RULES, raised
from zsrobust.evaluation.redflags.sample import SAMPLE, Sample, size_of
from zsrobust.results.chance import AT_CHANCE
from zsrobust.results.flags import OLD, is_name, known, look_up, named
from zsrobust.running import compute, plan, single
from zsrobust.testing import LinearClassifier, toy

EPS = 8 / 255
ZERO = "attack_zero_gradients"


def sample(classes=4, images=16, seed=0):
    classifier, data = toy(classes, images, seed=seed)
    return classifier, torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)


def look(classifier, pixels, labels, attack=None, **more):
    draws = Draws.of(0, "toy", np.arange(len(labels)))
    return examine(
        classifier, attack or PGD(eps=EPS, step_size=EPS / 4), pixels, labels, draws, **more
    )


def names(checks):
    return set(raised(checks))


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


@pytest.mark.parametrize(("kind", "expected"), masked.ESCAPED.items())
@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 0.3)])
def test_masked_defenses_that_escaped_are_caught(kind, expected, norm, eps):
    classifier, pixels, labels = sample()
    attack = PGD(eps=eps, norm=norm, step_size=eps / 4)
    assert expected <= names(look(kind(classifier), pixels, labels, attack))


def test_what_turns_with_the_number_of_calls_is_caught():
    classifier, pixels, labels = sample()
    defense = masked.ByCalls(classifier)
    defense.after = 30  # the probes call it 45 times
    assert "fickle" in names(look(defense, pixels, labels))


@pytest.mark.parametrize("kind", [masked.StopGradient, masked.Drowned])
def test_images_made_against_the_undefended_model_break_a_masked_one(kind):
    classifier, pixels, labels = sample()
    checks = look(kind(classifier), pixels, labels, undefended=classifier)
    assert "transfer" in names(checks), checks
    other = LinearClassifier(torch.randn(4, 3 * 64, generator=torch.Generator().manual_seed(7)))
    assert look(classifier, pixels, labels, undefended=other)["transfer"] == 0


def test_progress_reports_every_measurement():
    classifier, pixels, labels = sample()
    seen = []
    look(classifier, pixels, labels, progress=lambda *given: seen.append(given))
    assert [given[1:] for given in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert seen[0][0] == "outputs"


@pytest.mark.parametrize("kind", [masked.Masked, masked.Shattered])
@pytest.mark.parametrize("steps", [True, False])
@pytest.mark.parametrize("probed", [True, False])
def test_the_probes_take_at_most_the_passes_that_are_predicted(kind, steps, probed):
    classifier, pixels, labels = sample()
    eps = 1e-5  # every image survives, so that every search runs
    one, other, plain = Meter(kind(classifier)), Meter(kind(classifier)), Meter(classifier)
    more = {"target": other, "undefended": plain, "survived": torch.ones_like(labels).bool()}
    more["knowledge"] = "adaptive" if probed else "oblivious"
    attack = PGD(eps=eps, step_size=eps / 4) if steps else Square(eps=eps, queries=9)
    look(one, pixels, labels, attack, **more)
    most = passes.most(len(labels), gradients=steps, probed=probed)
    found = [(each.forward_passes, each.backward_passes) for each in (one, other, plain)]
    bounds = [(most.deployed, 0), most.attacked, most.undefended]
    assert np.less_equal(found, bounds).all()
    assert np.less_equal(bounds, 3 * np.array(found)).all()
    assert found[2] == bounds[2]  # PGD-10 without early stops
    assert probed or found == bounds


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


class Counted(torch.nn.Module):
    """A classifier that counts the images it sees."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier, self.images = classifier, 0

    def forward(self, images):
        self.images += len(images)
        return self.classifier(images)


@pytest.mark.parametrize("second", ["pgd100", "square:queries=20", "pgd10:norm=l2"])
def test_attacks_on_one_classifier_share_what_was_measured(second):
    classifier, pixels, labels = sample()
    counted = Counted(classifier)
    left = torch.arange(len(labels)) % 2 == 0
    one, other = attacks.create("pgd10", {"eps": 0.1}), attacks.create(second, {"eps": 0.1})
    alone = [look(counted, pixels, labels, each, survived=left) for each in (one, other)]
    counted.images, kept = 0, {}
    spent = []
    for each, expected in zip((one, other, other), (*alone, alone[1]), strict=True):
        assert look(counted, pixels, labels, each, survived=left, kept=kept) == expected
        spent.append(counted.images)
        counted.images = 0
    assert spent[2] <= 4 * 100  # Square asks about four images again
    assert (spent[1] < spent[0] / 4) is (other.norm == "linf")


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
        monkeypatch.setattr(searches, "_longer", lambda hard, points: wrong[: len(points)])
    else:
        monkeypatch.setattr(Sample, "square", lambda hard, queries: wrong[: len(hard)])
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
        ({"misled": 1 / 16}, None),
        ({"misled": 2 / 16}, "misleading"),
        ({"agreement": 0.75}, None),
        ({"agreement": 0.5}, "misleading"),
        ({"agreement": 0.5, "correct": 3}, None),
        ({"fickle": 1 / 16}, None),
        ({"fickle": 2 / 16}, "fickle"),
        ({"fickle": 2 / 16, "unstable": 0.1}, "unstable"),
        ({"cliffs": 1 / 16}, None),
        ({"cliffs": 2 / 16}, "cliffs"),
        ({"transfer": 1 / 16}, None),
        ({"transfer": 2 / 16}, "transfer"),
        ({"weak": 0.9, "weak_images": 2}, None),
        ({"weak": 0.5, "weak_images": 8}, None),
        ({"weak": 0.6, "weak_images": 3}, "weak_attack"),
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


def noted_in_the_package():
    """Return the names that the attacks note, as their source code has them."""
    package_folder = Path(attacks_module.__file__).parent
    return {
        name
        for path in package_folder.glob("*.py")
        for name in re.findall(r"note\(\"(\w+)\"\)", path.read_text())
    }


def test_every_rule_and_every_note_has_words_of_its_own():
    computed = {f"margin_for_{loss}" for loss in apgd.CLASSES}
    few = [name for name, part in autoattack.PARTS.items() if part.classes > 2]
    computed |= {f"plan_without_{name.replace('-', '_')}" for name in few}
    given = {"attack_warned", "red_flags_not_computed", "process_changed", "keeps_state"}
    noted = noted_in_the_package() | computed | {*autoattack.LOGGED.values()} | given
    assert "attack_zero_gradients" in noted
    assert known().keys() == RULES.keys() | noted | {AT_CHANCE}
    assert not RULES.keys() & noted
    for field in ("title", "sentence", "means"):
        assert len({getattr(flag, field) for flag in known().values()}) == len(known()), field


@pytest.mark.parametrize("name", known())
def test_the_words_are_short_sentences(name):
    flag = look_up(name)
    assert is_name(name)
    assert flag.name == name
    assert flag.sentence.startswith("Red flag: ") == (name in RULES)
    for text in (flag.sentence, flag.means, flag.remedy):
        assert text.endswith(".")
        for sentence in re.split(r"(?<=[.:;]) ", text):
            assert len(sentence.split()) < 25, sentence


def test_a_name_of_a_plugin_or_a_newer_version_has_honest_words():
    flag = look_up("something_new")
    assert (flag.name, flag.title) == ("something_new", "something_new")
    assert "something_new" in flag.sentence
    assert "not known" in flag.means


STORED = [
    ("Red flag: some images have a gradient of exactly zero.", "zero_gradients"),
    ("Red flag: the classifier computes gradients while it predicts.", "inside"),
    ("Red flag: accuracy does not fall to chance under a huge eps.", "standing"),
    ("feature_l2: some images have a gradient of exactly zero; the numbers may flatter.", ZERO),
    ("APGD: there are points with zero gradient; the numbers may flatter.", ZERO),
    ("AutoAttack: there are 3 points with zero gradient! This might lead to", ZERO),
    ("AutoAttack: PGD-100 on the margin for APGD-T, which needs 4 classes.", "plan_without_apgd_t"),
    (
        "AutoAttack: PGD-100 on the margin for APGD-DLR, which needs 3 classes.",
        "plan_without_apgd_dlr",
    ),
    ("APGD: it climbs the margin; its loss targeted compares 4 classes.", "margin_for_targeted"),
    ("AutoAttack: it seems to be a dynamic defense! The evaluation", "attack_saw_gradients"),
    ("AutoAttack: Square Attack has decreased the robust accuracy of 1.00%.", "square_found_more"),
]


@pytest.mark.parametrize(("sentence", "name"), STORED)
def test_sentences_of_older_results_are_read_as_names(sentence, name):
    assert named([sentence], None) == ([name], None)
    assert named([sentence, name], None) == ([name], None)


def test_older_sentences_all_have_a_known_name_and_none_hides_another():
    assert set(OLD.values()) <= known().keys()
    for beginning, name in OLD.items():
        assert named([beginning], None)[0] == [name]


def test_foreign_sentences_and_reasons_become_messages():
    reason = "Red flags could not be computed: RuntimeError: no"
    assert named(["Mine: odd.", reason, "new_flag"], ["first"]) == (
        ["attack_warned", "new_flag", "red_flags_not_computed"],
        ["first", "Mine: odd.", reason],
    )


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
    stored, whole = results.read(path), json.loads(path.read_text())
    assert stored.checks["images"] == 8
    assert {*stored.flags} - {AT_CHANCE} == {*raised(stored.checks)}
    assert stored.forward < 8 * 6  # those of the cell alone
    for names_of in (stored.checks, whole["checks"]):
        assert {"zero_gradients", "standing", "unstable"} <= names_of.keys()

    def broken(*_, **__):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(compute, "examine", broken)
    zsrobust(*command, "--force", whole=True)
    again = results.read(path)
    assert (again.status, again.checks) == ("ok", None)
    assert {*again.flags} - {AT_CHANCE} == {"red_flags_not_computed"}
    assert again.messages == ["Red flags were not computed: RuntimeError: no memory at all"]
    assert stored.messages is None
    assert "messages" not in whole
    assert again.robust_correct == stored.robust_correct


def test_a_module_that_is_evaluated_is_examined_too(quick):
    class Gray(nn.Module):
        def forward(self, images):
            return torch.stack([0 * images.sum((1, 2, 3)) + each for each in (1.0, 0.0)], 1)

    result = package.evaluate(Gray(), **quick)
    assert result.checks["standing"] == 1
    assert {"zero_gradients", "attack_zero_gradients"} <= set(result.flags)
    # Two steps leave 60% of what ten steps break, and at 16 images as many as chance.
    assert package.evaluate("clip", **quick).flags == [AT_CHANCE, "weak_attack"]
    assert package.evaluate("clip", **{**quick, "attack": "pgd10"}).flags == []


def test_the_sample_is_never_larger_than_the_cell_and_else_the_same(monkeypatch):
    seen = []
    monkeypatch.setattr(compute, "examine", lambda *arguments, **_: seen.append(arguments[2]) or {})
    for limit in (4, 40, None):
        package.evaluate("clip", dataset="mini_cells", limit=limit, attack="pgd2")
    few, many, every = seen
    assert (len(few), len(many)) == (4, SAMPLE)
    assert torch.equal(many, every)


def test_large_images_have_a_smaller_sample():
    assert [size_of(side) for side in (32, 64, 224)] == [16, 16, 8]


class Silent(Attack):
    """An attack whose steps are not known."""

    def __call__(self, classifier, images, labels, draws, start=None):
        raise NotImplementedError


def test_steps_are_those_of_the_attack():
    classifier, pixels, labels = sample()
    silent = look(classifier, pixels, labels, Silent(eps=EPS))
    assert "attack_steps" not in silent
    assert "more_steps" not in names({**QUIET, "more_steps": 1, "attack_steps": MANY})
    assert "more_steps" not in names(
        {key: each for key, each in (QUIET | {"more_steps": 1}).items() if key != "attack_steps"}
    )
    for spec, steps in (("pgd2", 2), ("pgd100", 100), ("pgd:eot=10", 10), ("pgd:restarts=10", 10)):
        assert look(classifier, pixels, labels, attacks.create(spec))["attack_steps"] == steps
    assert attacks["pgd100"].passes(4)[1] >= MANY


class Noise(Attack):
    """Random signs of size eps."""

    def __call__(self, classifier, images, labels, draws, start=None):
        signs = draws.uniform(images.shape[1:], "noise").sub(0.5).sign()
        return (images + self.eps * signs).clamp(0, 1)


class Tiny(Attack):
    """A perturbation that changes nothing."""

    def __call__(self, classifier, images, labels, draws, start=None):
        return (images - 1e-6).clamp(0, 1)


class Idle(Attack):
    """It returns clean images, which it declares, after looking at them."""

    returns_clean = True

    def __call__(self, classifier, images, labels, draws, start=None):
        for _ in range(3):
            classifier(images)
        return images


class Blind(Noise):
    """Random signs of an attack that declares that it takes no gradients."""

    def passes(self, classes):
        return 0, 0


@pytest.mark.parametrize("kind", [Noise, Tiny, Idle, Blind])
def test_a_weak_attack_on_an_honest_classifier_raises_its_flag(kind, monkeypatch):
    made = kind(eps=12 / 255)
    monkeypatch.setattr(single, "resolve_attack", lambda *_: (made, "pgd10"))
    cell_of = plan.Cell.of
    monkeypatch.setattr(
        plan.Cell, "of", lambda *given: dataclasses.replace(cell_of(*given), attack=made)
    )
    result = package.evaluate("clip", dataset="mini_shapes", limit=24)
    assert raised(result.checks) == ["weak_attack"], result.checks


HONEST = ["pgd2", "pgd10", "pgd100", "autoattack", "square", "square:queries=300", "mim"]


@pytest.mark.parametrize("spec", HONEST)
@pytest.mark.parametrize("classes", [2, 5])
def test_an_honest_attack_on_an_honest_classifier_raises_nothing(spec, classes):
    classifier, pixels, labels = sample(classes)
    attack = attacks.create(spec, {"eps": EPS, "step_size": EPS / 4})
    draws = Draws.of(0, "toy", np.arange(len(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = attack(classifier, pixels.clone(), labels, draws)
    with torch.no_grad():
        survived = classifier(found).argmax(1) == labels
    checks = look(classifier, pixels, labels, attack, survived=survived)
    assert "weak_images" in checks
    assert not names(checks), checks


def test_the_outcomes_of_the_sample_are_those_of_its_own_images(monkeypatch):
    seen = []

    def spy(*arguments, survived, **_):
        seen.append((arguments[2], survived))
        return {}

    monkeypatch.setattr(compute, "examine", spy)
    judged = []
    run_case = compute.run_case

    def judge(case, *more):
        judged.append((case, run_case(case, *more)))
        return judged[-1][1]

    monkeypatch.setattr(compute, "run_case", judge)
    package.evaluate("clip", dataset="mini_cells", limit=40, attack="pgd2")
    ((pixels, survived),), ((case, found),) = seen, judged
    robust = found.outcomes.right(attacked_all=False).robust
    by_image = dict(zip((each.tobytes() for each in case.images.pixels), robust, strict=True))
    levels = (pixels * 255).round().byte().numpy()
    assert [by_image[each.tobytes()] for each in levels] == survived.tolist()
    assert 0 < survived.sum() < len(survived)
