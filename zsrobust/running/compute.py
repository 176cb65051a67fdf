"""Compute a cell: judge its images, examine a sample for red flags, build and store the result."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from zsrobust import results
from zsrobust.core.errors import one_line
from zsrobust.defenses import Tower
from zsrobust.evaluation.meter import Sampler, device_of
from zsrobust.evaluation.redflags.measurements import examine
from zsrobust.evaluation.redflags.rules import raised
from zsrobust.evaluation.redflags.sample import size_of
from zsrobust.evaluation.referee import Judged, run_case
from zsrobust.models.randomized import parse_judged
from zsrobust.results import Result
from zsrobust.results.cell import versions
from zsrobust.results.chance import completed
from zsrobust.results.flags import NOT_COMPUTED
from zsrobust.results.identity import Identity
from zsrobust.running.bench import Bench, Deployed
from zsrobust.running.costs.model import predicted
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.running.shares import joined
from zsrobust.training import ranks
from zsrobust.training.memory import with_peak_bytes

IMAGES = 8  #: that a defense's cost is measured on


class Examined(NamedTuple):
    """The measurements of a small sample, and the names of the red flags."""

    checks: dict[str, float] | None = None
    flags: Sequence[str] = ()
    messages: Sequence[str] = ()


class Computed(NamedTuple):
    """The stored result of a cell, and whether its attack changed the weights that judged it."""

    result: Result
    tampered: bool


def compute(
    bench: Bench, cell: Cell, identity: Identity, tower: Tower, folder: Path, reporter: Reporter
) -> Computed:
    """Return the result of a cell, computed and stored now; each process judges its share."""
    shares = min(ranks.size(), len(bench.images(cell)))
    judged = deployed = None
    if ranks.rank() < shares:
        deployed = bench.deploy(cell, tower)
        judged = judge(bench, cell, deployed, reporter, shares)
    parts = ranks.gathered(judged)

    def store() -> Computed:
        whole = joined([part for part in parts if part is not None])
        examined = examine_cell(bench, cell, deployed, whole, reporter) if deployed else Examined()
        bound = predicted(bench, cell, shares)
        reporter.finishing(cell, "measuring its cost at test time")
        spent = cost_at_test_time(bench, cell, tower, deployed) if deployed else None
        result = build_result(identity, whole, examined, tower.training, bound, spent)
        outcomes = None
        if whole.outcomes is not None:
            classes = np.array(cell.dataset.classes)
            outcomes = dataclasses.replace(whole.outcomes, classes=classes)
        reporter.finishing(cell, "hashing and storing")
        results.write(result, outcomes, folder, whole.samples)
        return Computed(result, whole.tampered)

    return ranks.decided(store)


def judge(
    bench: Bench, cell: Cell, deployed: Deployed, reporter: Reporter, shares: int = 1
) -> Judged:
    """Return the referee's verdict on a cell's images, or on this process's share of them."""
    images, reported = bench.images(cell), 0
    if shares > 1:
        images = images.at(np.arange(ranks.rank(), len(images), shares))

    def progress(done: int, total: int) -> None:
        nonlocal reported
        reporter.judged(cell, done * shares - reported)  # the other processes are about as far
        reported = done * shares

    sampler = Sampler() if cell.dataset.may_be_shown else None
    judged = run_case(bench.case(cell, deployed, images), progress, sampler)
    reporter.judged(cell, len(bench.images(cell)) - reported)
    return judged


def examine_cell(
    bench: Bench, cell: Cell, deployed: Deployed, judged: Judged, reporter: Reporter | None = None
) -> Examined:
    """Return the red flags of a small sample; an error there does not fail the cell.

    Of `judged` it reads whether the cell failed, the outcomes of all images, and the batch size.
    """
    if judged.failed:
        return Examined()
    device = device_of(deployed.classifier)
    sample = bench.sample(cell, size_of(bench.cut.side), device)
    survived = None
    if judged.outcomes is not None:
        robust = judged.outcomes.right(bench.protocol.attacked == "all").robust
        survived = torch.from_numpy(robust[bench.places(cell, len(sample.labels))]).to(device)
    try:
        checks = examine(
            deployed.classifier,
            cell.attack,
            *sample,
            target=deployed.target,
            knowledge="oblivious" if cell.attack.blind else deployed.knowledge,
            batch_size=judged.batch_size,
            survived=survived,
            undefended=bench.undefended(cell),
            progress=partial(_examining, reporter or Reporter(), cell),
            kept=bench.probed[cell.key.defense, cell.key.dataset, cell.key.limit, cell.key.seed],
        )
    except Exception as error:
        reason = one_line(f"Red flags were not computed: {type(error).__name__}: {error}")
        return Examined(None, [NOT_COMPUTED], [reason])
    return Examined(checks, raised(checks))


@torch.no_grad()
def cost_at_test_time(
    bench: Bench, cell: Cell, tower: Tower, deployed: Deployed
) -> dict[str, float] | None:
    """Return what a test-time defense costs, measured on eight images at most; see `Result.cost`.

    None for other defenses, and for one that raises. Seconds are the least of three measurements.
    """
    if tower.wrapper is None or cell.defense is None:
        return None
    device = device_of(deployed.classifier)
    pixels = bench.sample(cell, IMAGES, device).pixels
    plain = bench.ready(bench.plain(cell, tower))
    try:
        seconds = [_seconds(module, pixels) for module in (deployed.classifier, plain)]
        memory = with_peak_bytes(lambda: deployed.classifier(pixels[:1]), device)[1]
    except Exception:  # the referee's verdict stands; what it costs is unknown
        return None
    names = ("passes", "seconds", "plain_seconds", "memory")
    passes = cell.defense.passes * parse_judged(tower.wrapper.judged)[1]
    return dict(zip(names, (passes, *seconds, memory), strict=True))


def _seconds(module: nn.Module, pixels: torch.Tensor) -> float:
    """Return the seconds of one image in a batch, the least of three."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        module(pixels).sum().item()  # which waits for the device
        found.append((time.perf_counter() - started) / len(pixels))
    return round(min(found), 6)


def _examining(reporter: Reporter, cell: Cell, name: str, done: int, total: int) -> None:
    reporter.finishing(
        cell, f"looking for red flags: {name}, step {min(done + 1, total)} of {total}"
    )


def build_result(
    identity: Identity,
    judged: Judged,
    examined: Examined,
    training: dict[str, Any] | None = None,
    bound: dict[str, float] | None = None,
    cost: dict[str, float] | None = None,
) -> Result:
    """Return the result of a cell, with the counts that chance needs and their flag."""
    messages = sorted({*(judged.messages or ()), *examined.messages})
    result = Result(
        identity=identity,
        status="failed" if judged.failed else "ok",
        images=judged.images,
        clean_correct=judged.clean_correct,
        robust_correct=judged.robust_correct,
        successes=judged.successes,
        flags=sorted({*judged.notes, *examined.flags}),
        seconds=judged.seconds,
        forward=judged.forward,
        backward=judged.backward,
        training=training or {},
        device=judged.device,
        versions=versions(),
        error=judged.error,
        disagreements=judged.disagreements,
        batch_size=judged.batch_size,
        predicted=bound,
        checks=examined.checks,
        cost=cost,
        messages=messages or None,
    )
    return completed(result, judged.outcomes)
