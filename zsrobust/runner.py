"""The runner: which cells there are, which are missing, and in which order they are computed."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zsrobust import flags, protocols, ranks, results, sharing, tables
from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.classifier import HalfPrecision, ZeroShotClassifier
from zsrobust.cost import Cost, Speed, measure
from zsrobust.datasets import Cut, Images, datasets
from zsrobust.defenses import Tower, Workshop, Wrapped, defenses
from zsrobust.entries import load_suite
from zsrobust.evaluation import Sampler, Search, describe_attack, describe_dataset, device_of, run_cell
from zsrobust.pixels import cut_for, tensor
from zsrobust.protocols import Protocol
from zsrobust.ranks import Share
from zsrobust.redflags import SAMPLE, examine
from zsrobust.registry import Registry, ZSRobustError, format_eps, join_spec, split_spec
from zsrobust.results import Result
from zsrobust.rows import Need
from zsrobust.sharing import BusyError
from zsrobust.suites import Suite
from zsrobust.wrappers import ADAPTIVE, Knowledge

MODULE = "module"  # the name, in a cell, of a module that is no registered defense


@dataclass(frozen=True)
class Cell:
    """One defense, attack and dataset of a suite."""

    defense: str  #: spec
    attack: str  #: spec without eps
    eps: float
    dataset: str
    limit: int | None
    seed: int


class Reporter:
    """What a run tells while it works; this one keeps silent."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Hear of downloads, in bytes, of datasets being prepared, in images, and of examinations, in their steps."""

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Hear of a training's steps."""

    def cells(self, images: int) -> None:
        """Hear, before the first cell, how many images there are in all cells to compute."""

    def judged(self, cell: Cell, images: int) -> None:
        """Hear that so many more images of a cell are done."""

    def stored(self, result: Result) -> None:
        """Hear of a cell that was computed, and stored."""

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Hear that another run has done a cell that was to be computed."""

    def note(self, line: str) -> None:
        """Hear a line that a person should see."""


def plan(
    suite: Suite,
    defense_specs: Sequence[str] = (),
    attack_specs: Sequence[str] = (),
    dataset_names: Sequence[str] = (),
    *,
    needs: Sequence[Need] = (),
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Return the cells asked for, by defense, attack, dataset: `needs`, or the product of the specs.

    What is left open is what Tables 1 to 3 need. A dataset may be any that is registered, a plugin's say. Raises
    ZSRobustError for unknown names.
    """
    chosen_defenses = [normalize(spec, defenses) for spec in defense_specs]
    chosen_attacks = [normalize(spec, attacks) for spec in attack_specs]
    wanted = list(needs) or [need for number in ("1", "2", "3") for need in tables.needs(number)]
    if chosen_defenses or chosen_attacks:
        some_defenses = chosen_defenses or [need.defense for need in wanted]
        some_attacks = chosen_attacks or [need.attack for need in wanted]
        wanted = [Need(defense, attack) for defense in some_defenses for attack in some_attacks]
    cells = []
    for defense, spec, bound in dict.fromkeys(wanted):
        attack, bare = resolve_attack(spec, suite, eps if eps is not None else bound)
        for name in dataset_names or suite.datasets:
            size = limit if limit is not None else suite.limits.get(split_spec(spec)[0])
            cells.append(Cell(defense, bare, attack.eps, name, _whole(size, name), seed))
    order = list(dict.fromkeys(cell.defense for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell.defense))


def _whole(limit: int | None, dataset: str) -> int | None:
    """Return the limit, or None where it leaves the dataset whole; raises ZSRobustError below 1."""
    if limit is not None and limit < 1:
        raise ZSRobustError(f"A limit of {limit} images leaves none. Choose 1 or more.")
    return None if limit is None or limit >= datasets[dataset].size else limit


def normalize(spec: str, registry: Registry[Any]) -> str:
    """Return a spec with its fields in order; raises ZSRobustError for what the registry does not know."""
    registry.create(spec)
    return join_spec(*split_spec(spec))


def resolve_attack(spec: str, suite: Suite, eps: float | None = None) -> tuple[Attack, str]:
    """Return the attack with the suite's values where the spec leaves them open, and the spec without its eps."""
    name, fields = split_spec(spec)
    attack = attacks.create(spec, suite.attack)
    if eps is not None:
        attack = dataclasses.replace(attack, eps=eps)  # type: ignore[type-var]  # as in evaluation.describe_attack
    fields.pop("eps", None)
    return attack, join_spec(name, fields)


@dataclass(frozen=True)
class Bench:
    """A suite measured under a protocol, and the workshop that makes its towers."""

    suite: Suite
    protocol: Protocol
    workshop: Workshop
    search: Search = "float32"  #: the precision in which attacks search; verdicts are made in the protocol's

    def __post_init__(self) -> None:
        if self.search != "float32" and self.protocol.precision != "float32":
            raise ZSRobustError(f"The protocol {self.protocol.name} has a precision of its own: leave out --precision.")

    @cached_property
    def cut(self) -> Cut:
        """How pictures become what is attacked."""
        chosen = self.protocol.interpolation
        return cut_for(self.workshop.shape, self.protocol.zoom, None if chosen == "backbone" else chosen)

    @property
    def batch_size(self) -> int | None:
        """How many images the classifier gets at once; None for what fits. Half precision divides gradients by it."""
        return 256 if self.protocol.precision == "float16" else None

    def cut_of(self, dataset: str) -> Cut | None:
        """Return how a dataset's squares become what is attacked; None if they are attacked at their own size."""
        return None if dataset in self.protocol.native else self.cut

    def images(self, cell: Cell) -> Images:
        """Return the images of a cell."""
        return _select(cell.dataset, self.cut, self.protocol.select, cell.limit)

    def attack(self, cell: Cell) -> Attack:
        """Return the attack of a cell.

        It takes all its steps where the last iterate is judged, and where it does not know what is deployed: an image that
        stops just behind the border of what the attack sees has hardly left that of what it does not.
        """
        attack = resolve_attack(cell.attack, self.suite, cell.eps)[0]
        defense = None if cell.defense == MODULE else defenses.create(cell.defense)
        oblivious = getattr(defense, "knowledge", "") == "oblivious"
        if (oblivious or self.protocol.judged == "final") and hasattr(attack, "early_stop"):
            return dataclasses.replace(attack, early_stop=False)  # type: ignore[type-var]  # as in evaluation.describe_attack
        return attack

    @cached_property
    def speed(self) -> Speed:
        """The speed of the backbone's tower on the workshop's device, measured now."""
        return measure(self.workshop.shape.encoder, self.workshop.shape.side)

    def cost(self, cell: Cell) -> Cost:
        """Return what a cell takes at most: its clean predictions, the attack, and the verdicts; red flags aside."""
        dataset, attack = datasets[cell.dataset], self.attack(cell)
        size = min(dataset.size, cell.limit or dataset.size)
        if self.protocol.select == "every_20th_batch":
            size = min(size, sum(min(256, dataset.size - start) for start in range(0, dataset.size, 20 * 256)))
        passes = getattr(attack, "passes", None)
        forward, backward = passes(len(dataset.classes)) if passes else (0, 0)
        times = 1 if self.search == "float32" else 2  # what a lower precision leaves is attacked again
        defense = defenses.create(cell.defense)
        deployed = defense.passes if isinstance(defense, Wrapped) else 1
        seen = deployed if getattr(defense, "knowledge", "") == "adaptive" else 1
        return Cost(
            size, size * (2 + times * forward), size * times * backward, passes is not None,
            (size * (2 * deployed + times * forward * seen), size * times * backward * seen),
        )  # fmt: skip

    def predicted(self, cell: Cell, shares: int) -> dict[str, float] | None:
        """Return the most that a cell takes, in passes, and in seconds where so many processes share it.

        None if the attack does not say how many passes it takes.
        """
        cost = self.cost(cell)
        if not cost.known:
            return None
        seconds = self.speed.seconds(*cost.tower) / shares
        return {"seconds": round(seconds, 3), "forward": cost.forward, "backward": cost.backward}

    def classifier(self, cell: Cell, tower: Tower) -> nn.Module:
        """Return the classifier of a cell, frozen, in eval mode: what is deployed, wrapped where the defense says so."""
        plain = self._plain(cell, tower)
        return self._ready(tower.wrapper.wrap(plain) if tower.wrapper else plain)

    def target(self, cell: Cell, tower: Tower) -> nn.Module | None:
        """Return what the attack of a cell sees, if that is something other than what is deployed."""
        seen = tower.wrapper.target(self._plain(cell, tower), tower.knowledge) if tower.wrapper else None
        return None if seen is None else self._ready(seen)

    def _plain(self, cell: Cell, tower: Tower) -> ZeroShotClassifier:
        protocol, prompts = self.protocol, datasets[cell.dataset].prompts(self.protocol.prompts)
        return self.workshop.clip.classifier(prompts, tower.encoder, protocol.logit_scale, protocol.normalization)

    def _ready(self, classifier: nn.Module) -> nn.Module:
        if self.protocol.precision == "float16":
            classifier = HalfPrecision(classifier)  # outermost: a wrapper needs features, and its arithmetic is half, too
        return classifier.eval().requires_grad_(False)

    def identify(self, cell: Cell, defense: dict[str, Any]) -> dict[str, Any]:
        """Return everything that a cell's numbers depend on; `defense` is what its part holds beside the spec."""
        dataset = datasets[cell.dataset]
        switches = self.protocol.switches
        identity = {
            "suite": self.suite.name,
            "protocol": self.protocol.name,
            **({"switches": switches} if switches else {}),
            **({"search": self.search} if self.search != "float32" else {}),
            "defense": {"spec": cell.defense, **defense},
            "attack": describe_attack(cell.attack, self.attack(cell), len(dataset.classes)),
            "dataset": describe_dataset(
                cell.dataset, dataset, self.images(cell), cell.limit, self.protocol.prompts, self.cut_of(cell.dataset)
            ),
            "seed": cell.seed,
            "draws": "splitmix64",  # of the seed, the dataset's name, the position: see zsrobust.attacks.draws
        }
        return dict(json.loads(json.dumps(identity)))  # as it will be read again: lists for tuples

    def prepare_named(self, names: Sequence[str], reporter: Reporter) -> Iterator[str]:
        """Prepare datasets by name, the training split of one by its name and ":train"; yield a line for each."""
        for named in names:
            name, _, split = named.partition(":")
            if split not in ("", "test", "train"):
                raise ZSRobustError(f"{named!r}: a split is test or train, as in tiny_imagenet:train.")
            origin, chosen = datasets[name].origin, "train" if split == "train" else "test"
            if origin is None:
                yield f"{name} needs no preparation"
                continue
            cut = self.train_cut if chosen == "train" else self.cut
            folder = origin.prepare(chosen, cut, reporter.preparing)  # type: ignore[arg-type]  # a Split
            yield f"{named} is prepared in {folder}"

    @property
    def train_cut(self) -> Cut:
        """How training pictures become squares, by the suite's recipes."""
        values = self.suite.recipe
        return cut_for(self.workshop.shape, values.get("zoom", 1.0), values.get("interpolation"))

    def path(self, cell: Cell) -> Path:
        """Return a cell's place in the results folder, before anything of it is opened."""
        identity = {
            "suite": self.suite.name,
            "protocol": self.protocol.name,
            "defense": {"spec": cell.defense},
            "attack": {"spec": cell.attack, "eps": format_eps(cell.eps)},
            "dataset": {"name": cell.dataset, "limit": cell.limit},
            "seed": cell.seed,
        }
        place = Result(identity).path
        return place.with_name(place.name + ".json")


@cache
def _select(dataset: str, cut: Cut, select: str, limit: int | None) -> Images:
    """Return a dataset's test images, or the selection of them; opened once."""
    if limit is not None:
        return _select(dataset, cut, select, None).subset(limit)
    images = datasets[dataset].open("test", cut)
    return images.every(20, 256, datasets[dataset].by_class) if select == "every_20th_batch" else images


def about(cell: Cell, tower: Tower) -> dict[str, Any]:
    """Return what identifies a registered defense beside its spec."""
    knowledge = {"knowledge": tower.knowledge} if tower.wrapper else {}
    return {"title": defenses.create(cell.defense).title, **knowledge, **tower.identity}


def prepare(bench: Bench, cells: Sequence[Cell], reporter: Reporter) -> None:
    """Prepare the datasets of the cells that are not prepared yet; tell of classes that no classifier can tell apart.

    Raises ZSRobustError for one that cannot be had.
    """
    for name in dict.fromkeys(cell.dataset for cell in cells):
        dataset = datasets[name]
        if dataset.origin is not None:
            dataset.origin.prepare("test", bench.cut, reporter.preparing)
        classes = dataset.wordings.get(bench.protocol.prompts, (dataset.classes,))[0]
        for group in dataset.look_alikes(bench.protocol.prompts):
            alike = ", ".join(f"{label} {classes[label]!r}" for label in group)
            reporter.note(f"{name}: classes with the same prompts, which no classifier can tell apart: {alike}")


def run(
    bench: Bench,
    cells: Sequence[Cell],
    folder: Path,
    reporter: Reporter,
    force: bool = False,
) -> tuple[list[Result], list[ZSRobustError]]:
    """Return the results of the cells, in order: stored ones where the identity is the same, else computed and stored.

    Other runs may share the folders: what they are at is left to them, until nothing else is left, and is this run's if they
    die. The processes of torchrun share every training and every cell. A failed cell does not stop the others, nor does a
    defense that cannot be made: its error is in the second list.
    """
    reporter = reporter if ranks.leads() else Reporter()
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    bench.workshop.patient = False
    with ranks.first():
        prepare(bench, cells, reporter)
    towers: dict[str, Tower] = {}
    work: dict[Cell, Work] = {}
    found: dict[Cell, Result] = {}
    errors: dict[str, ZSRobustError] = {}
    told = ""
    while left := [cell for cell in dict.fromkeys(cells) if cell not in found and cell.defense not in errors]:
        # Towers first, so that the bar knows how many images there are.
        made, failed, busy = make_towers(bench, dict.fromkeys(cell.defense for cell in left if cell not in work))
        fresh = look_up(bench, [cell for cell in left if cell.defense in made], folder, made, reporter, force)
        reporter.cells(sum(len(bench.images(cell)) for cell, each in fresh.items() if each.stored is None))
        towers, errors, work = towers | made, errors | failed, work | fresh
        known = len(found)
        for cell in filter(work.__contains__, left):
            try:
                found[cell] = _settle(bench, work[cell], folder, towers[cell.defense], reporter)
            except BusyError as other:
                busy.append(other)
        if not made and not failed and len(found) == known:
            told = _wait(busy, told, reporter)
    return [found[cell] for cell in cells if cell in found], list(errors.values())


@dataclass(frozen=True)
class Work:
    """A cell, and what was stored of it when we looked."""

    cell: Cell
    identity: dict[str, Any]
    stored: Result | None  #: if it may be used again
    stamp: tuple[int, ...] | None  #: of its file
    again: str = ""  #: why something that is stored is not used


def make_towers(bench: Bench, specs: Iterable[str]) -> tuple[dict[str, Tower], dict[str, ZSRobustError], list[BusyError]]:
    """Return the towers of defenses, the errors of those that cannot be made, and who is at those that others train."""
    made: dict[str, Tower] = {}
    errors: dict[str, ZSRobustError] = {}
    busy: list[BusyError] = []
    for spec in specs:
        try:
            made[spec] = bench.workshop.tower(spec)
        except BusyError as other:
            busy.append(other)
        except ZSRobustError as error:
            errors[spec] = error
        except Exception as error:  # a plugin's objective may raise anything
            errors[spec] = ZSRobustError(f"{spec} could not be made: {type(error).__name__}: {error}")
        if spec in errors and ranks.size() > 1:  # the others may be in the middle of its training
            raise errors[spec]
    return made, errors, busy


def look_up(
    bench: Bench, cells: Sequence[Cell], folder: Path, towers: Mapping[str, Tower], reporter: Reporter, force: bool
) -> dict[Cell, Work]:
    """Return the cells' identities, and their stored results where these may be used again."""
    found = ranks.decided(lambda: {cell: _look(bench, cell, folder, towers[cell.defense], force) for cell in cells})
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell, work in found.items():
        if work.again:
            reasons.setdefault((cell.defense, work.again), []).append(cell.dataset)
    for (defense, again), names in reasons.items():
        where = f"on {', '.join(names)}" if len(names) < 4 else f"in {len(names)} cells"
        reporter.note(f"{defense} {where} is computed again: {again}")
    return found


def _look(bench: Bench, cell: Cell, folder: Path, tower: Tower, force: bool) -> Work:
    identity = bench.identify(cell, about(cell, tower))
    path = folder / bench.path(cell)
    stamp = stamp_of(path)
    if force or stamp is None:
        return Work(cell, identity, None, stamp)
    stored = results.read(path)
    if differing := list(results.differences(stored.identity, identity)):
        again = f"another {', '.join(differing)}"
    elif stored.status == "failed":
        again = "it failed before"
    elif not results.outcomes_match(stored, path):
        again = "its outcomes are gone, or another run's"
    else:
        return Work(cell, identity, stored, stamp)
    return Work(cell, identity, None, stamp, again)


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written anew; None if there is none."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _settle(bench: Bench, work: Work, folder: Path, tower: Tower, reporter: Reporter) -> Result:
    """Return a cell's result: stored, another run's, or computed and stored now; raises BusyError while another is at it."""
    path = folder / bench.path(work.cell)
    if work.stored is not None:
        sharing.clear(path)
        return work.stored
    with ranks.led(sharing.claimed(path)):
        theirs = ranks.decided(lambda: _stored_since(work, path))
        if theirs is None:
            return _compute(bench, work, folder, tower, reporter)
        reporter.elsewhere(work.cell, theirs.images)
        return theirs


def _stored_since(work: Work, path: Path) -> Result | None:
    """Return what another run stored of a cell since we looked, a failure, too: it is not tried twice."""
    if stamp_of(path) in (None, work.stamp):
        return None
    stored = results.read(path)
    same = not any(results.differences(stored.identity, work.identity))
    return stored if same and (stored.status == "failed" or results.outcomes_match(stored, path)) else None


def _wait(busy: Sequence[BusyError], told: str, reporter: Reporter) -> str:
    """Wait a little for other runs; return what was told about it, which is told once."""
    line = f"waiting: {busy[0]}" if busy else told
    if line != told:
        reporter.note(line + (f"; and {len(busy) - 1} more" if len(busy) > 1 else ""))
    time.sleep(sharing.PAUSE)
    return line


def _compute(bench: Bench, work: Work, folder: Path, tower: Tower, reporter: Reporter) -> Result:
    """Compute a cell, each process every so many-th image of it, and store it."""
    cell, images = work.cell, bench.images(work.cell)
    shares, share = min(ranks.size(), len(images)), None
    if ranks.rank() < shares:
        own = images if shares == 1 else images.at(np.arange(ranks.rank(), len(images), shares))
        share = _run_share(bench, work, own, tower, reporter, shares)
    parts = ranks.gathered(share)[:shares]

    def store() -> Result:
        result, outcomes, samples = ranks.joined([part for part in parts if part is not None])
        result.training, result.predicted = tower.training, bench.predicted(cell, shares)
        if outcomes is not None:
            outcomes = dataclasses.replace(outcomes, classes=np.array(datasets[cell.dataset].classes))
        results.write(result, outcomes, folder, samples)
        return result

    result = ranks.decided(store)
    reporter.stored(result)
    if result.status == "failed":
        reporter.note(f"failed: {cell.defense} under {cell.attack} on {cell.dataset}: {_last_line(result.error)}")
    return result


def _run_share(bench: Bench, work: Work, images: Images, tower: Tower, reporter: Reporter, shares: int) -> Share:
    cell, told = work.cell, 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        reporter.judged(cell, done * shares - told)  # the others are about as far
        told = done * shares

    sampler = Sampler() if datasets[cell.dataset].may_be_shown else None
    classifier, target = bench.classifier(cell, tower), bench.target(cell, tower)
    result, outcomes = run_cell(
        work.identity, classifier, bench.attack(cell), cell.attack, images,
        seed=cell.seed, batch_size=bench.batch_size, cut=bench.cut_of(cell.dataset), attacked=bench.protocol.attacked,
        progress=progress, sampler=sampler, search=bench.search, target=target,
    )  # fmt: skip
    if ranks.leads():
        _look_for_flags(bench, cell, classifier, target, tower.knowledge, result)
    reporter.judged(cell, len(bench.images(cell)) - told)
    return result, outcomes, sampler.samples if sampler and outcomes is not None else None


def _look_for_flags(
    bench: Bench, cell: Cell, classifier: nn.Module, target: nn.Module | None, knowledge: Knowledge, result: Result
) -> None:
    """Put into a result what a small sample of the dataset's images shows of it; no trouble there makes a cell fail."""
    if result.status == "failed":
        return
    images = _select(cell.dataset, bench.cut, bench.protocol.select, min(SAMPLE, cell.limit or SAMPLE))
    device = device_of(classifier)
    pixels = tensor(images, np.arange(len(images)), bench.cut_of(cell.dataset), device)
    labels, draws = torch.from_numpy(images.labels).to(device), Draws.of(cell.seed, cell.dataset, images.positions, device)
    try:
        result.checks = examine(
            classifier, bench.attack(cell), pixels, labels, draws,
            target=target, knowledge=knowledge, batch_size=result.batch_size,
        )  # fmt: skip
        result.flags = flags.sentences(result.checks, result.flags)
    except Exception as error:
        result.flags = [*result.flags, results.one_line(f"Red flags could not be computed: {type(error).__name__}: {error}")]


def checked(module: nn.Module, images: Images, cut: Cut | None, dataset: str) -> nn.Module:
    """Return the module; raises ZSRobustError unless it has one logit for each class of the dataset."""
    pixels = tensor(images, np.arange(1), cut, device_of(module))
    with torch.no_grad(), frozen(module):
        shape = tuple(module(pixels).shape)
    classes = len(datasets[dataset].classes)
    if shape != (1, classes):
        raise ZSRobustError(f"The module returns logits {shape} for one image; {dataset} needs (1, {classes}).")
    return module


def _last_line(error: str | None) -> str:
    return (error or "").strip().splitlines()[-1]


def evaluate(
    defense: nn.Module | str,
    *,
    attack: str = "pgd10",
    dataset: str,
    suite: str = "mini",
    protocol: str = "sound",
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    checkpoints: str | Path = "checkpoints",
    device: str | None = None,
) -> Result:
    """Evaluate a module or a defense on one dataset and return the result, which is not stored.

    `defense` is any `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K) over the dataset's classes,
    S the input size of the suite's backbone (the dataset's own where the protocol says so); or the spec of a defense,
    trained if its checkpoint is missing from the folder `checkpoints`. A module stays where it is unless `device` says
    otherwise; a defense is on the CPU then. Of the protocol, a module decides prompts, scale, normalization and precision.
    Raises ZSRobustError for unknown names, for data that cannot be had, and for a module or an attack that breaks the
    rules.
    """
    loaded = load_suite(suite)
    bench = Bench(loaded, protocols.load(protocol), Workshop(loaded, Path(checkpoints), device or "cpu"))
    resolved, bare = resolve_attack(attack, loaded, eps)
    name = normalize(defense, defenses) if isinstance(defense, str) else MODULE
    cell = Cell(name, bare, resolved.eps, dataset, _whole(limit, dataset), seed)
    cut, target, knowledge = bench.cut_of(dataset), None, ADAPTIVE
    if isinstance(defense, str):
        tower = bench.workshop.tower(defense)
        classifier, target, knowledge = bench.classifier(cell, tower), bench.target(cell, tower), tower.knowledge
        identity = bench.identify(cell, about(cell, tower))
    else:
        classifier = checked(defense.to(device) if device else defense, bench.images(cell), cut, dataset)
        identity = bench.identify(cell, {"title": type(defense).__name__})
    result, _ = run_cell(
        identity, classifier, bench.attack(cell), bare, bench.images(cell),
        seed=seed, batch_size=bench.batch_size, cut=cut, attacked=bench.protocol.attacked, target=target,
    )  # fmt: skip
    if result.status == "failed":
        raise ZSRobustError(_last_line(result.error))
    _look_for_flags(bench, cell, classifier, target, knowledge, result)
    return result
