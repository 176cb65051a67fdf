"""Printed averages: what a paper or a readme states of a defense, as data. No torch here.

They are claims, as all printed numbers: compared with ours, but never a condition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from zsrobust.core.values import Count, Line, Name

#: A bound as it is printed: "1/255".
Eps = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,2}/255\Z")]
#: Text, because a number would lose the decimals that are printed: "60.0".
Percent = Annotated[
    str,
    Meta(
        pattern=r"\A(100(\.0{1,2})?|[1-9]?[0-9](\.[0-9]{1,2})?)\Z",
        description="a percentage as text, such as '54.17'",
    ),
]
Robust = Annotated[
    Mapping[Eps, Percent],
    Meta(
        min_length=1,
        description="a table of percentages as text by eps, such as {'1/255' = '32.20'}",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """Averages of one defense under one attack, from one source."""

    attack: Line  #: as the source names it
    robust: Robust  #: the average under the attack, by the attack's eps
    clean: Percent | None = None  #: the average without an attack
    datasets: Count  #: number of datasets in the averages
    source: Line  #: where they are printed
    origin: Literal["self-reported", "measured"]  #: by the method's authors, or by others
    grade: Literal["full text", "readme", "third-party note"]  #: how the source was read
    suite: Name | None = None  #: the suite with these datasets and this training set, if one has
    spec: Line | None = None  #: the attack among ours, if one is the same
    note: Line | None = None  #: what a reader must know to compare
