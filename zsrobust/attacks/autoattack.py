"""AutoAttack: our engine, and the library `pyautoattack`.

The parts need a number of classes: the targeted DLR loss four, every targeted part a target. The plan has the parts by
the number of classes and says what it left out; with fewer than four classes a PGD-100 on the margin takes the place of
the targeted DLR loss.

Our engine is the same algorithms with the same constants, for one purpose: to find any adversarial image within eps. An
image leaves when a point breaks it, which the library's parts do only when they end; targets are attacked together where
few images are left. The random numbers are an image's own.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zsrobust.attacks import Norm, attacks, check_bounds, frozen, slots
from zsrobust.attacks.apgd import Search, apgd, apgd_targeted
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.fab import fab_targeted
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import square

TARGETS = 9  # of the standard version


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack, standard version (Croce & Hein, ICML 2020, arXiv 2003.01690).

    APGD on cross-entropy, APGD on the targeted DLR loss, targeted FAB, and Square; each on what the others left.
    """

    eps: float = 1 / 255
    norm: Norm = "linf"
    engine: Literal["ours", "library"] = "ours"  #: the library is `pyautoattack`
    returns_clean = True  # the clean image where nothing was found

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm)

    def plan(self, classes: int) -> dict[str, Any]:
        """Return which parts run for this many classes, how many targets they have, and what is skipped."""
        second, skipped = ("apgd-t", []) if classes >= 4 else ("margin", ["apgd-t"])
        return {"parts": ["apgd-ce", second, "fab-t", "square"], "targets": min(TARGETS, classes - 1), "skipped": skipped}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return about how many forward and backward passes an image takes that nothing breaks.

        100 steps of APGD-CE from a start; as many for each target of APGD-T and of FAB-T, where the library predicts every
        point once more; 5,000 queries of Square.
        """
        plan = self.plan(classes)
        steps = 101 * (1 + (1 if "margin" in plan["parts"] else plan["targets"]) + plan["targets"])
        return steps + 5000 + (100 * plan["targets"] if self.engine == "library" else 0), steps

    def __call__(self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; the clean image where no part found an adversarial one."""
        with frozen(classifier):
            with torch.no_grad():
                logits = classifier(images)
            plan = self.plan(logits.shape[1])
            if plan["skipped"]:
                warnings.warn("AutoAttack: PGD-100 on the margin for APGD-T, which needs 4 classes.", stacklevel=2)
            search = Search(images, labels)
            search.most = slots(classifier, search.most)
            search.broken = logits.argmax(1) != labels
            targets = logits.scatter(1, labels[:, None], -torch.inf).topk(plan["targets"]).indices
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
                    apgd(classifier, search, draws, eps=self.eps, norm=self.norm)
                elif part == "apgd-t":
                    apgd_targeted(classifier, search, targets, draws, eps=self.eps, norm=self.norm)
                elif part == "fab-t":
                    fab_targeted(classifier, search, targets, eps=self.eps, norm=self.norm)
                else:
                    square(classifier, search, draws, eps=self.eps, norm=self.norm)
                search.verify(classifier, before)
                if part == "square" and self.engine == "ours" and bool((search.broken & ~before).any()):
                    warnings.warn("AutoAttack: Square Attack has decreased the number of robust images.", stacklevel=2)
        return search.adversarial

    def _margin(self, classifier: nn.Module, search: Search, draws: Draws) -> None:
        """Attack the margin with PGD-100."""
        attack, left = PGD(eps=self.eps, norm=self.norm, step_size=self.eps / 4, steps=100, loss="margin"), search.left
        found = attack(classifier, search.images[left], search.labels[left], draws[left])
        search.take(left, found, torch.ones_like(search.broken[left]))  # what is not wrong is given up when verified

    def _library(self, part: str, targets: int, classifier: nn.Module, search: Search, draws: Draws) -> None:
        """Run a part of the library on the images that are left."""
        import pyautoattack

        left = search.left
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        with _contained(search.images.device):
            library = pyautoattack.AutoAttack(
                classifier, attacks=[part], version="custom", eps=self.eps, norm=norm, seed=draws.seed(),
                device=search.images.device,
            )  # fmt: skip
            library.apgd.n_restarts = library.fab.n_restarts = 1
            library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
            found, _ = library.run_standard_evaluation(search.images[left], search.labels[left], batch_size=len(left))
        search.take(left, found, torch.ones_like(search.broken[left]))


@torch.no_grad()
def _inspect(classifier: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Warn of what makes AutoAttack flatter: randomness, probabilities in the place of logits, gradients inside."""
    with _Watch() as watch:
        classifier(images[:1])
    apart = F.normalize(classifier(images)) - F.normalize(logits)
    shares = (logits >= -1e-5).all() & (logits <= 1 + 1e-5).all() & ((logits.sum(1) - 1).abs() < 1e-5).all()
    for seen, what in (
        (apart.norm(dim=1).max() > 1e-4, "it seems to be a randomized defense"),
        (shares, "it seems that the output is a probability distribution"),
        (watch.seen, "it seems to be a dynamic defense"),
    ):
        if seen:
            warnings.warn(f"AutoAttack: {what}; the numbers may flatter.", stacklevel=3)


class _Watch(TorchFunctionMode):
    """Sees whether anything within it asks for gradients."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= getattr(func, "__name__", "") in ("grad", "backward")
        return func(*args, **(kwargs or {}))


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """Keep the library's global side effects in: random state, the tracer it removes; its log becomes warnings."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno >= logging.WARNING and "target classes" not in message:  # the plan has those
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
