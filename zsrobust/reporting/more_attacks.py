"""Table a1: the attacks that no other table shows, with their bounds and their subset. No torch.

Rows, attacks and images were fixed before a result was seen. The images are those of Table t1.
"""

from typing import NamedTuple

from zsrobust.core.specs import format_eps
from zsrobust.reporting import ranking
from zsrobust.reporting.rows import USUAL, Need
from zsrobust.settings.suites import Suite

#: They were measured in this order.
ROWS = {"clip": "CLIP", "tecoa": "FT-TeCoA", "pmg_aft": "PMG-AFT", "fare": "FARE"}


class Column(NamedTuple):
    """An attack of the table."""

    title: str
    attack: str  #: spec without its eps
    eps: float | None = None  #: None for the suite's own
    targeted: bool = False  #: whether a second column has its success


COLUMNS = (
    Column("PGD-10", USUAL),
    # TI's kernel has 15 of 299 pixels in its paper: 3 of 32.
    Column("MI-DI-TI-NI", "mim:diversity=0.5,kernel=3,nesterov=true"),
    Column("Semantic", "semantic"),
    Column("Other prompt", "prompt_mismatch"),
    Column("Universal", "universal"),
    Column("Random target", "pgd_targeted", targeted=True),
    Column("Least likely target", "pgd_targeted:target=least_likely", targeted=True),
    # Croce and Hein (2021) attack images of 32 pixels a side at 12 in l1.
    Column("PGD-10, l1", "pgd10:norm=l1,step_size=3", 12.0),
    Column("APGD, l1", "apgd:norm=l1", 12.0),
    Column("Patch", "patch", 1 / 8),
)


def need(spec: str, suite: Suite, column: Column) -> Need:
    """Return the cells of a defense under an attack of the table."""
    return ranking.need(spec, suite, column.attack)._replace(eps=column.eps)


def note() -> str:
    """Return the attacks by column, with the bounds that are not the suite's."""
    listed = "; ".join(
        f"{each.title}: {each.attack}"
        + (f" at eps {format_eps(each.eps)}" if each.eps is not None else "")
        for each in COLUMNS
    )
    return (
        f"{listed}. In l1, eps is a sum over the values of an image. Of a patch, it is the side as "
        "a share of the image's side. Numbers under different threats are not comparable. "
        "Success: the share of the attacked images that are predicted as their target; lower is "
        "better. One dataset in four, from the first on. This rule was fixed before a result was "
        "seen."
    )
