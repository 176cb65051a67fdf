"""Seeds: of the attacks and of the trainings, and the mean and deviation of cells over both."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zsrobust.core.specs import join_spec, split_spec
from zsrobust.core.values import missing
from zsrobust.results.identity import DefenseIdentity

if TYPE_CHECKING:
    import pandas as pd

SAME = ["suite", "protocol", "attack", "eps"]  #: cells that are asked for at the same seeds
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
    # Each group is a copy of its columns, and there are thousands of groups.
    frame = frame[[*SAME, "method", "dataset", "limit", "train_seed", "seed", "status", *counts]]
    found = []
    for key, group in frame.groupby(SAME, sort=False):
        drawn = sorted(set(group["seed"])) if seeds is None else list(dict.fromkeys(seeds))
        trained = train_seeds
        if trained is None:
            trained = sorted(set(group["train_seed"].dropna().astype(int)))
        names = ["method", "dataset", "limit"]
        for own, cells in group.groupby(names, sort=False, dropna=False):
            trainings: list[int | None] = list(dict.fromkeys(trained))
            if cells["train_seed"].isna().all():
                trainings = [None]
            expected = [(training, int(seed)) for training in trainings for seed in drawn]
            values: list[Any] = [*key, *own]
            about = dict(zip([*SAME, *names], values, strict=True))
            found.append({**about, **_statistics(cells, expected)})
    columns = [*SAME, "method", "dataset", "limit"]
    columns += [f"{metric}_{name}" for metric in METRICS for name in ("mean", "std")]
    return pd.DataFrame(found, columns=[*columns, "n", "missing"])


def _statistics(
    cells: "pd.DataFrame", expected: Sequence[tuple[int | None, int]]
) -> dict[str, Any]:
    good = cells[cells["status"] == "ok"]
    runs = [
        (None if missing(training) else int(training), int(seed))
        for training, seed in zip(good["train_seed"], good["seed"], strict=True)
    ]
    made: dict[str, Any] = {}
    for metric in METRICS:
        shares = (good[f"{metric}_correct"] / good["images"]).astype(float)
        made |= {f"{metric}_mean": shares.mean(), f"{metric}_std": shares.std(ddof=1)}
    return made | {"n": len(runs), "missing": [each for each in expected if each not in runs]}
