"""(g) Attacks and a training step on a GPU, beside the rate of matrix products in the same run.

PGD-10, APGD-100 and AutoAttack of several libraries attack the same images of the same network, in
each precision. Float32 verifies what they return. The images are classified correctly, and eps is
one at which our PGD-10 leaves about half of them. An image-step is one forward pass and the
gradient with respect to the image. Libraries that are not installed are left out.

Each row is stored when it is measured. A row that would not fit into the minutes is left out, and
the last lines name it. A later call adds the missing rows.

Run: `python benchmarks/speed/device.py [--minutes 8] [--what AutoAttack] [--networks ViT-L-14]`
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import device, options, pictures, seconds_of, show, store, vit
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from training import our_step

from zsrobust.attacks import attacks, exact
from zsrobust.attacks.autoattack import Watch
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Search, arithmetic, predict
from zsrobust.models.clip import Clip
from zsrobust.models.compiled import Filled
from zsrobust.models.zeroshot import ZeroShotClassifier

sys.path.append(str(Path(__file__).parents[1] / "attacks"))  # its adapters and its judge

from adapters import Run, Task, adapter, installed
from cases import Target
from judge import run as judged

ABOUT = "Attacks and training on random weights, beside the rate of matrix products"
#: Their names in the adapters, and their steps.
ATTACKS = {"PGD-10": ("pgd", 10), "APGD-100": ("apgd-ce", 100), "AutoAttack": ("autoattack", 100)}
SPECS = {"PGD-10": "pgd10", "APGD-100": "apgd", "AutoAttack": "autoattack"}  # of ours
WHAT = ("PGD-10", "training", "APGD-100", "AutoAttack")
LIBRARIES = ("zsrobust", "pyautoattack", "torchattacks", "foolbox")
KINDS: dict[Search, torch.dtype] = {
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
}
REPEATS = 5  # of a training step; their median counts
WARM = 3  # steps that are not measured: a GPU's first ones take longer
EFFICIENCY = 0.1  # of the rate of products: what an attack reaches at least, to estimate its time
COMPILING = 90.0  # seconds for a size of batches, an estimate


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    backbones: dict[str, str]
    batches: dict[str, int]  #: images by attack, and of a training step
    product: int  #: side of the matrices
    eps: float = 1 / 255  #: the largest
    halvings: int = 12  #: of eps, at most
    steps: int | None = None  #: in place of an attack's own
    compiler: dict[str, Any] = field(default_factory=dict)  #: arguments of torch.compile
    #: The backbone that is measured in channels-last, too; see `--networks`.
    convolutional: str = "RN50"


FULL = Sizes(
    {name: f"{name}-quickgelu/openai" for name in ("ViT-B-32", "ViT-L-14", "RN50")},
    {"PGD-10": 512, "APGD-100": 128, "AutoAttack": 16, "training": 256},
    8192,
    compiler={"mode": "reduce-overhead"},  # CUDA graphs
)
SMOKE = Sizes(
    {"mini": "package:zsrobust.mini/clip"},
    {"PGD-10": 4, "APGD-100": 1, "AutoAttack": 4, "training": 4},
    64,
    eps=0.25,
    halvings=0,
    steps=2,
    compiler={"backend": "eager"},
    convolutional="mini",
)


class Counter(TorchDispatchMode):
    """Counts floating-point operations. FlopCounterMode fails at gradients of its inputs."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flop += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


@contextmanager
def counted() -> Iterator[Counter]:
    """Yield a counter of what is computed within, where attention is plain products."""
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        yield counter


class Network:
    """A CLIP with random weights, and what it takes to attack it."""

    def __init__(self, name: str, sizes: Sizes, classes: int = 100) -> None:
        """Load the network of this name among the sizes' backbones."""
        self.name, self.sizes = name, sizes
        self.clip: Clip
        self.classifier: ZeroShotClassifier
        self.clip, self.classifier, self.prompts = vit(classes, sizes.backbones[name])

    @cached_property
    def flop(self) -> tuple[int, int]:
        """The floating-point operations of one image: of a forward pass, and of an image-step."""
        image = pictures(1, self.clip.side).requires_grad_()
        with counted() as counter:
            logits = self.classifier(image)
            forward = counter.flop
            torch.autograd.grad(logits.sum(), image)
        return forward, counter.flop

    def target(self, attack: str, eps: float) -> Target:
        """Return the classifier and images that it classifies correctly."""
        number = self.sizes.batches[attack]
        images = pictures(number, self.clip.side)
        labels = torch.from_numpy(predict(self.classifier, images)).to(images.device)
        steps = self.sizes.steps or ATTACKS[attack][1]
        step_size = eps / 4 if attack == "PGD-10" else eps
        task = Task(eps, step_size, steps, 0, self.name, np.arange(number), queries=5000)
        return Target(self.name, self.classifier, images, labels, task)

    @cached_property
    def eps(self) -> float:
        """The largest of eps, eps / 2, eps / 4, … at which half of the images survive PGD-10."""
        eps = self.sizes.eps
        for _ in range(self.sizes.halvings):
            target = self.target("PGD-10", eps)
            if judged(all_steps, target, target.task).broken.mean() <= 0.5:
                break
            eps /= 2
        return eps


def waited(attack: Run, search: Search) -> Run:
    """Return an attack that searches in a precision, and returns when the device is done."""

    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        found = []
        with arithmetic(search, images.device):
            seconds_of(lambda: found.append(attack(classifier, images, labels, task)))
        return found[0]

    return run


def all_steps(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return what our PGD finds if no image leaves before its last step."""
    draws = Draws.of(task.seed, task.dataset, task.positions, images.device)
    attack = PGD(eps=task.eps, step_size=task.step_size, steps=task.steps, early_stop=False)
    return attack(classifier, images, labels, draws)


def on(module: nn.Module, run: Run) -> Run:
    """Return the same attack on another module; the plain classifier counts and judges."""
    return lambda classifier, *given: run(classifier.beside(module), *given)


def every_size(filled: Filled) -> Run:
    """Return what compiles each size of batches, with a gradient and without."""

    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        for size in WARM * filled.sizes:
            points = images[:size].clone().requires_grad_()
            torch.autograd.grad(filled(points).sum(), points)
            with torch.no_grad():
                filled(images[:size])
        with torch.no_grad(), Watch():  # AutoAttack begins with it, which is another graph
            filled(images[:1])
        return images

    return run


class Measured(NamedTuple):
    """An attack of a row."""

    by: str
    run: Run
    warm: Run  #: runs first, with few steps
    compiling: float = 0.0  #: seconds, an estimate


def runs(network: Network, attack: str) -> Iterator[Measured]:
    """Yield the attack of each library, and ours compiled; of PGD-10 also ours with all steps."""
    kind = ATTACKS[attack][0]
    filled = Filled(network.classifier, network.sizes.batches[attack], **network.sizes.compiler)
    if kind == "pgd":
        yield Measured("zsrobust, all steps", all_steps, all_steps)
        if network.name == network.sizes.convolutional:
            last = copy.deepcopy(network.classifier).to(memory_format=torch.channels_last)
            run = on(last, all_steps)
            yield Measured("zsrobust, all steps, channels-last", run, run)
        run = on(filled, all_steps)
        yield Measured("zsrobust, all steps, compiled", run, run, COMPILING)
    for library in LIBRARIES:
        number = installed(library)
        if number is not None and kind in adapter(library).ATTACKS:
            name = library if library == "zsrobust" else f"{library} {number}"
            run = adapter(library).ATTACKS[kind]
            yield Measured(name, run, all_steps if attack == "AutoAttack" else run)
    if kind != "pgd":
        run, seconds = on(filled, adapter("zsrobust").ATTACKS[kind]), COMPILING * len(filled.sizes)
        yield Measured("zsrobust, compiled", run, every_size(filled), seconds)


@dataclass(frozen=True)
class Part:
    """A row to measure."""

    row: dict[str, Any]  #: its settings
    flop: float  #: at most
    more: float  #: seconds that it takes beside
    measure: Callable[[], dict[str, Any]]  #: returns its images, seconds and FLOP, and more


def attack_parts(network: Network, attack: str, search: Search) -> Iterator[Part]:
    """Yield a row for each library."""
    forward, step = network.flop

    def measure(run: Run, warm: Run) -> dict[str, Any]:
        target = network.target(attack, network.eps)
        brief = replace(target.task, steps=min(WARM, target.task.steps))
        judged(waited(warm, search), target, brief)
        verdict = judged(waited(run, search), target, target.task)
        flop = forward * (verdict.forward - verdict.backward) + step * verdict.backward
        return {
            "images": len(target.images),
            "eps": f"{255 * network.eps:.3g}/255",
            "robust %": 100 * float((~verdict.broken).mean()),
            "refused": verdict.refused,
            "seconds": verdict.seconds,
            "image-steps a second": verdict.backward / verdict.seconds,
            "TFLOP/s": flop / verdict.seconds / 1e12,
        }

    images = network.sizes.batches[attack]
    passes = attacks.create(SPECS[attack]).passes(len(network.prompts))
    assert passes is not None
    most = images * (forward * (passes[0] - passes[1]) + step * passes[1])
    about = {"network": network.name, "what": attack, "precision": search}
    for by, run, warm, compiling in runs(network, attack):
        yield Part({**about, "by": by}, most, compiling, partial(measure, run, warm))


def training_part(network: Network, search: Search) -> Part:
    """Return the row of our training step of PMG-AFT."""
    batch = network.sizes.batches["training"]

    def make(number: int) -> Callable[[], None]:
        images = pictures(number, network.clip.side)
        labels = torch.arange(number, device=images.device) % len(network.prompts)
        return our_step(network.clip, network.prompts, images, labels, search)

    with counted() as counter:
        make(2)()
    each = counter.flop / 2

    def measure() -> dict[str, Any]:
        step = make(batch)
        with exact():  # as in a training
            taken = [seconds_of(step) for _ in range(WARM + REPEATS)]
        seconds = statistics.median(taken[WARM:])
        rate = each * batch / seconds / 1e12
        return {
            "images": batch,
            "seconds": seconds,
            "images a second": batch / seconds,
            "TFLOP/s": rate,
        }

    row = {"network": network.name, "what": "training", "precision": search, "by": "zsrobust"}
    return Part(row, each * batch * (WARM + REPEATS), 0.0, measure)


def product_rate(search: Search, size: int, seconds: float = 2.0) -> float:
    """Return the floating-point operations per second of square matrix products."""
    one, two = (torch.randn(size, size, device=device(), dtype=KINDS[search]) for _ in range(2))
    with arithmetic("tf32" if search == "tf32" else "float32", one.device):
        seconds_of(lambda: one @ two)
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            seconds_of(lambda: one @ two)
            rounds += 1
        return rounds * 2 * size**3 / (time.perf_counter() - started)


def parts(chosen: argparse.Namespace, networks: dict[str, Network]) -> Iterator[Part]:
    """Yield the chosen rows, in the order in which they were asked for."""
    for what in chosen.what:
        for network in networks.values():
            for search in chosen.precisions:
                if what != "training":
                    yield from attack_parts(network, what, search)
                elif search != "tf32":  # no recipe trains in it
                    yield training_part(network, search)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, store each row, name those that are left out, and return the rows."""
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, help="8, and with --smoke no bound")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    names = list(FULL.backbones)
    parser.add_argument(
        "--networks", nargs="+", help="the two ViTs unless named", choices=names, default=names[:2]
    )
    parser.add_argument("--precisions", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; stores nothing")
    chosen = parser.parse_args(arguments)
    sizes, minutes = (SMOKE, math.inf) if chosen.smoke else (FULL, 8.0)
    end = time.perf_counter() + 60 * (minutes if chosen.minutes is None else chosen.minutes)
    named = sizes.backbones if chosen.smoke else chosen.networks
    seconds = 0.01 if chosen.smoke else 2.0
    rates = {each: product_rate(each, sizes.product, seconds) for each in chosen.precisions}
    rows, missing = [], []
    for part in parts(chosen, {name: Network(name, sizes) for name in named}):
        rate = rates[part.row["precision"]]
        if part.more + part.flop / (EFFICIENCY * rate) > end - time.perf_counter():
            missing.append((part.row, "the minutes do not suffice"))
            continue
        try:
            found = part.measure()
        except Exception as error:  # of one library: the others are measured
            missing.append((part.row, f"{type(error).__name__}: {error}"[:200]))
            continue
        products = {"TFLOP/s of products": rate / 1e12}
        share = 100 * found["TFLOP/s"] / products["TFLOP/s of products"]
        rows.append({**part.row, **found, **products, "% of products": share})
        if not chosen.smoke:
            store("device", ABOUT, rows[-1:])
    if chosen.smoke:
        show(ABOUT, rows)
    for row, why in missing:
        print("not measured:", ", ".join(row.values()), "-", why)
    return rows


if __name__ == "__main__":
    main()
