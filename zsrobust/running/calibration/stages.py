"""The stages of `zsrobust calibrate`: each returns a verdict on one part of a set-up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.hub import Unreachable
from zsrobust.core.intervals import wilson
from zsrobust.core.specs import format_eps
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.evaluation.redflags.rules import CANARY
from zsrobust.reporting import reported
from zsrobust.reporting.anchors import TOLERANCE, nearest, off
from zsrobust.reporting.columns import ends, percent
from zsrobust.results import Result
from zsrobust.results.cell import versions
from zsrobust.running.calibration.setup import SUBSET, Setup, counts_of
from zsrobust.running.calibration.stored import (
    IMAGES,
    ROUNDOFF,
    SKETCH,
    Counts,
    Trained,
    digest,
    tolerance,
    unpacked,
)

PERMUTATIONS = 999  #: of labels; at most 1% of them may reach the accuracy of the real ones
FALLEN = 5.0  #: percent that the undefended model may keep under PGD, where no value is stored

ALL_IMAGES = "clean accuracy, all images"  #: the title of the stage that must have run

Word = Literal["passed", "doubtful", "failed", "not run"]


@dataclass(frozen=True)
class Verdict:
    """What a stage found."""

    word: Word
    why: str
    next: str = ""  #: the next command, if the stage did not pass


@dataclass(frozen=True)
class Stage:
    """One stage: its title, what it needs, and its judge."""

    title: str
    needs: str
    judge: Callable[[Setup], Verdict]


def examine(setup: Setup, keep_going: bool = False) -> Iterator[tuple[Stage, Verdict]]:
    """Yield the stages with their verdicts, up to the first failure or to the last stage.

    A stage is not run if what it needs is out of reach. An error of another kind fails it.
    """
    for stage in STAGES:
        try:
            verdict = stage.judge(setup)
        except Unreachable as error:
            verdict = Verdict("not run", str(error), f"zsrobust calibrate {setup.options}")
        except ZSRobustError as error:
            verdict = Verdict("failed", str(error), f"zsrobust run {setup.options} --dry-run")
        yield stage, verdict
        if verdict.word == "failed" and not keep_going:
            return


def confirmed(found: Sequence[tuple[Stage, Verdict]]) -> bool:
    """Return whether no stage failed, and clean accuracy on all images was compared."""
    words = {stage.title: verdict.word for stage, verdict in found}
    return "failed" not in words.values() and words[ALL_IMAGES] != "not run"


def _unknown(setup: Setup, what: str) -> Verdict:
    again = f"zsrobust calibrate {setup.options} --store FILE.json"
    return Verdict("not run", f"not known: no {what} stored for this suite", again)


def _device(setup: Setup) -> Verdict:
    """Judge a matrix product on the device: float32, and not a shorter format in its place."""
    size, device = 512, setup.bench.workshop.device
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    found = (left.to(device) @ right.to(device)).cpu().double()
    scale = left.double().abs() @ right.double().abs()
    off_by = float(((found - left.double() @ right.double()).abs() / scale).max())
    known = ", ".join(f"{name} {number}" for name, number in versions().items())
    about = f"{known}; {device}"
    # The worst case of a sum of n products, n u: Higham (2002), section 3.1.
    if off_by > size * ROUNDOFF:
        return Verdict(
            "failed",
            f"{about} multiplies with relative error {off_by:.0e}, float32 has {ROUNDOFF:.0e}",
            f"zsrobust calibrate {setup.options} --device cpu",
        )
    return Verdict("passed", about)


def _weights(setup: Setup) -> Verdict:
    found = setup.bench.workshop.clip.digest
    if setup.known is None:
        unknown = _unknown(setup, "digest")
        return Verdict("not run", f"{unknown.why}; here it is {found[:12]}", unknown.next)
    if found != setup.known.weights:
        return Verdict(
            "failed",
            f"weights, activation or preprocessing have the sha256 {found[:12]}, stored is "
            f"{setup.known.weights[:12]}: {setup.bench.suite.backbone}",
            "zsrobust list suites",
        )
    return Verdict("passed", f"sha256 {found[:12]}, as stored")


def _texts(setup: Setup) -> Verdict:
    names = [name for name in setup.names if setup.on(name)]
    if not names:
        return _unknown(setup, "text head is")
    limit, least, classes = tolerance(_text_tower(setup)), 1.0, 0
    for name in names:
        known, rows = setup.on(name), setup.head(name)[:, :SKETCH].cpu()
        assert known is not None
        stored = unpacked(known.texts, len(rows))
        near = F.cosine_similarity(rows, stored)
        far = torch.nonzero((rows - stored).norm(dim=1) > limit).flatten().tolist()
        if far:
            prompt = datasets[name].prompts(setup.bench.protocol.prompts)[far[0]][0]
            return Verdict(
                "failed",
                f"{len(far)} of {len(rows)} classes of {name} have another text; cosine "
                f"{near[far[0]]:.3f} for {prompt!r}",
                "zsrobust list protocols",
            )
        least, classes = min(least, float(near.min())), classes + len(rows)
    return Verdict("passed", f"{classes} classes, cosine at least {least:.6f}")


def _text_tower(setup: Setup) -> torch.nn.Module:
    """Return the weights of the text tower: all of CLIP's, if it is no module of its own."""
    model: torch.nn.Module = setup.bench.workshop.clip.model
    text = getattr(model, "text", None) or getattr(model, "transformer", None)
    return text if isinstance(text, torch.nn.Module) else model


def _labels(setup: Setup) -> Verdict:
    """Judge labels by their stored digest, and by a permutation test of clean accuracy."""
    again = f"zsrobust data {setup.options}"
    accuracies = []
    for name in setup.names:
        cell = setup.cell(name, SUBSET)
        predicted = setup.predictions(cell).cpu().numpy()
        labels = setup.bench.images(cell).labels
        known, own = setup.on(name), digest(setup.bench.images(setup.cell(name)).labels)
        if known and known.labels != own:
            return Verdict("failed", f"the labels of {name} are not those stored", again)
        right = int((predicted == labels).sum())
        draws = np.random.default_rng(0)
        reached = sum(
            int((predicted == draws.permutation(labels)).sum()) >= right
            for _ in range(PERMUTATIONS)
        )
        p = (1 + reached) / (1 + PERMUTATIONS)
        if p > 0.01:
            return Verdict(
                "failed",
                f"the labels of {name} fit the images no better than permuted ones, p {p:.2f}: "
                f"{right} of {len(labels)} are right",
                again,
            )
        accuracies.append(f"{right} of {len(labels)} right on {name}, p {p:.3f}")
    return Verdict("passed", f"better than permuted labels: {'; '.join(accuracies)}")


def _embeddings(setup: Setup) -> Verdict:
    names = [name for name in setup.names if setup.on(name)]
    if not names:
        return _unknown(setup, "embeddings are")
    limit, most = tolerance(setup.bench.workshop.clip.encoder), 0.0
    for name in names:
        known, rows = setup.on(name), setup.embeddings(name).cpu()
        assert known is not None
        far = float((rows - unpacked(known.embeddings, len(rows))).norm(dim=1).max())
        if far > limit:
            return Verdict(
                "failed",
                f"embeddings of {name} are {far:.1e} from the stored ones, float32 explains "
                f"{limit:.1e}: pixels, normalization or precision differ",
                "zsrobust list protocols",
            )
        most = max(most, far)
    images = counted(IMAGES * len(names), "image")
    return Verdict("passed", f"{images} within {most:.1e} of the stored ones, allowed {limit:.1e}")


def compare(
    correct: int, images: int, theirs: Decimal, allowed: float, doubtful: float | None = None
) -> Word:
    """Return the verdict on an accuracy beside another one, in percent.

    It passes if the other one is within `allowed` points of our Wilson 95% interval, and is
    doubtful within `doubtful` points: twice as many, if not given.
    """
    beyond = off(correct, images, theirs)
    if beyond <= allowed:
        return "passed"
    return "doubtful" if beyond <= (2 * allowed if doubtful is None else doubtful) else "failed"


#: From the best to the worst: a stage has the worst word of its datasets.
_ORDER: tuple[Word, ...] = ("passed", "not run", "doubtful", "failed")


def _worst(words: Sequence[Word]) -> Word:
    return max(words, key=_ORDER.index)


def _clean(setup: Setup, limit: int | None) -> Verdict:
    words: list[Word] = []
    lines = []
    for name in setup.names:
        result = setup.result(setup.cell(name, limit))
        counts, known = (result.clean_correct, result.images), setup.on(name)
        anchors = reported.anchors(setup.bench.suite.backbone, name)
        line = f"{name} {percent(Fraction(*counts))} ({ends(wilson(*counts))})"
        if known is not None:
            theirs = _share(known.clip.clean, known.clip.images)
            words.append(compare(*counts, theirs, 0))
            lines.append(f"{line}, stored {theirs:.2f}")
        elif anchors:
            anchor = nearest(*counts, anchors)
            words.append(compare(*counts, anchor.percent, TOLERANCE))
            lines.append(f"{line}, anchor {anchor.percent}")
        else:
            words.append("not run")
            lines.append(f"{line}, nothing known")
    return Verdict(_worst(words), "; ".join(lines), _beside_anchors(setup))


def _beside_anchors(setup: Setup) -> str:
    return f"zsrobust check {setup.store.folder} --against anchors {setup.options}"


def _share(correct: int, images: int) -> Decimal:
    return Decimal(100 * correct) / images


def _falls(setup: Setup) -> Verdict:
    words: list[Word] = []
    lines = []
    for name in setup.names:
        counts, known = setup.counts(name), setup.on(name)
        left = 100 * counts.robust / counts.images
        line = f"{name} {percent(Fraction(counts.robust, counts.images))}"
        if known is not None:
            theirs = _share(known.clip.robust, known.clip.images)
            words.append(compare(counts.robust, counts.images, theirs, 0))
            line += f", stored {theirs:.2f}"
        elif left <= FALLEN:
            words.append("passed")
        else:
            words.append("doubtful" if left <= 100 * CANARY else "failed")
        lines.append(line)
    eps = format_eps(setup.bench.suite.attack["eps"])
    again = f"zsrobust doctor {setup.options} --dataset {setup.names[0]}"
    return Verdict(_worst(words), f"robust at {eps}: {'; '.join(lines)}", again)


def _robust(setup: Setup) -> Verdict:
    spec = setup.defense
    if spec is None:
        return Verdict("not run", "no published checkpoint belongs to this backbone")
    recipe = defenses.create(spec).recipe_for(setup.bench.suite)
    if recipe is not None and not setup.bench.workshop.checkpoint_path(recipe).exists():
        train = f"zsrobust train {spec} {setup.options}"
        return Verdict("not run", f"the checkpoint of {spec} is not at hand", train)
    found = {name: setup.result(setup.cell(name, None, spec)) for name in setup.names}
    stored = setup.known.trained.get(spec) if setup.known else None
    if stored is not None:
        word, why = beside_stored(found, stored)
        again = f"zsrobust doctor {setup.options} --defense {spec} --dataset {setup.names[0]}"
        return Verdict(word, f"{spec}, {why}", again)
    words: list[Word] = []
    lines = []
    for name, result in found.items():
        counts, plain = counts_of(result), setup.counts(name)
        words.append("doubtful" if counts.robust > plain.robust else "failed")
        lines.append(f"{_printed(name, counts)}, its authors print an average over other datasets")
    return Verdict(_worst(words), f"{spec}: {'; '.join(lines)}", _beside_anchors(setup))


def beside_stored(found: Mapping[str, Result], stored: Trained) -> tuple[Word, str]:
    """Return the verdict on a checkpoint's results by dataset beside stored counts, and a line.

    Stored numbers lie in our intervals. If they are of another training, which differs in its last
    bits at least, they are doubtful up to TOLERANCE points outside.
    """
    same = all(result.identity.deployed == stored.deployed for result in found.values())
    words: list[Word] = []
    lines = []
    for name, result in found.items():
        ours, theirs = counts_of(result), stored.counts.get(name)
        if theirs is None:
            words.append("not run")
            lines.append(f"{_printed(name, ours)}, nothing known")
            continue
        shares = [_share(count, theirs.images) for count in (theirs.clean, theirs.robust)]
        for count, share in zip((ours.clean, ours.robust), shares, strict=True):
            words.append(compare(count, ours.images, share, 0, 0 if same else TOLERANCE))
        lines.append(f"{_printed(name, ours)}, stored {shares[0]:.2f} and {shares[1]:.2f}")
    weights = "the same weights" if same else "another training"
    return _worst(words), f"{weights}: {'; '.join(lines)}"


def _printed(name: str, counts: Counts) -> str:
    clean, robust = (
        percent(Fraction(count, counts.images)) for count in (counts.clean, counts.robust)
    )
    return f"{name} {clean} clean, {robust} robust"


STAGES = (
    Stage("versions and device", "nothing", _device),
    Stage("weights", "the backbone's weights", _weights),
    Stage("class texts", "the weights, stored values", _texts),
    Stage("labels", "the weights, the images", _labels),
    Stage("image embeddings", "the weights, the images, stored values", _embeddings),
    Stage(
        f"clean accuracy, {SUBSET} images",
        "the weights, the images; PGD-10 runs along",
        lambda setup: _clean(setup, SUBSET),
    ),
    Stage(
        ALL_IMAGES,
        "the weights, the images; PGD-10 runs along",
        lambda setup: _clean(setup, None),
    ),
    Stage("the undefended model falls", "the cells of the stage before", _falls),
    Stage("a robust checkpoint", "its weights, and PGD-10 on all images", _robust),
)
