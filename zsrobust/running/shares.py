"""Shares: with N processes of torchrun, each judges every N-th image of a cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.evaluation.referee import Judged
from zsrobust.results import Outcomes, Samples


def joined(shares: Sequence[Judged]) -> Judged:
    """Return the verdicts of all processes as one; a failed share fails the cell."""
    if len(shares) == 1:
        return shares[0]
    failed = next((share for share in shares if share.failed), None)
    outcomes = None if failed else _outcomes([share.outcomes for share in shares if share.outcomes])
    reached = [share.successes for share in shares if share.successes is not None]
    doubts = [share.disagreements for share in shares if share.disagreements is not None]
    return Judged(
        images=sum(share.images for share in shares),
        clean_correct=0 if failed else sum(share.clean_correct for share in shares),
        robust_correct=0 if failed else sum(share.robust_correct for share in shares),
        successes=sum(reached) if reached and not failed else None,
        outcomes=outcomes,
        samples=_first_shown([share.samples for share in shares], outcomes) if outcomes else None,
        error=failed.error if failed else None,
        tampered=any(share.tampered for share in shares),
        notes=sorted({note for share in shares for note in share.notes}),
        messages=sorted({line for share in shares for line in share.messages or ()}) or None,
        seconds=max(share.seconds for share in shares),
        forward=sum(share.forward for share in shares),
        backward=sum(share.backward for share in shares),
        disagreements=sum(doubts) if doubts else None,
        batch_size=shares[0].batch_size,
        device=f"{shares[0].device} and {len(shares) - 1} more",
    )


def _outcomes(found: Sequence[Outcomes]) -> Outcomes:
    names = ["labels", "clean", "adversarial", "perturbation"]
    if all(each.targets is not None for each in found):
        names.append("targets")
    parts = {name: [getattr(each, name) for each in found] for name in names}
    return Outcomes(**{name: _interleaved(arrays) for name, arrays in parts.items()})


def _interleaved(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return one array; part i of N has its entries i, i + N, i + 2N, ..."""
    whole = np.empty(sum(map(len, parts)), dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def _first_shown(shown: Sequence[Samples | None], outcomes: Outcomes) -> Samples | None:
    """Return the first broken and the first surviving image of the shares' samples."""
    kept: dict[bool, tuple[int, Samples, int]] = {}
    for number, samples in enumerate(shown):
        for index, place in enumerate(samples.positions * len(shown) + number if samples else ()):
            survived = bool(outcomes.adversarial[place] == outcomes.labels[place])
            if samples and (survived not in kept or place < kept[survived][0]):
                kept[survived] = int(place), samples, index
    if not kept:
        return None
    places, sources, indices = zip(*(kept[kind] for kind in sorted(kept)), strict=True)
    scale = max(samples.scale for samples in sources)
    pairs = list(zip(sources, indices, strict=True))
    changes = [samples.change[index] * (samples.scale / scale) for samples, index in pairs]
    return Samples(
        positions=np.array(places, dtype=np.int64),
        pixels=np.stack([samples.pixels[index] for samples, index in pairs]),
        change=np.stack(changes).round().astype(np.int8),
        scale=scale,
    )
