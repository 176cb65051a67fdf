"""PGD on the margin of the logits, which the tables of this field call CW."""

from dataclasses import dataclass, field
from typing import Literal

from zsrobust.attacks import attacks
from zsrobust.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class CW(PGD):
    """PGD on the margin of Carlini & Wagner (S&P 2017, arXiv 1608.04644: f6), as in TeCoA's code.

    That is `attack_CW` of attacks.py beside arXiv 2212.07016, which TGA-ZSR, TTC and others took
    over: not the search for the smallest perturbation of the original, but steps as PGD's on
    -relu(z_y - max_j≠y z_j + 50). The relu is closed only for an image that is wrong by 50; with
    its gradient open, that is the margin.
    """

    loss: Literal["margin"] = field(default="margin", init=False)


attacks.register("cw")(CW())
