"""Suites: what is measured. A suite is a TOML file; users may pass their own files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.values import Bound, Count, Line, Scalar, check
from zsrobust.settings.files import Files

DEFAULT = "paper"

#: Tables of a user's file that are not part of the suite; see `zsrobust.running.entries`.
ENTRIES = ("dataset", "weights")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A backbone, datasets in the order of table columns, and values for attacks and recipes."""

    name: str
    title: Line
    backbone: Line
    train_on: Line
    datasets: Annotated[tuple[Line, ...], Meta(min_length=1, description="a list of datasets")]
    attack: Mapping[str, Any]  #: values for the attacks' fields, `eps` among them
    limits: Mapping[str, Count] = field(default_factory=dict)  #: by attack: size of its subset
    recipe: Mapping[str, Any] = field(default_factory=dict)  #: values for the recipes' fields
    sweep: tuple[Bound, ...] = ()  #: the bounds of Figure 4
    printed: tuple[Line, ...] = ()  #: the paper's tables that report this suite
    asked: str = ""  #: the name or the file that the user gave, for the next command
    calibration: Line | None = None  #: stored values of a right set-up: `zsrobust calibrate`
    second: Line | None = None  #: the suite with the second target dataset, of Tables s1 and s2


#: Types of fields of attacks and recipes; other fields are scalars. Pixels are in [0, 1].
_TYPES: Mapping[str, Any] = {
    "eps": Bound,
    "step_size": Bound,
    "train_on": Line,
    "zoom": float,
    "interpolation": Literal["bicubic", "bilinear"],
    "encoder": Mapping[str, Scalar],
    "prompts": Mapping[str, Scalar],
    "context": Mapping[str, Scalar],
}

_FILES = Files(
    kind="suite", type=Suite, package=__name__, alone=("second", "printed"), others=ENTRIES
)
names = _FILES.names


def firsts() -> dict[str, str]:
    """Return the names of our suites that have a second series, by the name of the series."""
    return {second: name for name in names() if (second := load(name).second)}


def load(name: str) -> Suite:
    """Return a suite by name or by the path of a TOML file, which gives its name.

    Raises ZSRobustError as `Files.load` does, for a repeated dataset, and for attacks without eps.
    """
    suite, where = _FILES.load(name, asked=name), f"The suite {name}"
    for dataset in suite.datasets:
        if suite.datasets.count(dataset) > 1:
            raise ZSRobustError(f"{where}: datasets has {dataset!r} twice; give each dataset once.")
    for section, values in (("attack", suite.attack), ("recipe", suite.recipe)):
        for key, value in values.items():
            check(value, _TYPES.get(key, Scalar), where, path=f"{section}.{key}")
    if "eps" not in suite.attack:
        raise ZSRobustError(f"{where}: attack.eps is missing. Add it: attack = {{eps = '1/255'}}")
    return suite
