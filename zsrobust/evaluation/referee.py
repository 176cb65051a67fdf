"""The referee: it runs one cell and decides which images survived. An attack never decides that.

The referee reads the bound before the call, gives clones to the attack, and restores the process
after it. It accepts only finite pixels inside [0, 1] and within eps of the original. It predicts
again itself, in float32 and eval mode, on a copy that the attack cannot reach. A crash, a NaN, a
cheat or a changed classifier never scores as robustness: the cell fails.

Only a few batches of images are in memory, whatever the size of the dataset.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import Attack, exact, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.scenes import Scene, redrawn
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, Images
from zsrobust.datasets.pixels import tensor
from zsrobust.evaluation.bounds import (
    Bound,
    CheatError,
    TamperError,
    check,
    check_targets,
    settings_of,
)
from zsrobust.evaluation.memory import BATCHES, by_portions, fitting
from zsrobust.evaluation.meter import Meter, Sampler, device_of
from zsrobust.evaluation.process import restored
from zsrobust.evaluation.redflags.notes import collected
from zsrobust.evaluation.seals import Seal
from zsrobust.models.compiled import Filled, prepare
from zsrobust.results import Outcomes, Samples
from zsrobust.results.flags import KEEPS_STATE, PROCESS_CHANGED

#: Which images are attacked: those classified correctly, or all, as the released code does.
Attacked = Literal["correct", "all"]

#: The arithmetic of an attack's search. Verdicts are always made in float32.
Search = Literal["float32", "tf32", "bf16"]

#: Called after every batch with the number of images done and the number of all images.
Progress = Callable[[int, int], None]

SHOWN = 3  #: names of changes in an error message

Positions = NDArray[np.int64]  #: of images in the (sub)set


@dataclass(frozen=True)
class Case:
    """What the referee judges: an attack on a classifier, and the images."""

    classifier: nn.Module  #: deployed: pixels (N, 3, S, S) in [0, 1] to logits (N, K)
    attack: Attack
    name: str  #: of the attack, for messages
    images: Images
    seed: int = 0  #: of the attack's random numbers, together with `dataset` and the position
    dataset: str = ""
    target: nn.Module | None = None  #: the attack sees it in place of the classifier
    batch_size: int | None = None  #: images per pass; None: as many as fit
    cut: Cut | None = None  #: resizes and crops images of other sizes
    attacked: Attacked = "correct"
    search: Search = "float32"  #: images that a lower precision leaves are attacked in float32
    scene: Scene | None = None  #: what the attack may use beside the target
    #: Arguments of torch.compile for what the attack searches in; None: it is not compiled.
    compiler: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The referee's result of a case."""

    images: int
    clean_correct: int = 0
    robust_correct: int = 0
    successes: int | None = None  #: images predicted as a targeted attack's target
    outcomes: Outcomes | None = None  #: None if the case failed
    samples: Samples | None = None
    error: str | None = None  #: the traceback of a failed case
    tampered: bool = False  #: whether the attack changed the classifier: load it again
    notes: list[str] = field(default_factory=list)  #: names of the attack's notes
    messages: list[str] | None = None  #: texts of foreign warnings
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    disagreements: int | None = None
    batch_size: int | None = None
    device: str = ""

    @property
    def failed(self) -> bool:
        """Whether the attack or the classifier raised, or broke a rule."""
        return self.error is not None


def run_case(
    case: Case, progress: Progress = lambda done, total: None, sampler: Sampler | None = None
) -> Judged:
    """Return the referee's result of a case; only Ctrl-C stops it.

    Any other exception makes it a failed result, SystemExit included.
    """
    started, device = time.perf_counter(), device_of(case.classifier)
    referee = Referee(case, progress, sampler)
    outcomes, error, tampered = None, None, False
    with warnings.catch_warnings(record=True) as caught, seeded(case.seed, device):
        warnings.simplefilter("always")
        try:
            outcomes = referee.judge()
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error, tampered = traceback.format_exc(), isinstance(raised, TamperError)
    right = outcomes.right(case.attacked == "all") if outcomes else None
    notes, messages = collected(caught)
    return Judged(
        images=len(case.images),
        clean_correct=int(right.clean.sum()) if right else 0,
        robust_correct=int(right.robust.sum()) if right else 0,
        successes=outcomes.successes if outcomes else None,
        outcomes=outcomes,
        samples=sampler.samples if sampler and outcomes else None,
        error=error,
        tampered=tampered,
        notes=sorted({*notes, *referee.notes}),
        messages=sorted({*(messages or ()), *referee.messages}) or None,
        seconds=round(time.perf_counter() - started, 3),
        forward=referee.forward_passes,
        backward=sum(meter.backward_passes for meter in referee.meters),
        disagreements=referee.disagreements,
        batch_size=referee.meter.batch_size,
        device=str(device),
    )


def judge(
    case: Case, progress: Progress = lambda done, total: None, sampler: Sampler | None = None
) -> Outcomes:
    """Return what happened to each image of a case.

    Raises CheatError if the attack breaks a rule, and every exception of attack or classifier.
    """
    return Referee(case, progress, sampler).judge()


class Referee:
    """One case under judgement: look, attack, check, judge."""

    def __init__(self, case: Case, progress: Progress, sampler: Sampler | None = None) -> None:
        """Take the case, the progress callback, and the sampler of images for reports."""
        self.case, self.progress, self.sampler = case, progress, sampler
        self.classifier = unwrapped(case.classifier)
        self.target = self.classifier if case.target is None else unwrapped(case.target)
        self.meter = Meter(self.classifier)  # of the verdicts; no attack sees it
        self.searches = Meter(self.target)  # counts what attacks did with meters of their own
        self.meters = (self.meter, self.searches)
        self.device = device_of(self.meter)
        self.disagreements: int | None = None
        self.process_changes: set[str] = set()
        self.keeps_state = False

    def judge(self) -> Outcomes:
        """Return what happened to each image."""
        case, count = self.case, len(self.case.images)
        self.bound, self.settings = Bound.of(case.attack), settings_of(case.attack)
        self.clean = np.zeros(count, dtype=np.int64)
        self.adversarial = np.zeros(count, dtype=np.int64)
        self.perturbation = np.zeros(count, dtype=np.float32)
        self.doubted = np.zeros(count, dtype=bool)
        self.targets = np.full(count, -1, dtype=np.int64) if case.attack.targeted else None
        if case.compiler is not None:
            prepare()  # before the seal
        with frozen(self.meter), frozen(self.searches), exact():
            self.seal = Seal(self.judged_modules)
            two = tensor(case.images, np.array([0, 0]), case.cut, self.device)
            self.meter.batch_size = case.batch_size or min(
                fitting(each, two) for each in self.judged_modules
            )
            by_portions(self.meter, np.arange(count), 1, self._look)
            self.keeps_state = self.seal.accept()
            chosen = self._chosen
            self.progress(count - len(chosen), count)
            by_portions(self.meter, chosen, BATCHES if case.attack.packs else 1, self._attack)
        self.disagreements = int(self.doubted.sum()) if self.quick else None
        return Outcomes(
            case.images.labels,
            self.clean,
            self.adversarial,
            self.perturbation,
            targets=self.targets,
        )

    @property
    def judged_modules(self) -> list[nn.Module]:
        """The classifier, and the module that the attack sees in its place."""
        return list(dict.fromkeys([self.classifier, self.target]))

    @property
    def notes(self) -> list[str]:
        """The names of what the referee noticed beside the verdicts."""
        noticed = {PROCESS_CHANGED: bool(self.process_changes), KEEPS_STATE: self.keeps_state}
        return [name for name, seen in noticed.items() if seen]

    @property
    def messages(self) -> list[str]:
        """What the attack changed in the process, in one line."""
        if not self.process_changes:
            return []
        changed = ", ".join(sorted(self.process_changes))
        return [f"The attack {self.case.name} changed the process, which was restored: {changed}."]

    @property
    def quick(self) -> bool:
        """Whether the first search computes in another way than the verdicts."""
        return self.case.search != "float32" or self.case.compiler is not None

    @cached_property
    def _searched(self) -> nn.Module:
        """What the first search sees: the target, or the compiled target."""
        case = self.case
        if case.compiler is None:
            return self.target
        return Filled(self.target, self.meter.batch_size or 1, **case.compiler)

    @cached_property
    def _chosen(self) -> Positions:
        """The positions of the images to attack; all clean images must be classified before."""
        if self.case.attacked == "all":
            return np.arange(len(self.clean))
        return np.flatnonzero(self.clean == self.case.images.labels)

    @property
    def forward_passes(self) -> int:
        """The number of images that passed through the classifier and the attack's target."""
        return sum(meter.forward_passes for meter in self.meters)

    def _look(self, positions: Positions) -> None:
        predicted = self._verdicts(self._load(positions), self.case.images.labels[positions])
        self.clean[positions] = self.adversarial[positions] = predicted

    def _load(self, positions: Positions) -> Tensor:
        """Return images (n, 3, S, S) float32 in [0, 1] on the device, uploaded batch by batch."""
        size = self.meter.batch_size or len(positions)
        parts = [positions[start : start + size] for start in range(0, len(positions), size)]
        images, cut = self.case.images, self.case.cut
        return torch.cat([tensor(images, part, cut, self.device) for part in parts])

    def _attack(self, positions: Positions) -> None:
        case, originals = self.case, self._load(positions)
        labels = case.images.labels[positions]
        self._aim(positions, originals, labels)
        passes = self.forward_passes
        found, sizes = self._search(positions, originals, labels, case.search, self._searched)
        predicted = self._verdicts(found, labels)
        if self.quick:
            found = self._search_again(positions, originals, labels, found, sizes, predicted)
        self._demand_an_attack(originals, labels, sizes, predicted, self.forward_passes - passes)
        self.adversarial[positions], self.perturbation[positions] = predicted, sizes.cpu().numpy()
        if self.sampler:
            right = self.clean[positions] == labels  # the attack did not break the others
            broken = predicted[right] != labels[right]
            self.sampler.look(positions[right], originals[right], found[right], broken)
        done = len(case.images) - int((self._chosen > positions[-1]).sum())
        self.progress(done, len(case.images))

    def _aim(self, positions: Positions, originals: Tensor, labels: Positions) -> None:
        """Keep a targeted attack's targets, chosen from clean logits of what the attack sees.

        Raises CheatError for targets that are not allowed, and TamperError if the choice changed
        what judges it.
        """
        if self.targets is None:
            return
        case, device = self.case, self.device
        draws = self._draws[torch.from_numpy(positions).to(device)]
        own_labels = torch.from_numpy(labels).to(device, copy=True)
        parts = originals.split(self.meter.batch_size or len(originals))
        with torch.no_grad(), arithmetic("float32", device):
            logits = torch.cat([self.searches(part) for part in parts])
        try:
            with restored(self.judged_modules, self.process_changes, draws.seed(), device):
                chosen = case.attack.aims(logits, own_labels.clone(), draws)
        finally:
            self._demand_the_same_judge()
        chosen = check_targets(case.name, chosen, own_labels, logits.shape[1])
        self.targets[positions] = chosen.cpu().numpy()

    def _search(
        self,
        positions: Positions,
        originals: Tensor,
        labels: Positions,
        precision: Search,
        searched: nn.Module,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return a copy of the attack's images, (n, 3, S, S), and their perturbations' sizes, (n,).

        An attack that continues begins at `start`. Raises CheatError for images that are not
        allowed, and TamperError if the attack changed what judges it.
        """
        case, device = self.case, self.device
        draws = self._draws[torch.from_numpy(positions).to(device)]
        own_labels = torch.from_numpy(labels).to(device, copy=True)
        seen = Meter(searched, self.meter.batch_size, case.scene)
        more = {"start": start} if case.attack.continues else {}
        if self.targets is not None:
            more["targets"] = torch.from_numpy(self.targets[positions]).to(device)
        process = restored(self.judged_modules, self.process_changes, draws.seed(), device)
        try:
            with torch.enable_grad(), arithmetic(precision, device), process:
                found = case.attack(seen, originals.clone(), own_labels, draws, **more)
        finally:  # a change outweighs whatever the attack raised
            self.searches.passes.forward += seen.forward_passes
            self.searches.passes.backward += seen.backward_passes
            self._demand_the_same_judge()
        return check(case.name, self.bound, originals, found)

    def _demand_the_same_judge(self) -> None:
        """Raise TamperError if the classifier changed, and CheatError if the attack did."""
        name, attack = self.case.name, self.case.attack
        changed = self.seal.changes()
        if changed:
            self.seal.mend()
            shown = ", ".join(changed[:SHOWN])
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise TamperError(
                f"The attack {name} changed the classifier: {shown}{more}. "
                "Expected the same classifier after the attack. Attack a copy of it."
            )
        now = settings_of(attack)
        for setting, value in self.settings.items():
            if now[setting] != value:
                object.__setattr__(attack, setting, value)
                raise CheatError(
                    f"The attack {name} changed its own {setting} from {value} to {now[setting]}. "
                    "Expected fields that stay as its spec names them."
                )

    @cached_property
    def _draws(self) -> Draws:
        """The random numbers of all images."""
        case = self.case
        return Draws.of(case.seed, case.dataset, case.images.positions, self.device)

    def _search_again(
        self,
        positions: Positions,
        originals: Tensor,
        labels: Positions,
        found: Tensor,
        sizes: Tensor,
        predicted: Positions,
    ) -> Tensor:
        """Attack surviving images as verdicts are made: of a float32 search, those it had broken.

        `sizes` and `predicted` change in place.
        """
        case, left = self.case, np.flatnonzero(predicted == labels)
        if not len(left):
            return found
        broken = self._broken_in_search(found[left], labels[left])
        self.doubted[positions[left]] = broken
        if case.search == "float32":
            left = left[broken]
            if not len(left):
                return found
        again, sizes[left] = self._search(
            positions[left], originals[left], labels[left], "float32", self.target, found[left]
        )
        predicted[left] = self._verdicts(again, labels[left])
        places = torch.from_numpy(left).to(found.device)
        return found.index_copy(0, places, again)

    def _broken_in_search(self, found: Tensor, labels: Positions) -> NDArray[np.bool_]:
        """Return which images the first search's own arithmetic classifies wrongly, (n,)."""
        search = self.case.search
        if self.case.compiler is None:
            predicted = self._verdicts(found, labels, search)
        else:
            meter = self.searches.beside(self._searched)
            parts = found.split(self.meter.batch_size or len(found))
            predicted = np.concatenate([predict(meter, part, search) for part in parts])
        broken: NDArray[np.bool_] = predicted != labels
        return broken

    def _verdicts(
        self, found: Tensor, labels: Positions, precision: Search = "float32"
    ) -> Positions:
        """Return the predicted classes, (n,); of several draws, the first wrong one counts."""
        parts = found.split(self.meter.batch_size or max(1, len(found)))
        predicted = np.concatenate([predict(self.meter, part, precision) for part in parts])
        for draw in range(1, getattr(self.classifier, "worst_of", 1)):
            meter = redrawn(self.meter, draw)
            again = np.concatenate([predict(meter, part, precision) for part in parts])
            predicted = np.where(predicted == labels, again, predicted)
        return predicted

    def _demand_an_attack(
        self, originals: Tensor, labels: Positions, sizes: Tensor, predicted: Positions, passes: int
    ) -> None:
        """Raise CheatError if the attack returned images unchanged without a search."""
        searched = self.bound.returns_clean and passes > 2 * len(originals)
        untouched = (sizes == 0).cpu().numpy() & (predicted == labels)
        if searched or not untouched.any():
            return
        if self.target is not self.classifier:  # a target that is wrong already needs no search
            left = np.flatnonzero(untouched)
            untouched[left] = predict(self.searches, originals[left]) == labels[left]
        if untouched.any():
            raise CheatError(
                f"The attack {self.case.name} returned {untouched.sum()} images unchanged. "
                "Expected a search. If it searches and may fail, set returns_clean = True."
            )


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor, precision: Search = "float32") -> Positions:
    """Return the predicted classes, (N,), in eval mode; raises ZSRobustError for invalid logits."""
    with frozen(classifier), arithmetic(precision, images.device):
        logits = classifier(images)
    if logits.ndim != 2 or not torch.isfinite(logits).all():
        shape = tuple(logits.shape)
        raise ZSRobustError(f"The classifier's logits {shape} are not finite, or not (N, K).")
    return np.asarray(logits.argmax(1).cpu().numpy(), dtype=np.int64)


def unwrapped(classifier: nn.Module) -> nn.Module:
    """Return the classifier inside a meter; another module is returned as it is."""
    return classifier.classifier if isinstance(classifier, Meter) else classifier


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random numbers, which a randomized defense draws."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def arithmetic(precision: Search, device: torch.device) -> Iterator[None]:
    """Compute in the given precision, whatever the process used before."""
    lower = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with exact(), lower:
        allowed = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        yield
