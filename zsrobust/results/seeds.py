"""Seeds: of the attacks and of the trainings, and the mean and deviation of cells over both."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zsrobust.core.specs import join_spec, split_spec
from zsrobust.core.values import missing
from zsrobust.results.identity import DefenseIdentity

if TYPE_CHECKING:
    import pandas as pd

SAME = ["suite", "protocol", "attack", "eps"]  #: cells that are asked for at the same seeds
OWN = ["method", "dataset", "limit"]  #: what all runs of a row share beside these
METRICS = ("clean", "robust")


def train_seed(defense: DefenseIdentity) -> int | None:
    """Return the seed of a defense's training.

    A defense without a training of its own has that of the defenses it is around. None if nothing
    is trained, or if those have different seeds.
    """
    found = _seeds(defense.details)
    return found.pop() if len(found) == 1 else None


def method(defense: DefenseIdentity) -> str:
    """Return the spec of a defense without its training seed."""
    if train_seed(defense) is None:
        return defense.spec
    wrapper = defense.details.get("wrapper")
    return _without(defense.spec, isinstance(wrapper, Mapping) and "seed" in wrapper)


def _seeds(details: Mapping[str, Any]) -> set[int]:
    recipe = details.get("recipe")
    if isinstance(recipe, Mapping):
        seed = recipe.get("seed", 0)
        return {seed} if isinstance(seed, int) else set()
    towers = details.get("towers")
    members = towers.values() if isinstance(towers, Mapping) else ()
    return {seed for inner in members for seed in _seeds(inner)}


def _without(spec: str, random: bool) -> str:
    """Return a spec without its training seed; `random`: its own seed is another one."""
    name, fields = split_spec(spec)
    if not random and "seed" in fields:
        del fields["seed"]
    elif "of" in fields and "+" not in fields["of"]:
        fields["of"] = _without(fields["of"], random=False)
    return join_spec(name, fields)


def over_seeds(
    frame: "pd.DataFrame",
    *,
    seeds: Sequence[int] | None = None,
    train_seeds: Sequence[int] | None = None,
) -> "pd.DataFrame":
    """Return a DataFrame with one row for each method, attack, eps and dataset, over all seeds.

    `frame` is that of `load_results`. `seeds` and `train_seeds` are the seeds of the attacks and of
    the trainings to expect; by default, those that any method has under the same suite, protocol,
    attack and eps. Every combination is one run, and a method without training has one training.

    Columns: suite protocol attack eps method dataset limit clean_mean clean_std robust_mean
    robust_std n missing. Means are of accuracies in [0, 1], and `_std` is the sample standard
    deviation, NaN for one run. `n` is the number of runs. `missing` lists the combinations without
    a cell, or with a failed one, as pairs of training seed, or None, and seed.
    """
    import pandas as pd  # half a second, which a command without tables does not need

    if seeds is not None:
        frame = frame[frame["seed"].isin(seeds)]
    if train_seeds is not None:
        frame = frame[frame["train_seed"].isin(train_seeds) | frame["train_seed"].isna()]
    counts = ["images", *(f"{metric}_correct" for metric in METRICS)]
    frame = frame[[*SAME, *OWN, "train_seed", "seed", "status", *counts]]
    # Plain lists: pandas takes a millisecond for each of the thousands of groups.
    asked: dict[tuple[Any, ...], dict[tuple[Any, ...], list[dict[Hashable, Any]]]] = {}
    for cell in frame.to_dict("records"):
        same, own = (tuple(_key(cell[name]) for name in names) for names in (SAME, OWN))
        asked.setdefault(same, {}).setdefault(own, []).append(cell)
    found = []
    for key, rows in asked.items():
        group = [cell for cells in rows.values() for cell in cells]
        drawn = (
            sorted({cell["seed"] for cell in group}) if seeds is None else [*dict.fromkeys(seeds)]
        )
        trained = train_seeds
        if trained is None:
            known = (cell["train_seed"] for cell in group)
            trained = sorted({int(seed) for seed in known if not missing(seed)})
        for own, cells in rows.items():
            trainings: list[int | None] = list(dict.fromkeys(trained))
            if all(missing(cell["train_seed"]) for cell in cells):
                trainings = [None]
            expected = [(training, int(seed)) for training in trainings for seed in drawn]
            about = dict(zip([*SAME, *OWN], [*key, *own], strict=True))
            found.append({**about, **_statistics(cells, expected)})
    columns = [*SAME, *OWN]
    columns += [f"{metric}_{name}" for metric in METRICS for name in ("mean", "std")]
    return pd.DataFrame(found, columns=[*columns, "n", "missing"])


def _key(value: Any) -> Any:
    return math.nan if missing(value) else value  # the one NaN that is found again in a dictionary


def _statistics(
    cells: Sequence[Mapping[Hashable, Any]], expected: Sequence[tuple[int | None, int]]
) -> dict[str, Any]:
    good = [cell for cell in cells if cell["status"] == "ok"]
    runs = {
        (None if missing(cell["train_seed"]) else int(cell["train_seed"]), int(cell["seed"]))
        for cell in good
    }
    made: dict[str, Any] = {}
    for metric in METRICS:
        shares = np.array([cell[f"{metric}_correct"] / cell["images"] for cell in good])
        made |= {
            f"{metric}_mean": shares.mean() if good else math.nan,
            f"{metric}_std": shares.std(ddof=1) if len(good) > 1 else math.nan,
        }
    return made | {"n": len(good), "missing": [each for each in expected if each not in runs]}
