"""AutoAttack in our engine and in the library `pyautoattack`, and its published variants.

"AutoAttack" means several lists of parts in published tables. Each has a name here, and
`autoattack:attacks=apgd-ce+apgd-t` runs any other list.

The parts need a number of classes: the DLR loss three, its targeted form four, every targeted part
a target. The plan has the parts by the number of classes and says what it left out; with fewer
classes than a DLR loss needs, a PGD-100 on the margin takes its place.

Our engine is the same algorithms with the same constants, for one purpose: to find any adversarial
image within eps. An image leaves when a point breaks it, which the library's parts do only when
they end; targets are attacked together where few images are left. The random numbers are an image's
own.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.attacks.apgd import TARGETS, apgd, apgd_targeted
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.fab import fab_targeted
from zsrobust.attacks.notes import note
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search, rivals
from zsrobust.attacks.square import square
from zsrobust.core.errors import ZSRobustError

#: Notes, by what the log of `pyautoattack` (checks.py) contains.
LOGGED = {
    "randomized defense": "attack_saw_randomness",
    "probability distribution": "attack_saw_probabilities",
    "dynamic defense": "attack_saw_gradients",
    "points with zero gradient": "attack_zero_gradients",
    "Square Attack has decreased": "square_found_more",
}


@dataclass(frozen=True)
class Job:
    """What the parts of an AutoAttack share."""

    attack: "AutoAttack"
    classifier: nn.Module
    search: Search
    targets: Tensor  #: (N, T), of the parts that have them
    draws: Draws

    @property
    def bounds(self) -> dict[str, Any]:
        """The bound of the attack, as arguments of a part."""
        return {"eps": self.attack.eps, "norm": self.attack.norm}


def _apgd_ce(job: Job) -> None:
    restarts = job.attack.restarts
    apgd(job.classifier, job.search, job.draws, "ce", restarts=restarts, **job.bounds)


def _apgd_dlr(job: Job) -> None:
    apgd(job.classifier, job.search, job.draws, "dlr", **job.bounds)


def _apgd_t(job: Job) -> None:
    apgd_targeted(job.classifier, job.search, job.targets, job.draws, **job.bounds)


def _fab_t(job: Job) -> None:
    fab_targeted(job.classifier, job.search, job.targets, **job.bounds)


def _square(job: Job) -> None:
    square(job.classifier, job.search, job.draws, **job.bounds)


def _margin(job: Job) -> None:
    """Attack the margin with PGD-100."""
    search, left = job.search, job.search.left
    step_size, eot = job.attack.eps / 4, job.attack.eot
    attack = PGD(step_size=step_size, steps=100, loss="margin", eot=eot, **job.bounds)
    found = attack(job.classifier, search.images[left], search.labels[left], job.draws[left])
    # The search gives up what is not wrong when it verifies.
    search.take(left, found, torch.ones_like(search.broken[left]))


@dataclass(frozen=True)
class Part:
    """A part of AutoAttack: what runs it, and what it needs."""

    run: Callable[[Job], None]
    classes: int = 2  #: that its loss compares; with fewer, `margin` takes its place
    targeted: bool = False
    averages: bool = False  #: over `eot` passes; other parts take one
    steps: int = 101  #: passes forward and backward, from each start or toward each target
    queries: int = 0  #: further passes forward


PARTS = {
    "apgd-ce": Part(_apgd_ce, averages=True),
    "apgd-dlr": Part(_apgd_dlr, classes=3, averages=True),
    "apgd-t": Part(_apgd_t, classes=4, targeted=True, averages=True),
    "fab-t": Part(_fab_t, targeted=True),
    "square": Part(_square, steps=0, queries=5000),
    "margin": Part(_margin, averages=True),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack, standard version (Croce & Hein, ICML 2020, arXiv 2003.01690).

    APGD on cross-entropy, APGD on the targeted DLR loss, targeted FAB, and Square; each on what the
    others left. `attacks` replaces this list: autoattack:attacks=apgd-ce+apgd-dlr+square.
    """

    engine: Literal["ours", "library"] = "ours"  #: the library is `pyautoattack`
    attacks: str | None = None  #: the parts to run, with + between them; None: the standard list
    #: Passes that APGD's gradients, losses and predictions are means over: expectation over
    #: transformation, for defenses that are random. FAB and Square take one pass.
    eot: int | None = None
    returns_clean = True
    positive = ("eot",)
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-t", "fab-t", "square")
    restarts: ClassVar[int] = 1  #: of APGD on cross-entropy

    def __post_init__(self) -> None:
        super().__post_init__()
        for place, part in enumerate(self.chosen):
            if part not in PARTS or part in self.chosen[:place]:
                wrong = "twice" if part in PARTS else "which does not exist"
                raise ZSRobustError(
                    f"attacks={self.attacks} has the part {part!r}, {wrong}. Expected a list of "
                    f"{', '.join(PARTS)}. Try: autoattack:attacks=apgd-ce+apgd-t"
                )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The parts of this list, for datasets with enough classes."""
        if self.attacks is None:
            return self.parts
        return tuple(part.strip() for part in self.attacks.split("+"))

    def plan(self, classes: int) -> dict[str, Any]:
        """Return which parts run for this many classes, their targets, and what is skipped."""
        skipped = [part for part in self.chosen if classes < PARTS[part].classes]
        parts = dict.fromkeys("margin" if part in skipped else part for part in self.chosen)
        plan: dict[str, Any] = {"parts": list(parts)}
        if self.restarts > 1:
            plan["restarts"] = self.restarts
        if self.eot is not None:
            plan["eot"] = self.eot
        if any(PARTS[part].targeted for part in parts):
            plan["targets"] = min(TARGETS, classes - 1)
        return {**plan, "skipped": skipped}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return about how many forward and backward passes an image takes that nothing breaks.

        APGD takes 100 steps from each start, or toward each target, and FAB-T toward each target.
        The library predicts every point of FAB-T once more. Square has 5,000 queries.
        """
        plan = self.plan(classes)
        targets = plan.get("targets", 0)
        steps = queries = 0
        for name in plan["parts"]:
            part = PARTS[name]
            starts = 1
            if part.targeted:
                starts = targets
            elif name == "apgd-ce":
                starts = self.restarts
            times = (self.eot or 1) if part.averages else 1
            steps, queries = steps + part.steps * starts * times, queries + part.queries
        again = 100 * targets if self.engine == "library" and "fab-t" in plan["parts"] else 0
        return steps + again + queries, steps

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], or clean ones where none was found."""
        with frozen(classifier):
            search, logits = Search.begin(classifier, images, labels, self.eot or 1)
            plan = self.plan(logits.shape[1])
            for name in plan["skipped"]:
                note(f"plan_without_{name.replace('-', '_')}")
            targets = rivals(logits, labels, plan.get("targets", 0))
            if self.engine == "ours":
                _inspect(classifier, images, logits, random=self.eot is not None)
            job = Job(self, classifier, search, targets, draws)
            for name in plan["parts"]:
                before = search.broken.clone()
                if before.all():
                    break
                self._run(name, job)
                search.verify(classifier, before)
                found = bool((search.broken & ~before).any())
                if name == "square" and self.engine == "ours" and found:
                    note("square_found_more")
        return search.adversarial

    def _run(self, name: str, job: Job) -> None:
        if self.engine == "library" and name != "margin":
            _library(name, job)
        else:
            PARTS[name].run(job)


def _library(name: str, job: Job) -> None:
    """Run a part of the library on the images that are left."""
    import pyautoattack

    search, left = job.search, job.search.left
    with _contained(search.images.device, random=job.attack.eot is not None):
        library = pyautoattack.AutoAttack(
            job.classifier,
            attacks=[name],
            version="custom",
            eps=job.attack.eps,
            norm={"linf": "Linf", "l2": "L2"}[job.attack.norm],
            seed=job.draws.seed(),
            device=search.images.device,
        )
        library.apgd.n_restarts = job.attack.restarts if name == "apgd-ce" else 1
        library.apgd.eot_iter = library.apgd_targeted.eot_iter = job.attack.eot or 1
        library.fab.n_restarts = 1
        library.apgd_targeted.n_target_classes = job.targets.shape[1]
        library.fab.n_target_classes = job.targets.shape[1]
        found, _ = library.run_standard_evaluation(
            search.images[left], search.labels[left], batch_size=len(left)
        )
    search.take(left, found, torch.ones_like(search.broken[left]))


@dataclass(frozen=True, kw_only=True)
class AutoAttackTGA(AutoAttack):
    """APGD on cross-entropy and on the untargeted DLR loss: "AutoAttack" in many CLIP papers.

    `attack_auto` of the code of TGA-ZSR (arXiv 2410.21802, attacks.py) replaces the parts of
    AutoAttack's standard version, of one start and 100 steps each, by these two; TTC (CVPR 2025,
    test_time_counterattack.py) and others have it from there. On sets of two classes TTC's code
    runs the first part alone; here the margin follows.
    """

    engine: Literal["ours"] = field(default="ours", init=False)
    attacks: None = field(default=None, init=False)
    eot: None = field(default=None, init=False)
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-dlr")


@dataclass(frozen=True, kw_only=True)
class AutoAttackRobustVLM(AutoAttack):
    """APGD on cross-entropy and on the targeted DLR loss, as RobustVLM evaluates FARE.

    Source: arXiv 2402.12336, section 4.3.

    100 steps each. The code (CLIP_eval/clip_robustbench.py,
    CLIP_benchmark/…/zeroshot_classification.py) asks AutoAttack's version "custom" for apgd-ce and
    apgd-t, and leaves the rest to its defaults: five starts of the first, nine targets of the
    second. On PCAM, of two classes, it runs the first part alone; here the margin follows.
    """

    engine: Literal["ours"] = field(default="ours", init=False)
    attacks: None = field(default=None, init=False)
    eot: None = field(default=None, init=False)
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-t")
    restarts: ClassVar[int] = 5


@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(AutoAttack):
    """AutoAttack's version "rand", for random defenses (Croce & Hein, ICML 2020).

    Source: arXiv 2003.01690, and `set_version` of autoattack.py in its code.

    APGD on cross-entropy and on the DLR loss, each step on a mean of 20 gradients. The code counts
    a point as adversarial if the last of the 20 passes is wrong; here their mean decides.
    """

    attacks: None = field(default=None, init=False)
    eot: int | None = 20
    parts: ClassVar[tuple[str, ...]] = ("apgd-ce", "apgd-dlr")


@torch.no_grad()
def _inspect(classifier: nn.Module, images: Tensor, logits: Tensor, random: bool) -> None:
    """Note what makes AutoAttack too weak: random outputs, probabilities, gradients inside.

    With `random` the attack expects random outputs.
    """
    with Watch() as watch:
        classifier(images[:1])
    apart = F.normalize(classifier(images)) - F.normalize(logits)
    if not random and apart.norm(dim=1).max() > 1e-4:
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
def _contained(device: torch.device, random: bool = False) -> Iterator[None]:
    """Undo the library's side effects on random state and tracer; its log becomes notes.

    With `random` the attack expects random outputs, and the library's doubt is dropped.
    """

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno < logging.WARNING or "target classes" in message:
                return  # the plan has the number of targets
            known = [name for part, name in LOGGED.items() if part in message]
            for name in known:
                if not (random and name == "attack_saw_randomness"):
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
attacks.register("autoattack_tga")(AutoAttackTGA())
attacks.register("autoattack_robustvlm")(AutoAttackRobustVLM())
attacks.register("autoattack_rand")(AutoAttackRand())
