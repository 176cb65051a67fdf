"""The doctor: whether the numbers of a defense can be trusted, and if not, why.

It attacks a sample with PGD-10 and with a much stronger ensemble, and looks for red flags. The
undefended model is the canary. If it survives, the attack, the protocol or the bound is at fault.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack
from zsrobust.attacks.apgd import apgd, apgd_targeted
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.search import rivals
from zsrobust.evaluation.memory import fitting
from zsrobust.evaluation.redflags.measurements import examine
from zsrobust.evaluation.redflags.rules import raised
from zsrobust.evaluation.redflags.sample import Mixture, Sample, logits_of
from zsrobust.results.flags import look_up

TARGETS = 3  # classes that APGD-T aims at: the likeliest wrong ones
QUERIES = 500  # per image, of Square
LONG, LONG_QUERIES = 3, 1000  # images and queries of a last search, if nothing else looks wrong
CROWD, CALLS = 128, 300  # images in a large batch, and calls before it

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor measured about one defense on one dataset."""

    title: str
    dataset: str
    #: the measurements of `measure`
    checks: dict[str, float]

    @property
    def flags(self) -> list[str]:
        """The names of the raised red flags; `results.flags.look_up` returns their words."""
        return raised(self.checks)

    @property
    def reasons(self) -> list[str]:
        """A line for each raised flag: its title, what it means, and what to do."""
        found = map(look_up, self.flags)
        return [f"{flag.title}: {flag.means} What to do: {flag.remedy}" for flag in found]

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.checks["correct"]:
            return "the classifier is wrong on every image of the sample"
        if not self.flags:
            return "passes"
        return f"do not trust it: {', '.join(look_up(name).title for name in self.flags)}"

    @property
    def passes(self) -> bool:
        """Whether the numbers can be trusted, as far as the doctor sees."""
        return self.verdict == "passes"

    def share(self, name: str) -> str:
        """Return a share of all images of the sample, in percent: clean, pgd or strongest."""
        return f"{100 * self.checks[name]:.1f}"


def measure(
    classifier: nn.Module,
    attack: Attack,
    pixels: Tensor,
    labels: Tensor,
    draws: Draws,
    *,
    target: nn.Module | None = None,
    batch_size: int | None = None,
    progress: Progress = _silent,
    undefended: nn.Module | None = None,
) -> dict[str, float]:
    """Return the measurements of `examine`, and the shares in [0, 1] that survive attacks.

    `clean`, `pgd` and `strongest` are the shares of all images that are classified correctly:
    without attack, under `attack`, and under the ensemble. `overstated` is the share of the correct
    images that only the ensemble breaks. `progress` receives the steps done and the steps in all.
    """
    searches: list[Callable[[Sample], Tensor]] = [partial(_attacked, attack), *STRONGER]
    if undefended is not None:
        mixed = Mixture(undefended, target or classifier)
        searches += [
            lambda left: left.transferred(undefended),
            lambda left: left.transferred(mixed),
        ]
    progress(0, 1 + len(searches))
    size = batch_size or fitting(target or classifier, pixels[:1].repeat(2, 1, 1, 1))
    checks = examine(classifier, attack, pixels, labels, draws, target=target, batch_size=size)
    sample = Sample.of(classifier, attack, pixels, labels, draws, target=target, batch_size=size)
    with sample.apart():
        right = left = sample[(~sample.broken(pixels)).nonzero()[:, 0]]
        counts = [len(left)]
        for search in searches:
            progress(len(counts), 1 + len(searches))
            if len(left):
                left = left[(~left.broken(search(left))).nonzero()[:, 0]]
            counts.append(len(left))
        if len(right):
            checks["fickle"] = max(checks.get("fickle", 0.0), _fickle(right))
        if undefended is not None:
            found = counts[-3] - counts[-1]
            checks["transfer"] = max(checks.get("transfer", 0.0), found / max(counts[0], 1))
    progress(len(counts), 1 + len(searches))
    clean, pgd, *_, strongest = counts
    checks |= {
        "clean": clean / len(sample),
        "pgd": pgd / len(sample),
        "strongest": strongest / len(sample),
        "overstated": (pgd - strongest) / max(clean, 1),
    }
    if len(left) and not raised(checks):
        with sample.apart():
            some = left[torch.arange(min(LONG, len(left)), device=pixels.device)]
            found = int(some.broken(some.square(LONG_QUERIES)).sum())
            checks["black_box"] = max(checks.get("black_box", 0.0), found / clean)
    return checks


def _fickle(sample: Sample) -> float:
    """Return the share whose fate under PGD-10 changes in a large batch, after many calls."""
    times = math.ceil(min(CROWD, sample.attacked.batch_size or CROWD) / len(sample))
    few = sample.broken(sample.pgd(10, early_stop=False))
    for _ in range(CALLS):
        sample.deployed(sample.images[:1])
    crowd = sample[torch.arange(len(sample), device=few.device).repeat(times)]  # with equal draws
    many = crowd.broken(crowd.pgd(10, early_stop=False))
    return float((few != many[: len(sample)]).float().mean())


def _attacked(attack: Attack, sample: Sample) -> Tensor:
    return attack(sample.attacked, sample.images.clone(), sample.labels, sample.draws)


def _transferred(other: nn.Module, sample: Sample) -> Tensor:
    return sample.transferred(other)


def _apgd(sample: Sample) -> Tensor:
    search = sample.search
    apgd(sample.attacked, search, sample.draws, eps=sample.eps, norm=sample.norm)
    return search.adversarial


def _apgd_targeted(sample: Sample) -> Tensor:
    logits = logits_of(sample.attacked, sample.images)
    search = sample.search
    if logits.shape[1] >= 4:  # the targeted loss compares four logits
        targets = rivals(logits, sample.labels, min(TARGETS, logits.shape[1] - 1))
        apgd_targeted(
            sample.attacked, search, targets, sample.draws, eps=sample.eps, norm=sample.norm
        )
    return search.adversarial


#: The ensemble, beside the attack itself: APGD on two losses, PGD-100 on a third, and Square.
STRONGER: list[Callable[[Sample], Tensor]] = [
    _apgd,
    _apgd_targeted,
    lambda left: left.pgd(100, loss="margin", restarts=2),
    lambda left: left.square(QUERIES),
]
