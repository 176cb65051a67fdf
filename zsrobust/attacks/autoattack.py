"""AutoAttack through the library `pyautoattack`.

The library's parts need a number of classes: the targeted DLR loss four, every targeted part a target. The adapter
plans the parts by the number of classes and says what it left out; with fewer than four classes a PGD-100 on the margin
takes the place of the targeted DLR loss.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks, check_bounds, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD

TARGETS = 9  # of the standard version


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack, standard version (Croce & Hein, ICML 2020, arXiv 2003.01690).

    APGD on cross-entropy, APGD on the targeted DLR loss, targeted FAB, and Square; each on what the others left.
    """

    eps: float = 1 / 255
    norm: Norm = "linf"
    returns_clean = True  # the library gives back the clean image where it found nothing

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm)

    def plan(self, classes: int) -> dict[str, Any]:
        """Return which parts run for this many classes, how many targets they have, and what is skipped."""
        second, skipped = ("apgd-t", []) if classes >= 4 else ("margin", ["apgd-t"])
        return {"parts": ["apgd-ce", second, "fab-t", "square"], "targets": min(TARGETS, classes - 1), "skipped": skipped}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return about how many forward and backward passes an image takes that nothing breaks.

        100 steps of APGD-CE; 100 for each target of APGD-T and of FAB-T; 5,000 queries of Square.
        """
        plan = self.plan(classes)
        steps = 100 + 100 * (1 if "margin" in plan["parts"] else plan["targets"]) + 100 * plan["targets"]
        return steps + 5000, steps

    def __call__(self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; the clean image where no part found an adversarial one."""
        import pyautoattack

        with torch.no_grad():
            logits = classifier(images)
        plan = self.plan(logits.shape[1])
        if plan["skipped"]:
            warnings.warn("AutoAttack: PGD-100 on the margin for APGD-T, which needs 4 classes.", stacklevel=2)
        adversarial = images.contiguous().clone()
        robust = logits.argmax(1) == labels
        with frozen(classifier), _contained(images.device):
            for part in plan["parts"]:
                left = robust.nonzero()[:, 0]
                if not len(left):
                    break
                if part == "margin":
                    strong = PGD(eps=self.eps, norm=self.norm, step_size=self.eps / 4, steps=100, loss="margin")
                    found = strong(classifier, images[left], labels[left], draws[left])
                else:
                    library = pyautoattack.AutoAttack(
                        classifier,
                        attacks=[part],
                        version="custom",
                        eps=self.eps,
                        norm={"linf": "Linf", "l2": "L2"}[self.norm],
                        seed=draws.seed(),
                        device=images.device,
                    )
                    library.apgd.n_restarts = library.fab.n_restarts = 1
                    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = plan["targets"]
                    found, _ = library.run_standard_evaluation(images[left], labels[left], batch_size=len(left))
                with torch.no_grad():
                    broken = classifier(found).argmax(1) != labels[left]
                adversarial[left[broken]] = found[broken]
                robust[left[broken]] = False
        return adversarial


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
