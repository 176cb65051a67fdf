"""How many passes the probes of `examine` take at most. No probe runs here."""

from typing import NamedTuple

from zsrobust.evaluation.redflags.searches import PROBE, QUERIES, few
from zsrobust.evaluation.redflags.slopes import HALVINGS, RANDOM

#: Forward passes for each of Square's queries, at most. It asks several queries ahead of their
#: turn: twice as many after a round of which 80% counted, half as many after less than 50%. So it
#: sends at most 3 / 0.8 times as many as count.
AHEAD = 4


class Most(NamedTuple):
    """Upper bounds of images through the classifiers of an examination."""

    deployed: int  #: forward through the deployed classifier
    attacked: tuple[int, int] = (0, 0)  #: forward and backward through the attacked one
    undefended: tuple[int, int] = (0, 0)  #: and through the undefended one


def most(images: int, *, gradients: bool, probed: bool = True) -> Most:
    """Return the bounds of `examine` for so many images, reached if every probe runs on all.

    `gradients` is whether the cell's attack takes gradients. Without `probed`, only the outputs are
    measured, as for an oblivious attack.
    """
    outputs = 4 * images + 1
    if not probed:
        return Most(outputs)
    some = few(images)
    square = some * (AHEAD * QUERIES + 1)
    if not gradients:
        square += 2 * some * (AHEAD * PROBE + 2)
    # PGD-10, a huge eps and 8 bits for all; cliffs, three hard searches and `fickle` for some.
    judged = 3 * images + some * (2 + HALVINGS + 3 + 1)
    # Margins, gradients and one step; five more steps; random directions, both ways.
    slopes = (3 + 5 + 2 * RANDOM) * images
    steps = 2 * 10 * images + (90 + 10) * some  # PGD at eps and at a huge one; longer, and alone
    margins = 3 * images + (1 + 3) * some
    return Most(
        deployed=outputs + judged + square,
        attacked=(slopes + margins + steps, 2 * images + steps),
        undefended=(10 * some, 10 * some),
    )
