"""The attack engine: batches that stay full, memory that runs out, searches in lower precision; the verdicts are the same."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

from zsrobust.attacks import Attack
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.notes import Note
from zsrobust.attacks.pgd import PGD, objective
from zsrobust.datasets import Images
from zsrobust.evaluation.memory import BATCHES, fitting, saved_bytes
from zsrobust.evaluation.meter import Meter, Sampler
from zsrobust.evaluation.referee import Case, judge, predict, run_case
from zsrobust.testing import LinearClassifier, toy

N = 9


def dyadic(seed=0, images=N, classes=3):
    """Return a linear classifier, images and labels, float64, whose sums l∞ attacks of a dyadic eps leave exact."""
    rng = np.random.RandomState(seed)
    weight = torch.from_numpy(rng.randint(-8, 9, (classes, 48)).astype(np.float64))
    pixels = torch.from_numpy(rng.randint(96, 160, (images, 3, 4, 4)) / 256)
    classifier = LinearClassifier(weight, -weight.sum(1) / 2)
    return classifier, pixels, classifier(pixels).argmax(1)


def draws_for(images):
    return Draws.of(0, "toy", np.arange(len(images)))


def plain(attack, classifier, image, label, draws):
    """Return the adversarial image of one image, (1, 3, S, S), and the forward passes: PGD as a textbook has it."""
    passes = 0
    for restart in range(attack.restarts):
        point = attack._start(image, draws, restart)
        for _ in range(attack.steps):
            point = point.clone().requires_grad_()
            logits, passes = classifier(point), passes + 1
            if attack.early_stop and logits.argmax(1) != label:
                return point.detach(), passes
            (gradient,) = torch.autograd.grad(objective(attack.loss, logits, label).sum(), point)
            point = attack.move(image, point.detach(), gradient)
        if restart + 1 < attack.restarts:
            passes += 1
            if classifier(point).argmax(1) != label:
                break
    return point, passes


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(1, N + 1),
    norm=st.sampled_from(["linf", "l2"]),
    restarts=st.integers(1, 3),
    steps=st.integers(1, 4),
    early_stop=st.booleans(),
    random_start=st.booleans(),
    seed=st.integers(0, 5),
)
def test_packing_changes_no_pixel_and_asks_nothing_more(
    slots, norm, restarts, steps, early_stop, random_start, seed
):
    classifier, images, labels = dyadic(seed)
    eps = 1 / 64 if norm == "linf" else 1 / 16
    attack = PGD(
        eps=eps,
        steps=steps,
        step_size=eps / 4,
        restarts=restarts,
        norm=norm,
        loss="margin",
        early_stop=early_stop,
        random_start=random_start,
    )
    meter, draws = Meter(classifier, slots), draws_for(images)
    found = attack(meter, images, labels, draws)
    alone = [
        plain(attack, classifier, images[[i]], labels[[i]], draws[torch.tensor([i])])
        for i in range(N)
    ]
    assert torch.equal(found, torch.cat([point for point, _ in alone]))
    assert meter.forward_passes == sum(passes for _, passes in alone)


class Small(nn.Module):
    """A network of random weights, and images that it classifies correctly."""

    def __init__(self, seed=0, classes=10):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(768, 64), nn.GELU(), nn.Linear(64, classes)
            )
        self.requires_grad_(False)

    def forward(self, images):
        return 20 * self.body((images - 0.5) * 4)

    def images(self, count=64, seed=0):
        pixels = np.random.RandomState(seed).randint(0, 256, (count, 3, 16, 16)).astype(np.uint8)
        return Images(pixels=pixels, labels=predict(self, torch.from_numpy(pixels).float() / 255))


#: Of 64 images, about a third survive.
WEAK = PGD(eps=1.5 / 255, step_size=0.5 / 255, steps=5)


def test_verdicts_on_a_network_are_those_of_one_batch():
    """Sums over other batches differ in their last bits: of 48 images at most one may be so near to the boundary."""
    network = Small()
    images = network.images(48)
    whole = judge(Case(Meter(network), WEAK, "pgd", images, seed=0, batch_size=48))
    assert 10 < whole.robust_correct < 38
    for batch_size in (5, 16, 47):
        packed = judge(Case(Meter(network), WEAK, "pgd", images, seed=0, batch_size=batch_size))
        assert (packed.adversarial != whole.adversarial).sum() <= 1


class Recorder(nn.Module):
    """A classifier that writes down how many images it gets, and has room for so many only."""

    def __init__(
        self,
        classifier,
        room=10**9,
        error=torch.OutOfMemoryError,
        message="CUDA out of memory. Tried to allocate",
    ):
        super().__init__()
        self.classifier, self.room, self.error, self.sizes = classifier, room, error(message), []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error
        return self.classifier(images)


@pytest.mark.parametrize("early_stop", [True, False])
def test_batches_are_full_as_long_as_images_wait(early_stop):
    classifier, images, labels = dyadic(images=64)
    recorder = Recorder(classifier)
    attack = PGD(eps=1 / 64, step_size=1 / 256, steps=6, early_stop=early_stop)
    attack(Meter(recorder, 8), images, labels, draws_for(images))
    assert recorder.sizes == sorted(recorder.sizes, reverse=True)
    assert recorder.sizes.count(8) * 8 >= sum(recorder.sizes) - 6 * 8, (
        "the last eight may take all their steps alone"
    )
    if not early_stop:
        assert recorder.sizes == [8] * 48


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_the_host_waits_once_a_step_and_without_early_stop_once_in_all(norm, loss):
    classifier, images, labels = dyadic(images=32)
    draws = draws_for(images)
    for early_stop in (True, False):
        recorder = Recorder(classifier)
        attack = PGD(eps=1 / 64, step_size=1 / 256, norm=norm, loss=loss, early_stop=early_stop)
        with Waits() as waits:
            attack(Meter(recorder, 8), images, labels, draws)
        assert (
            waits.count == (len(recorder.sizes) if early_stop else 0) + 1
        )  # the last tells of gradients of zero


def test_one_gradient_of_zero_among_those_that_wait_is_told_once():
    classifier, images, labels = dyadic(images=8, classes=2)
    dead = torch.arange(8) == 5

    class Dead(nn.Module):
        def forward(self, pixels):
            gone = (pixels[:, 0, 0, 0] > 0.9)[:, None]
            return torch.where(gone, classifier(pixels).detach(), classifier(pixels))

    images[dead, 0, 0, 0] = 1
    attack = PGD(eps=1 / 256, step_size=1 / 256, steps=3, random_start=False)
    with pytest.warns(Note, match="^attack_zero_gradients$") as caught:
        attack(Meter(Dead(), 2), images, labels, draws_for(images))
    assert len(caught) == 1


@dataclass(frozen=True)
class Unpacked(Attack):
    """An attack that takes one step, and gives the classifier all that it gets."""

    eps: float = 8 / 255

    def __call__(self, classifier, images, labels, draws, start=None):
        return PGD(eps=self.eps, step_size=self.eps, steps=1)(
            nn.Sequential(classifier), images, labels, draws
        )


def test_attacks_that_do_not_pack_get_batches():
    classifier, images = toy(4)
    recorder = Recorder(classifier)
    judge(Case(Meter(recorder), Unpacked(), "unpacked", images, seed=0, batch_size=7))
    assert max(recorder.sizes) == 7


@pytest.mark.parametrize(
    "attack", [PGD(eps=0.004, step_size=0.002), Unpacked(eps=0.004)], ids=["packed", "unpacked"]
)
@pytest.mark.parametrize("room", [1, 2, 5, 11])
@pytest.mark.parametrize("batch_size", [None, 24, 3])
def test_where_memory_runs_out_batches_are_halved_and_verdicts_are_the_same(
    attack, room, batch_size
):
    classifier, images = toy(5)
    plenty = run_case(Case(classifier, attack, "pgd", images, batch_size=24))
    expected = plenty.outcomes
    scarce = run_case(
        Case(Recorder(classifier, room), attack, "pgd", images, batch_size=batch_size)
    )
    outcomes = scarce.outcomes
    assert scarce.error is None
    assert scarce.batch_size <= room < 2 * max(room, scarce.batch_size) + 1
    assert np.array_equal(outcomes.adversarial, expected.adversarial)
    assert 0 < scarce.robust_correct == plenty.robust_correct < 24


def test_memory_that_runs_out_in_the_middle_of_a_search():
    classifier, images = toy(5)
    attack = PGD(eps=0.004, step_size=0.002)
    expected = judge(Case(Meter(classifier), attack, "pgd", images, seed=0, batch_size=24))

    class Fragmented(nn.Module):
        calls = 0

        def forward(self, pixels):
            self.calls += 1
            if self.calls in (6, 17):
                raise RuntimeError("CUDA out of memory")
            return classifier(pixels)

    found = run_case(Case(Fragmented(), attack, "pgd", images, seed=0, batch_size=24))
    assert found.batch_size == 6
    assert np.array_equal(found.outcomes.adversarial, expected.adversarial)


def test_other_errors_are_not_tried_again_nor_a_single_image_without_end():
    classifier, images = toy(4)
    broken = Recorder(classifier, 5, RuntimeError, "shapes cannot be multiplied")
    result = run_case(Case(broken, PGD(), "pgd", images, batch_size=8))
    assert (result.failed, broken.sizes) == (True, [8])
    full = Recorder(classifier, 0)
    result = run_case(Case(full, PGD(), "pgd", images, batch_size=8))
    assert (result.failed, full.sizes) == (True, [8, 4, 2, 1])
    assert "out of memory" in result.error


def test_the_batch_is_what_fits_by_the_bytes_that_the_gradient_keeps():
    images = torch.rand(2, 3, 8, 8)
    small = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 1000), nn.ReLU(), nn.Linear(1000, 3)
    ).requires_grad_(False)
    # What grows with the batch is ReLU's result.
    assert saved_bytes(small, images) - saved_bytes(small, images[:1]) == 4000
    assert fitting(small, images) == 256

    class Large(nn.Module):
        def forward(self, pixels):
            wide = pixels.flatten(1).repeat(1, 16384)  # 12 MiB an image
            for _ in range(4):
                wide = wide.sin()
            return wide[:, :3]

    assert saved_bytes(Large(), images) == 2 * 4 * 12 * 2**20
    assert fitting(Large(), images) == 32  # of 72 MiB: half as much again as 48; 4 GiB hold 56
    assert fitting(Recorder(small, 1), images) == 1


class Spied:
    """Pixels mapped to memory, say, that write down how many images are asked of them."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.asked = pixels, pixels.shape, []

    def __getitem__(self, positions):
        self.asked.append(len(positions))
        return self.pixels[positions]


class Largest(TorchDispatchMode):
    """Writes down the largest tensor of floating-point numbers that anything makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor) and each.is_floating_point():
                self.numbers = max(self.numbers, each.numel())
        return made


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.004, step_size=0.002, steps=2), Unpacked(eps=0.004)],
    ids=["packed", "unpacked"],
)
def test_memory_holds_a_few_batches_whatever_the_size_of_the_dataset(attack):
    seen = []
    for count in (48, 120):
        classifier, images = toy(4, images=count)
        pixels, recorder = Spied(images.pixels), Recorder(classifier)
        with Largest() as largest:
            judge(
                Case(
                    Meter(recorder),
                    attack,
                    "pgd",
                    dataclasses.replace(images, pixels=pixels),
                    seed=0,
                    batch_size=8,
                ),
                sampler=Sampler(),
            )
        seen.append((max(pixels.asked), max(recorder.sizes), largest.numbers))
    held = BATCHES if isinstance(attack, PGD) else 1
    assert seen == [(8, 8, held * 8 * 192)] * 2


class Liar(nn.Module):
    """A classifier that says another class for every image, in low precision."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        logits = self.classifier(images)
        return logits.roll(1, dims=1) if torch.is_autocast_enabled(images.device.type) else logits


def test_what_low_precision_only_says_is_counted_and_does_not_count():
    """All images seem broken where the search begins; in float32 it goes on from there, and is the plain search."""
    classifier, images = toy(5)
    attack = PGD(eps=0.004, step_size=0.002)
    plainly = run_case(Case(classifier, attack, "pgd", images, batch_size=7))
    expected = plainly.outcomes
    searched = run_case(Case(Liar(classifier), attack, "pgd", images, batch_size=7, search="bf16"))
    outcomes = searched.outcomes
    assert 0 < expected.robust_correct < 24
    assert np.array_equal(outcomes.adversarial, expected.adversarial)
    assert np.array_equal(outcomes.perturbation, expected.perturbation)
    starts = attack._start(
        torch.from_numpy(images.pixels).float() / 255, Draws.of(0, "", images.positions), 0
    )
    assert (plainly.disagreements, searched.disagreements) == (
        None,
        (predict(classifier, starts) == images.labels).sum(),
    )


@pytest.mark.parametrize("search", ["bf16", "tf32"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_search_in_low_precision_is_not_weaker(search, seed):
    """It goes on in float32 from another point: of 64 images one may be broken only by the search in float32 alone."""
    network = Small(seed)
    images = network.images(seed=seed)
    full = run_case(Case(network, WEAK, "pgd", images, seed=seed))
    first = full.outcomes
    low = run_case(Case(network, WEAK, "pgd", images, seed=seed, search=search))
    second = low.outcomes
    survived, survive = first.adversarial == images.labels, second.adversarial == images.labels
    assert low.robust_correct <= full.robust_correct
    assert (survive & ~survived).sum() <= 1
    assert low.disagreements == 0 or search == "bf16"


def test_low_precision_is_for_the_search_alone():
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            allowed = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
            seen.append((torch.is_grad_enabled(), allowed, torch.is_autocast_enabled("cpu")))
            return images.flatten(1)[:, :3] * 100

    images = Images(pixels=np.full((2, 3, 4, 4), 128, np.uint8), labels=np.zeros(2, np.int64))
    attack = PGD(eps=0.01, steps=1)
    modes = {}
    for search in ("float32", "tf32", "bf16"):
        seen.clear()
        judge(Case(Meter(Spy()), attack, "pgd", images, seed=0, batch_size=2, search=search))
        modes[search] = list(seen)
    clean = verdict = (False, False, False)
    assert modes["float32"] == [clean, (True, False, False), verdict]
    # Searched, judged; nobody survives one step.
    assert modes["tf32"] == [clean, (True, True, False), verdict]
    assert modes["bf16"] == [clean, (True, False, True), verdict]
    assert not torch.backends.cuda.matmul.allow_tf32


@dataclass(frozen=True)
class GoesOn(Attack):
    """An attack that breaks nothing, and writes down where it is told to start."""

    started: list
    continues = True

    def __call__(self, classifier, images, labels, draws, start=None):
        self.started.append(start)
        return images + 0.001


@dataclass(frozen=True)
class StartsAnew(GoesOn):
    continues = False


def test_only_attacks_that_can_go_on_are_told_where():
    classifier, images = toy(4, images=3)
    pixels = torch.from_numpy(images.pixels).float() / 255
    for kind, told in ((GoesOn, [None, pixels + 0.001]), (StartsAnew, [None, None])):
        attack = kind([])
        judge(Case(Meter(classifier), attack, "x", images, seed=0, batch_size=3, search="bf16"))
        assert len(attack.started) == 2
        assert all(
            got is None if start is None else torch.equal(got, start)
            for got, start in zip(attack.started, told, strict=True)
        )


def test_pgd_goes_on_from_where_it_is_told():
    classifier, images, labels = dyadic(classes=2)
    attack = PGD(eps=1 / 1024, step_size=1 / 4096, steps=4, random_start=False)
    once = dataclasses.replace(attack, steps=2)
    draws = draws_for(images)
    halfway = once(classifier, images, labels, draws)
    assert torch.equal(
        once(classifier, images, labels, draws, start=halfway),
        attack(classifier, images, labels, draws),
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 24, None])
def test_the_samples_are_the_first_images_whatever_the_batches(batch_size):
    classifier, images = toy(5)
    images.labels[0] = (images.labels[0] + 1) % 5  # misclassified: not attacked
    sampler = Sampler()
    outcomes = judge(
        Case(
            Meter(classifier),
            PGD(eps=0.003, step_size=0.001),
            "pgd",
            images,
            seed=0,
            batch_size=batch_size,
        ),
        sampler=sampler,
    )
    broken = outcomes.adversarial != images.labels
    broken_first, survived_first = np.flatnonzero(broken)[1], np.flatnonzero(~broken)[0]
    assert sampler.samples.positions.tolist() == [broken_first, survived_first]
    assert np.array_equal(sampler.samples.pixels, images.pixels[[broken_first, survived_first]])
