"""Chance: what a classifier scores that always answers one class, and which cells are no better.

Such a classifier is perfectly robust: no attack can change its answer. Its accuracy is the share of
the class that it answers. The best one answers the most frequent class, whose share is never below
1/K with K classes. This share is chance.
"""

from dataclasses import replace
from fractions import Fraction

from zsrobust.core.intervals import wilson
from zsrobust.results.cell import Outcomes, Result

AT_CHANCE = "at_chance"  #: the flag
#: Answers of other classes, as a share of the images of other classes than the most frequent one.
#: If all answers of a class but the most predicted are correct, accuracy is chance plus their
#: share of all images. At or below this bound, accuracy above chance, (accuracy - chance) /
#: (1 - chance), can therefore not exceed 5%. The bound is relative to the labels: if 98% of the
#: images have one class, a perfect classifier answers it for 98%, and raises no flag.
OTHER_ANSWERS = Fraction(1, 20)


def chance(images: int, largest_class: int | None, classes: int | None) -> Fraction | None:
    """Return chance in (0, 1]: the share of the most frequent class.

    Where its number of images is unknown, as in older results, chance is 1/K, which is never above
    the share. Without either, it is None.
    """
    if largest_class is not None and images:
        return Fraction(largest_class, images)
    return Fraction(1, classes) if classes else None


def corrected(accuracy: Fraction, at: Fraction) -> Fraction:
    """Return accuracy above chance, in [0, 1]: (accuracy - chance) / (1 - chance), at least 0.

    An accuracy of 1 stays 1, and chance becomes 0. If all images have one class, chance is 1, and
    the result is 0: such images distinguish no classifier from a constant one.
    """
    return max(Fraction(0), (accuracy - at) / (1 - at)) if at < 1 else Fraction(0)


def is_at_chance(result: Result) -> bool:
    """Return whether a cell is no better than a constant classifier, as far as its counts show.

    It is if the 95% interval (Wilson's) of robust accuracy contains chance, or if nearly all
    answers under attack are one class (`OTHER_ANSWERS`). An interval below chance does not count:
    the attack broke what the classifier knew, and nobody takes this for robustness. A failed cell,
    and an older one without the counts, are not at chance.
    """
    images, largest, predicted = result.images, result.largest_class, result.most_predicted
    if result.status != "ok" or largest is None or predicted is None:
        return False
    low, high = wilson(result.robust_correct, images)
    constant = images - predicted <= OTHER_ANSWERS * (images - largest)
    return constant or low <= largest / images <= high


def completed(result: Result, outcomes: Outcomes | None) -> Result:
    """Return a result with the counts that chance needs, and with the flag if they raise it.

    Both are functions of the outcomes: counts and flag that the result had before are replaced. A
    failed cell has no outcomes and neither count nor flag.
    """
    counts = outcomes.class_counts if outcomes else {"largest_class": None, "most_predicted": None}
    counted = replace(result, **counts)
    others = {flag for flag in result.flags if flag != AT_CHANCE}
    return replace(counted, flags=sorted({*others, AT_CHANCE} if is_at_chance(counted) else others))


def contradictions(result: Result, outcomes: Outcomes) -> list[str]:
    """Return where a result's counts or its flag differ from those of its outcomes, in words.

    Older results without the counts contradict nothing.
    """
    expected = completed(result, outcomes)
    found = [
        f"{name} is {getattr(result, name)}, but its outcomes give {count}"
        for name, count in outcomes.class_counts.items()
        if getattr(result, name) not in (None, count)
    ]
    counted = result.largest_class is not None and result.most_predicted is not None
    raised, stored = (AT_CHANCE in each.flags for each in (expected, result))
    if stored and not raised:
        found.append(f"its outcomes do not raise the flag {AT_CHANCE}")
    if raised and not stored and counted:
        found.append(f"its outcomes raise the flag {AT_CHANCE}, which is missing")
    return found
