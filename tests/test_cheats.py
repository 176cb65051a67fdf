"""Attacks that change what judges them: their cells fail, and nothing reaches the next cell."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zsrobust import results
from zsrobust.attacks import Attack
from zsrobust.attacks.pgd import PGD
from zsrobust.evaluation import bounds, referee
from zsrobust.evaluation.referee import Case, run_case
from zsrobust.evaluation.seals import checksum
from zsrobust.results import plausible, store
from zsrobust.testing import LinearClassifier, toy

EPS = 8 / 255


class Headed(nn.Module):
    """A classifier with weights, a buffer, a part and methods, as a zero-shot classifier has."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.encoder = classifier
        classes = len(classifier.bias)
        self.register_buffer("head", torch.eye(classes))

    def forward(self, images):
        return self.encoder(images) @ self.head.T


@dataclass(frozen=True)
class Cheating(Attack):
    """PGD that first does something to the classifier, to itself, or to the process."""

    act: Callable[["Cheating", nn.Module], object]
    returns: Callable[[Tensor], object] = field(default=lambda found: found)
    eps: float = field(default=EPS, kw_only=True)

    def __call__(self, classifier, images, labels, draws, start=None):
        found = PGD(eps=EPS, step_size=EPS / 4)(classifier, images, labels, draws)
        self.act(self, classifier)
        return self.returns(found)


def nothing(attack, meter):
    return None


def judge(act=nothing, classes=4, **more):
    classifier, images = toy(classes)
    attack = Cheating(act, **more)
    return run_case(Case(Headed(classifier), attack, "cheat", images, batch_size=9))


def zero_weights(attack, meter):
    meter.classifier.encoder.weight.data.zero_()


def swap_rows(attack, meter):
    weight = meter.classifier.encoder.weight.data
    weight.copy_(weight.flip(0))


def turn_head(attack, meter):
    meter.classifier.head.copy_(-meter.classifier.head)


def leave_hook(attack, meter):
    meter.classifier.register_forward_hook(lambda module, given, logits: logits * 0)


def leave_inner_hook(attack, meter):
    meter.classifier.encoder.register_forward_pre_hook(lambda module, given: None)


def replace_part(attack, meter):
    meter.classifier.encoder = LinearClassifier(torch.zeros(4, 192))


def replace_forward(attack, meter):
    meter.classifier.forward = lambda images: torch.zeros(len(images), 4)


def replace_class_forward(attack, meter):
    type(meter.classifier).forward = lambda self, images: torch.zeros(len(images), 4)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (zero_weights, "encoder.weight"),
        (swap_rows, "encoder.weight"),
        (turn_head, "head"),
        (leave_hook, "the hooks of Headed"),
        (leave_inner_hook, "the hooks of encoder"),
        (replace_part, "the module encoder"),
        (replace_forward, "the method forward of Headed"),
        (replace_class_forward, "the method forward of Headed"),
    ],
)
def test_a_changed_classifier_fails_the_cell_and_is_named(act, named):
    honest = judge()
    result = judge(act)
    assert result.failed
    assert result.tampered
    assert f"TamperError: The attack cheat changed the classifier: {named}" in result.error
    assert (result.clean_correct, result.robust_correct, result.outcomes) == (0, 0, None)
    again = judge()  # the methods of classes are as they were
    assert np.array_equal(honest.outcomes.adversarial, again.outcomes.adversarial)


def test_a_changed_target_fails_the_cell_too():
    classifier, images = toy(4)
    case = Case(classifier, Cheating(zero_weights), "cheat", images, target=Headed(toy(4)[0]))
    assert "encoder.weight" in run_case(case).error


def test_a_classifier_replaced_inside_the_meter_judges_nothing():
    def act(attack, meter):
        meter.classifier = Headed(LinearClassifier(torch.zeros(4, 192)))

    honest, result = judge(), judge(act)
    assert not result.failed
    assert np.array_equal(honest.outcomes.adversarial, result.outcomes.adversarial)


@pytest.mark.parametrize(("name", "value"), [("eps", 0.5), ("norm", "l2")])
def test_an_attack_that_changes_its_own_bound_fails(name, value):
    def act(attack, meter):
        object.__setattr__(attack, name, value)

    classifier, images = toy(4)
    attack = Cheating(act, lambda found: (found + 0.1).clamp(0, 1))
    result = run_case(Case(classifier, attack, "cheat", images))
    assert result.failed
    assert f"changed its own {name}" in result.error
    assert (attack.eps, attack.norm) == (EPS, "linf")


def test_a_norm_that_does_not_exist_fails():
    classifier, images = toy(4)
    attack = PGD(eps=EPS)
    object.__setattr__(attack, "norm", "l0")
    result = run_case(Case(classifier, attack, "pgd", images))
    assert "The norm 'l0' is not valid" in result.error


def test_the_tolerance_is_out_of_reach(monkeypatch):
    def act(attack, meter):
        for module in (bounds, plausible, referee):
            monkeypatch.setattr(module, "TOLERANCE", 10.0, raising=False)

    result = judge(act, returns=lambda found: (found + 0.1).clamp(0, 1))
    assert "beyond eps 8/255" in result.error


class Shifting(Tensor):
    """It shows small perturbations first and large ones later."""


def test_images_of_another_class_of_tensors_are_refused():
    result = judge(returns=lambda found: found.as_subclass(Shifting))
    assert "CheatError: The attack cheat returned Shifting" in result.error


def test_images_that_change_after_the_check_change_nothing(monkeypatch):
    honest = judge()

    def then_changed(name, bound, originals, found):
        judged = bounds.check(name, bound, originals, found)
        found.zero_()
        return judged

    monkeypatch.setattr(referee, "check", then_changed)
    result = judge()
    assert np.array_equal(honest.outcomes.adversarial, result.outcomes.adversarial)
    assert np.array_equal(honest.outcomes.perturbation, result.outcomes.perturbation)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, BaseException, StopIteration])
def test_any_exception_but_ctrl_c_fails_the_cell(kind):
    def act(attack, meter):
        raise kind("leaves")

    result = judge(act)
    assert result.failed
    assert not result.tampered
    assert f"{kind.__name__}: leaves" in result.error


def test_ctrl_c_stops_the_run():
    def act(attack, meter):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        judge(act)


def test_a_crash_after_a_change_counts_as_the_change():
    def act(attack, meter):
        zero_weights(attack, meter)
        raise RuntimeError("hides it")

    assert judge(act).tampered


def other_folder(attack, meter):
    folder = Path("left")
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    Path.cwd().rmdir()


CHANGES = {
    "train and eval modes": (lambda a, meter: meter.train(), None),
    "gradient mode": (lambda a, m: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "default dtype": (lambda a, m: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "number of threads": (
        lambda a, m: torch.set_num_threads(torch.get_num_threads() + 1),
        torch.get_num_threads,
    ),
    "working directory": (other_folder, os.getcwd),
    "cuDNN": (
        lambda a, m: setattr(torch.backends.cudnn, "enabled", not torch.backends.cudnn.enabled),
        lambda: torch.backends.cudnn.enabled,
    ),
    "TF32 of cuDNN": (
        lambda a, m: setattr(torch.backends.cudnn, "allow_tf32", True),
        lambda: torch.backends.cudnn.allow_tf32,
    ),
    "autocast on cpu": (
        lambda a, m: torch.set_autocast_enabled("cpu", True),
        lambda: torch.is_autocast_enabled("cpu"),
    ),
    "global forward hooks": (
        lambda a, m: nn.modules.module.register_module_forward_hook(lambda *given: None),
        lambda: len(nn.modules.module._global_forward_hooks),
    ),
    "Ctrl-C handler": (
        lambda a, m: signal.signal(signal.SIGINT, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGINT),
    ),
    "gradients of weights": (
        lambda a, meter: meter.classifier.encoder.weight.requires_grad_(),
        None,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_process_is_restored_and_the_change_is_a_note(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act, read = CHANGES[name]
    honest, before = judge(), read and read()
    result = judge(act)
    assert (read and read()) == before
    assert np.array_equal(honest.outcomes.adversarial, result.outcomes.adversarial)
    assert result.notes == ["process_changed"]
    assert result.messages == [f"The attack cheat changed the process, which was restored: {name}."]


def test_random_states_are_restored_without_a_note():
    def act(attack, meter):
        torch.manual_seed(7)
        np.random.seed(7)

    state, numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    result = judge(act)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numbers, np.random.get_state()[1])
    assert (result.notes, result.messages) == ([], None)


def test_a_classifier_that_counts_its_calls_is_noted_and_not_an_accusation():
    class Counting(Headed):
        def __init__(self, classifier):
            super().__init__(classifier)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images):
            self.calls += 1
            return super().forward(images)

    classifier, images = toy(4)
    result = run_case(Case(Counting(classifier), PGD(eps=EPS), "pgd", images))
    assert not result.failed
    assert result.notes == ["keeps_state"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.uint8, torch.bool]
)
def test_a_checksum_sees_every_bit_and_the_order(dtype):
    numbers = torch.arange(30).remainder(7).to(dtype)
    before = checksum(numbers)
    assert before == checksum(numbers.clone())
    assert before == checksum(numbers.reshape(5, 6).T.contiguous().T)
    for place in range(30):
        changed = numbers.clone()
        changed[place] = 1 - changed[place].to(torch.float32)
        assert (checksum(changed) == before) == torch.equal(changed, numbers)
    assert checksum(numbers.flip(0)) != before


PLUGIN = """
from dataclasses import dataclass
from zsrobust.attacks import attacks
from zsrobust.attacks.pgd import PGD
from zsrobust.evaluation import bounds, referee

@dataclass(frozen=True, kw_only=True)
class Zeroing(PGD):
    def __call__(self, classifier, images, labels, draws, start=None):
        found = super().__call__(classifier, images, labels, draws, start)
        for weight in classifier.parameters():
            weight.data.zero_()
        return found

attacks.register("zeroing")(Zeroing())
"""


def test_the_next_cell_of_the_run_has_its_weights_back(zsrobust, tmp_path):
    (tmp_path / "cheat.py").write_text(PLUGIN)
    asked = ("run", "--suite", "mini", "--defense", "clip", "--dataset", "mini_colors", "--yes")
    zsrobust(*asked, "--limit", "32", "--attack", "pgd10", "--results", "honest")
    (honest,) = [results.read(path) for path in store.paths(tmp_path / "honest")]
    both = ("--attack", "zeroing", "--attack", "pgd10", "--results", "both", "--limit", "32")
    done = zsrobust("--plugin", "cheat.py", *asked, *both, ok=1)
    assert "zeroing changed the classifier: " in done.stdout + done.stderr
    read = [results.read(path) for path in store.paths(tmp_path / "both")]
    after = {result.identity.attack.spec: result for result in read}
    assert after["zeroing"].status == "failed"
    assert after["pgd10"].status == "ok"
    assert after["pgd10"].outcomes == honest.outcomes  # the same bytes
