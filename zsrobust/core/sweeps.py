"""Several values in one option: ranges of seeds and of bounds, and steps that follow a bound."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import LARGEST, NUMBER, format_eps, parse_eps

MOST = 1000  #: values of one range

_WHOLE = re.compile(r"[+]?[0-9]{1,19}")
_SHARE = re.compile(r"([0-9]{1,19})(?:/([0-9]{1,19}))?")


def parse_seeds(texts: Iterable[str]) -> tuple[int, ...]:
    """Return the seeds of texts such as "3" and "0..4", each once, in their order.

    Raises ZSRobustError for a text that is not a seed or a range of seeds.
    """
    return tuple(dict.fromkeys(seed for text in texts for seed in _seeds(text)))


def format_seeds(seeds: Sequence[int]) -> list[str]:
    """Return the texts of different seeds, runs as ranges: 0..2, 7; it inverts `parse_seeds`."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1 and len(runs[-1]) < MOST:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]


def parse_bounds(texts: Iterable[str]) -> tuple[float, ...]:
    """Return the bounds of texts such as "8/255" and "1/255..8/255", each once, in their order.

    The step of a range is one unit of its denominator. Raises ZSRobustError for a text that is
    not a bound or a range of bounds.
    """
    return tuple(dict.fromkeys(eps for text in texts for eps in _bounds(text)))


def _seeds(text: str) -> Iterable[int]:
    first, dots, last = text.partition("..")
    if not dots:
        return [_seed(text)]
    return _range(text, _seed(first), _seed(last), "0..4")


def _seed(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ZSRobustError(
            f"The seed {_short(text)} is not a whole number of at most 19 digits. "
            "Write one seed, or a range: 0..4"
        )
    if int(text) >= LARGEST:
        raise ZSRobustError(f"The seed {text} is not below 2^63. Choose a smaller one: 0..4")
    return int(text)


def _bounds(text: str) -> Iterable[float]:
    first, dots, last = text.partition("..")
    if not dots:
        return [parse_eps(text, None)]
    ends = [_SHARE.fullmatch(end) for end in (first, last)]
    units = [int(end[2] or 1) if end else 0 for end in ends]
    if units[0] != units[1] or not all(ends) or not units[0]:
        raise ZSRobustError(
            f"The range {_short(text)} does not have two bounds with the same denominator, which "
            "is its step. Write 1/255..8/255, or give each bound by itself: --eps 0.01 --eps 0.02"
        )
    low, high = (int(end[1]) for end in ends if end)
    unit = f"/{units[0]}" if units[0] > 1 else ""
    return [parse_eps(f"{each}{unit}", None) for each in _range(text, low, high, "1/255..8/255")]


def _range(text: str, low: int, high: int, example: str) -> range:
    if high < low:
        raise ZSRobustError(
            f"The range {_short(text)} ends before it begins. Write the smaller end first: "
            f"{example}"
        )
    if high - low >= MOST:
        raise ZSRobustError(
            f"The range {_short(text)} has more than {MOST} values. Write a shorter one: {example}"
        )
    return range(low, high + 1)


@dataclass(frozen=True)
class StepSize:
    """The step of an attack: a number, or a share of the bound."""

    value: Fraction
    relative: bool = False  #: whether it is multiplied by the bound

    @classmethod
    def parse(cls, text: str) -> "StepSize":
        """Return the step of "2/255", of "eps:1/4" or of "eps/4", a quarter of the bound.

        Raises ZSRobustError for other texts, and for steps that are not positive.
        """
        rule = re.fullmatch(r"eps(:|/)(.+)", text)
        number = rule[2] if rule else text
        try:
            value = Fraction(number if NUMBER.fullmatch(number) else "")
            value = 1 / value if rule and rule[1] == "/" else value
            positive = float(value) > 0
        except (ValueError, ArithmeticError):
            positive = False
        if not positive:
            raise ZSRobustError(
                f"The step size {_short(text)} is not a positive number. Write a number such as "
                "2/255, or a share of the bound such as eps:1/4"
            )
        return cls(value, rule is not None)

    def at(self, eps: float) -> str:
        """Return the step at a bound as text: "2/255", or "1/170" for a half of 3/255."""
        exact = self.value * Fraction(format_eps(eps)) if self.relative else self.value
        text = format_eps(float(exact))
        return text if "/" in text or not self.relative else str(exact)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
