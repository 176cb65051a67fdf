"""AutoAttack: our engine, and the library `pyautoattack`; and what else papers print as "AutoAttack", under its own name.

The parts need a number of classes: the DLR loss three, its targeted form four, every targeted part a target. The plan has
the parts by the number of classes and says what it left out; with fewer classes than a DLR loss needs, a PGD-100 on the
margin takes its place.

Our engine is the same algorithms with the same constants, for one purpose: to find any adversarial image within eps. An
image leaves when a point breaks it, which the library's parts do only when they end; targets are attacked together where
few images are left. The random numbers are an image's own.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zsrobust.attacks import Norm, attacks, check_bounds, frozen
from zsrobust.attacks.apgd import TARGETS, apgd, apgd_targeted
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.fab import fab_targeted
from zsrobust.attacks.notes import note
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search, rivals
from zsrobust.attacks.square import square

CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  #: that the losses compare

#: Notes, by what the log of `pyautoattack` (checks.py) contains.
LOGGED = {
    "randomized defense": "attack_saw_randomness",
    "probability distribution": "attack_saw_probabilities",
    "dynamic defense": "attack_saw_gradients",
    "points with zero gradient": "attack_zero_gradients",
    "Square Attack has decreased": "square_found_more",
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack, standard version (Croce & Hein, ICML 2020, arXiv 2003.01690).

    APGD on cross-entropy, APGD on the targeted DLR loss, targeted FAB, and Square; each on what the others left.
    """

    eps: float = 1 / 255
    norm: Norm = "linf"
    engine: Literal["ours", "library"] = "ours"  #: the library is `pyautoattack`
    returns_clean = True  # the clean image where nothing was found
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-t", "fab-t", "square")
    restarts: ClassVar[int] = 1  #: of APGD on cross-entropy

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm)

    def plan(self, classes: int) -> dict[str, Any]:
        """Return which parts run for this many classes, how many targets they have, and what is skipped."""
        skipped = [part for part in self.parts if classes < CLASSES.get(part, 2)]
        parts = ["margin" if part in skipped else part for part in self.parts]
        return {
            "parts": parts,
            **({"restarts": self.restarts} if self.restarts > 1 else {}),
            **({"targets": min(TARGETS, classes - 1)} if {"apgd-t", "fab-t"} & {*parts} else {}),
            "skipped": skipped,
        }

    def passes(self, classes: int) -> tuple[int, int]:
        """Return about how many forward and backward passes an image takes that nothing breaks.

        100 steps of APGD from each start, or toward each target, and of FAB-T toward each target, where the library predicts
        every point once more; 5,000 queries of Square.
        """
        plan = self.plan(classes)
        targets = plan.get("targets", 0)
        times = {
            "apgd-ce": self.restarts,
            "apgd-dlr": 1,
            "margin": 1,
            "apgd-t": targets,
            "fab-t": targets,
            "square": 0,
        }
        steps = 101 * sum(times[part] for part in plan["parts"])
        again = 100 * targets if self.engine == "library" else 0
        return steps + again + (5000 if "square" in self.parts else 0), steps

    def __call__(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; the clean image where no part found an adversarial one."""
        with frozen(classifier):
            search, logits = Search.begin(classifier, images, labels)
            plan = self.plan(logits.shape[1])
            for part in plan["skipped"]:
                note(f"plan_without_{part.replace('-', '_')}")
            targets = rivals(logits, labels, plan.get("targets", 0))
            if self.engine == "ours":
                _inspect(classifier, images, logits)
            for part in plan["parts"]:
                before = search.broken.clone()
                if before.all():
                    break
                if part == "margin":
                    self._margin(classifier, search, draws)
                elif self.engine == "library":
                    self._library(part, plan["targets"], classifier, search, draws)
                elif part == "apgd-ce":
                    apgd(
                        classifier,
                        search,
                        draws,
                        "ce",
                        eps=self.eps,
                        norm=self.norm,
                        restarts=self.restarts,
                    )
                elif part == "apgd-dlr":
                    apgd(classifier, search, draws, "dlr", eps=self.eps, norm=self.norm)
                elif part == "apgd-t":
                    apgd_targeted(classifier, search, targets, draws, eps=self.eps, norm=self.norm)
                elif part == "fab-t":
                    fab_targeted(classifier, search, targets, eps=self.eps, norm=self.norm)
                else:
                    square(classifier, search, draws, eps=self.eps, norm=self.norm)
                search.verify(classifier, before)
                if (
                    part == "square"
                    and self.engine == "ours"
                    and bool((search.broken & ~before).any())
                ):
                    note("square_found_more")
        return search.adversarial

    def _margin(self, classifier: nn.Module, search: Search, draws: Draws) -> None:
        """Attack the margin with PGD-100."""
        attack, left = (
            PGD(eps=self.eps, norm=self.norm, step_size=self.eps / 4, steps=100, loss="margin"),
            search.left,
        )
        found = attack(classifier, search.images[left], search.labels[left], draws[left])
        search.take(
            left, found, torch.ones_like(search.broken[left])
        )  # what is not wrong is given up when verified

    def _library(
        self, part: str, targets: int, classifier: nn.Module, search: Search, draws: Draws
    ) -> None:
        """Run a part of the library on the images that are left."""
        import pyautoattack

        left = search.left
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        with _contained(search.images.device):
            library = pyautoattack.AutoAttack(
                classifier,
                attacks=[part],
                version="custom",
                eps=self.eps,
                norm=norm,
                seed=draws.seed(),
                device=search.images.device,
            )
            library.apgd.n_restarts = library.fab.n_restarts = 1
            library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
            found, _ = library.run_standard_evaluation(
                search.images[left], search.labels[left], batch_size=len(left)
            )
        search.take(left, found, torch.ones_like(search.broken[left]))


@dataclass(frozen=True, kw_only=True)
class AutoAttackCeDlr(AutoAttack):
    """APGD on cross-entropy and on the untargeted DLR loss alone, which many papers on CLIP print as AutoAttack.

    `attack_auto` of the code of TGA-ZSR (arXiv 2410.21802, attacks.py) replaces the parts of AutoAttack's standard version,
    of one start and 100 steps each, by these two; TTC (CVPR 2025, test_time_counterattack.py) and others have it from there.
    On sets of two classes TTC's code runs the first part alone; here the margin follows.
    """

    engine: Literal["ours"] = field(default="ours", init=False)
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-dlr")


@dataclass(frozen=True, kw_only=True)
class AutoAttackRobustVLM(AutoAttack):
    """APGD on cross-entropy and on the targeted DLR loss, as RobustVLM evaluates FARE (arXiv 2402.12336, section 4.3).

    100 steps each. The code (CLIP_eval/clip_robustbench.py, CLIP_benchmark/…/zeroshot_classification.py) asks AutoAttack's
    version "custom" for apgd-ce and apgd-t, and leaves the rest to its defaults: five starts of the first, nine targets of
    the second. On PCAM, of two classes, it runs the first part alone; here the margin follows.
    """

    engine: Literal["ours"] = field(default="ours", init=False)
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-t")
    restarts: ClassVar[int] = 5


@torch.no_grad()
def _inspect(classifier: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Warn of what makes AutoAttack flatter: randomness, probabilities in the place of logits, gradients inside."""
    with Watch() as watch:
        classifier(images[:1])
    apart = F.normalize(classifier(images)) - F.normalize(logits)
    if apart.norm(dim=1).max() > 1e-4:
        note("attack_saw_randomness")
    if are_probabilities(logits):
        note("attack_saw_probabilities")
    if watch.seen:
        note("attack_saw_gradients")


def are_probabilities(logits: Tensor) -> Tensor:
    """Return whether logits (N, K) look like probabilities: in [0, 1], with sums of 1; ()."""
    inside = (logits >= -1e-5).all() & (logits <= 1 + 1e-5).all()
    return inside & ((logits.sum(1) - 1).abs() < 1e-4).all()


class Watch(TorchFunctionMode):
    """Sees whether anything within it asks for gradients."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= getattr(func, "__name__", "") in ("grad", "backward")
        return func(*args, **(kwargs or {}))


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """Keep the library's global side effects in: random state, the tracer it removes; its log becomes notes."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno < logging.WARNING or "target classes" in message:
                return  # the plan has the number of targets
            known = [name for part, name in LOGGED.items() if part in message]
            for name in known:
                note(name)
            if not known:
                warnings.warn(f"AutoAttack: {message}", stacklevel=2)

    logger, handler, tracer = logging.getLogger("auto-attack"), Handler(), sys.gettrace()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(tracer)
        logger.removeHandler(handler)
        logger.propagate = propagate


attacks.register("autoattack")(AutoAttack())
attacks.register("autoattack_ce_dlr")(AutoAttackCeDlr())
attacks.register("autoattack_robustvlm")(AutoAttackRobustVLM())
