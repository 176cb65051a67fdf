import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zsrobust.attacks import Attack
from zsrobust.attacks.notes import note
from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge, predict, run_case
from zsrobust.testing import toy

EPS = 8 / 255


class Noisy(nn.Module):
    """A defense that draws from torch's generator."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(images + torch.randn_like(images) * 0.1)


def test_a_randomized_defense_follows_the_seed_and_leaves_torchs_numbers_alone():
    classifier, images = toy(5)
    state = torch.random.get_rng_state()
    runs = [
        run_case(Case(Noisy(classifier), PGD(eps=EPS), "pgd", images, seed=seed)).outcomes
        for seed in (0, 0, 1)
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(runs[0].clean, runs[1].clean)
    assert np.array_equal(runs[0].adversarial, runs[1].adversarial)
    assert not np.array_equal(runs[0].clean, runs[2].clean)


def test_a_foreign_warning_is_one_name_and_its_text_one_line():
    class Talkative(PGD):
        def __call__(self, *arguments, **more):
            warnings.warn("one\n two\x1b[31m", stacklevel=1)
            return super().__call__(*arguments, **more)

    classifier, images = toy(5)
    result = run_case(Case(classifier, Talkative(eps=EPS), "pgd", images))
    assert result.notes == ["attack_warned"]
    assert result.messages == ["one two [31m"]


def test_a_note_is_stored_by_its_name_and_what_is_not_a_name_as_a_message():
    class Noting(PGD):
        def __call__(self, *arguments, **more):
            note("square_found_more")
            note("mine")
            note("Not a name")
            warnings.warn("plain", DeprecationWarning, stacklevel=1)
            return super().__call__(*arguments, **more)

    classifier, images = toy(5)
    result = run_case(Case(classifier, Noting(eps=EPS), "pgd", images))
    assert result.notes == ["attack_warned", "mine", "square_found_more"]
    assert result.messages == ["Not a name"]
    quiet = run_case(Case(classifier, PGD(eps=EPS), "pgd", images))
    assert (quiet.notes, quiet.messages) == ([], None)


@dataclass(frozen=True)
class Cheat(Attack):
    how: str
    eps: float = field(default=EPS, kw_only=True)
    returns_clean: bool = field(default=False, kw_only=True)

    def __call__(self, classifier, images, labels, draws, start=None):
        if self.how == "clean":
            return images
        if self.how == "beyond":
            return (images + 1.01 * self.eps).clamp(0, 1)
        if self.how == "outside":
            return images - images - self.eps
        if self.how == "nan":
            return images * float("nan")
        if self.how == "one nan":
            images[0, 0, 0, 0] = float("inf")
            return images
        if self.how == "shape":
            return images[:-1]
        if self.how == "type":
            return images.double()
        if self.how == "none":
            return None
        if self.how == "raises":
            raise RuntimeError("no GPU today")
        images += 0.9 * self.eps  # "mutates": the images that it was given, and the labels
        labels.zero_()
        return images


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("clean", "returned 24 images unchanged"),
        ("beyond", "beyond eps 8/255"),
        ("outside", r"left \[0, 1\]"),
        ("nan", "not finite"),
        ("one nan", "not finite"),
        ("shape", r"returned \(23, 3, 8, 8\)"),
        ("type", "float64"),
        ("none", "returned NoneType"),
        ("raises", "no GPU today"),
    ],
)
def test_a_cheat_or_a_crash_fails_the_cell_and_never_scores(how, message):
    classifier, images = toy(4)
    result = run_case(Case(classifier, Cheat(how), "cheat", images))
    outcomes = result.outcomes
    assert result.failed
    assert outcomes is None
    assert (result.clean_correct, result.robust_correct) == (0, 0)
    with pytest.raises((ZSRobustError, RuntimeError), match=message):
        judge(Case(Meter(classifier), Cheat(how), "cheat", images, seed=0, batch_size=24))


def test_clean_images_need_proof_of_an_attack_even_from_those_that_may_return_them():
    classifier, images = toy(4)
    with pytest.raises(ZSRobustError, match="images unchanged"):
        judge(
            Case(
                Meter(classifier),
                Cheat("clean", returns_clean=True),
                "cheat",
                images,
                seed=0,
                batch_size=24,
            )
        )


def test_an_attack_that_changes_its_inputs_changes_nothing_of_ours():
    classifier, images = toy(4)
    pixels, labels = images.pixels.copy(), images.labels.copy()
    outcomes = judge(
        Case(Meter(classifier), Cheat("mutates"), "mutates", images, seed=0, batch_size=24)
    )
    assert np.array_equal(images.pixels, pixels)
    assert np.array_equal(images.labels, labels)
    assert np.array_equal(outcomes.labels, labels)
    assert outcomes.perturbation == pytest.approx(np.full(24, 0.9 * EPS), abs=1e-6)


def test_misclassified_images_are_not_attacked_and_not_robust():
    classifier, images = toy(4)
    images.labels[:10] = (images.labels[:10] + 1) % 4
    outcomes = judge(
        Case(Meter(classifier), PGD(eps=1e-6, step_size=1e-6), "pgd", images, seed=0, batch_size=7)
    )
    assert outcomes.clean_correct == outcomes.robust_correct == 14
    assert not outcomes.perturbation[:10].any()
    assert outcomes.perturbation[10:].all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30))
def test_verdicts_without_randomness_do_not_depend_on_the_batch_size(batch_size):
    classifier, images = toy(5)
    attack = PGD(eps=0.004, step_size=0.002, random_start=False)
    whole = judge(Case(Meter(classifier), attack, "pgd", images, seed=0, batch_size=len(images)))
    split = judge(Case(Meter(classifier), attack, "pgd", images, seed=0, batch_size=batch_size))
    assert np.array_equal(whole.adversarial, split.adversarial)


def test_the_meter_counts_every_image_forward_and_backward():
    classifier, images = toy(4)
    attack = PGD(eps=1e-6, steps=3, step_size=1e-6)
    result = run_case(Case(classifier, attack, "pgd", images))
    assert (result.forward, result.backward) == (24 + 3 * 24 + 24, 3 * 24)


def test_logits_that_are_not_finite_are_an_error():
    classifier, images = toy(4)
    with torch.no_grad():
        classifier.bias[0] = float("nan")
    result = run_case(Case(classifier, PGD(), "pgd", images))
    assert result.failed
    assert "not finite" in str(result.error)


def test_verdicts_are_made_in_eval_mode_without_autocast():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            seen.append((self.training, torch.is_autocast_enabled("cpu")))
            return images.flatten(1)[:, :3]

    spy = Spy().train()
    with torch.autocast("cpu", torch.bfloat16):
        predict(spy, torch.rand(2, 3, 4, 4))
    assert seen == [(False, False)]
    assert spy.training
