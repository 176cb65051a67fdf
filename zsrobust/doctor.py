"""The doctor: whether the numbers of a defense can be trusted, if not, why, and what to do.

A sample is attacked with PGD-10 and with an ensemble that is much stronger, and examined for red flags. The undefended
model is the canary: where it does not fall, the attack, the protocol or the bound is at fault.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from zsrobust import flags, protocols, runner
from zsrobust.attacks import Attack
from zsrobust.attacks.apgd import apgd, apgd_targeted, rivals
from zsrobust.attacks.draws import Draws
from zsrobust.defenses import Workshop
from zsrobust.entries import load_suite
from zsrobust.evaluation import device_of, fitting
from zsrobust.flags import Flag
from zsrobust.pixels import tensor
from zsrobust.redflags import Sample, examine, logits_of
from zsrobust.registry import ZSRobustError
from zsrobust.runner import Bench, Cell

CANARY = "clip"  # the undefended model
LIMIT = 32  # images of the sample
TARGETS = 3  # of APGD-T: the likeliest wrong classes
QUERIES = 500  # of Square

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found out about one defense on one dataset."""

    title: str
    dataset: str
    checks: dict[str, float]  #: as `zsrobust.redflags.examine` returns them, and the share that each attack left

    @property
    def flags(self) -> list[Flag]:
        """What is wrong; empty if nothing is."""
        return flags.raised(self.checks)

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.checks["correct"]:
            return "nothing is right, so there is nothing to attack"
        return f"do not trust it: {', '.join(flag.title for flag in self.flags)}" if self.flags else "passes"

    @property
    def passes(self) -> bool:
        """Whether the numbers can be trusted, as far as the doctor sees."""
        return self.verdict == "passes"

    def share(self, name: str) -> str:
        """Return a share of all images of the sample, in percent: clean, pgd or strongest."""
        return f"{100 * self.checks[name]:.1f}"


def run(bench: Bench, cells: Sequence[Cell], reporter: runner.Reporter) -> Iterator[Diagnosis]:
    """Yield what is found about cells, one after the other; those of the canary are told by their name.

    Raises ZSRobustError for a dataset or a defense that cannot be had, or whose classifier raises.
    """
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    runner.prepare(bench, cells, reporter)
    for cell in cells:
        tower = bench.workshop.tower(cell.defense)
        if tower.knowledge == "oblivious":
            raise ZSRobustError(f"{cell.defense}: the doctor attacks what is deployed. Leave out knowledge=oblivious.")
        classifier, target = bench.classifier(cell, tower), bench.target(cell, tower)
        told = partial(reporter.preparing, f"examining {cell.defense} on {cell.dataset}")
        yield _diagnose(bench, cell, cell.defense, classifier, target, told)


def diagnose(
    defense: nn.Module | str,
    *,
    dataset: str,
    suite: str = "mini",
    protocol: str = "sound",
    eps: float | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    checkpoints: str | Path = "checkpoints",
    device: str | None = None,
) -> Diagnosis:
    """Return what the doctor finds out about a module or a defense on one dataset; see `zsrobust.evaluate`.

    `defense` is any `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K), or the spec of a defense.
    Raises ZSRobustError for unknown names, data that cannot be had, and for a classifier that raises.
    """
    loaded = load_suite(suite)
    bench = Bench(loaded, protocols.load(protocol), Workshop(loaded, Path(checkpoints), device or "cpu"))
    spec = defense if isinstance(defense, str) else CANARY
    (cell,) = runner.plan(loaded, [spec], ["pgd10"], [dataset], eps=eps, limit=limit, seed=seed)
    if isinstance(defense, str):
        (found,) = run(bench, [cell], runner.Reporter())
        return found
    runner.prepare(bench, [cell], runner.Reporter())
    module = defense.to(device) if device else defense
    return _diagnose(bench, cell, type(defense).__name__, module, None)


def _diagnose(
    bench: Bench, cell: Cell, title: str, classifier: nn.Module, target: nn.Module | None, progress: Progress = _silent
) -> Diagnosis:
    images, device = bench.images(cell), device_of(classifier)
    pixels = tensor(images, np.arange(len(images)), bench.cut_of(cell.dataset), device)
    labels, draws = torch.from_numpy(images.labels).to(device), Draws.of(cell.seed, cell.dataset, images.positions, device)
    try:
        runner.checked(classifier, images, bench.cut_of(cell.dataset), cell.dataset)
        checks = measure(
            classifier, bench.attack(cell), pixels, labels, draws,
            target=target, batch_size=bench.batch_size, progress=progress,
        )  # fmt: skip
    except ZSRobustError:
        raise
    except Exception as error:  # a module of a user's may raise anything
        raise ZSRobustError(f"{title} could not be examined: {type(error).__name__}: {error}") from error
    if title == CANARY:
        checks["canary"] = checks["strongest"] / max(checks["clean"], 1e-12)
    return Diagnosis(title, cell.dataset, checks)


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
) -> dict[str, float]:
    """Return the measurements of `zsrobust.redflags.examine`, and what an attack and a stronger one leave.

    `clean`, `pgd` and `strongest` are shares of all images that are right, without and under attack; `overstated` is the
    share of what is right without attack that only the stronger one breaks. `progress` hears how many steps of how many are
    done.
    """
    searches: list[Callable[[Sample], Tensor]] = [partial(_attacked, attack), *STRONGER]
    progress(0, 1 + len(searches))
    size = batch_size or fitting(target or classifier, pixels[:1].repeat(2, 1, 1, 1))
    checks = examine(classifier, attack, pixels, labels, draws, target=target, batch_size=size)
    sample = Sample.of(classifier, attack, pixels, labels, draws, target=target, batch_size=size)
    with sample.apart():
        left = sample[(~sample.broken(pixels)).nonzero()[:, 0]]
        counts = [len(left)]
        for search in searches:
            progress(len(counts), 1 + len(searches))
            if len(left):
                left = left[(~left.broken(search(left))).nonzero()[:, 0]]
            counts.append(len(left))
    progress(len(counts), 1 + len(searches))
    clean, pgd, *_, strongest = counts
    checks |= {"clean": clean / len(sample), "pgd": pgd / len(sample), "strongest": strongest / len(sample)}
    return checks | {"overstated": (pgd - strongest) / max(clean, 1)}


def _attacked(attack: Attack, sample: Sample) -> Tensor:
    return attack(sample.attacked, sample.images.clone(), sample.labels, sample.draws)


def _apgd(sample: Sample) -> Tensor:
    search = sample.search
    apgd(sample.attacked, search, sample.draws, eps=sample.eps, norm=sample.norm)
    return search.adversarial


def _apgd_targeted(sample: Sample) -> Tensor:
    logits = logits_of(sample.attacked, sample.images)
    search = sample.search
    if logits.shape[1] >= 4:  # which the loss compares
        targets = rivals(logits, sample.labels, min(TARGETS, logits.shape[1] - 1))
        apgd_targeted(sample.attacked, search, targets, sample.draws, eps=sample.eps, norm=sample.norm)
    return search.adversarial


#: What the ensemble is of, beside the attack itself: APGD on two losses, PGD-100 on a third, and Square.
STRONGER: list[Callable[[Sample], Tensor]] = [
    _apgd,
    _apgd_targeted,
    lambda left: left.pgd(100, loss="margin", restarts=2),
    lambda left: left.square(QUERIES),
]


def show(found: Sequence[Diagnosis], console: Console) -> None:
    """Print a table of diagnoses, and below it what each flag means and what to do."""
    table = Table(title="Accuracy (%) on a sample, and whether to trust it")
    for heading in ("defense", "dataset"):
        table.add_column(heading, overflow="fold")
    for heading in ("images", "clean", "PGD-10", "stronger"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for each in found:
        shares = [each.share(name) for name in ("clean", "pgd", "strongest")]
        table.add_row(Text(each.title), each.dataset, f"{each.checks['images']:.0f}", *shares, each.verdict)
    console.print(table)
    for flag in {flag.name: flag for each in found for flag in each.flags}.values():
        console.print(f"\n{flag.title}: {flag.means}\n  What to do: {flag.remedy}", markup=False, highlight=False)
