"""The formats of a comparison: Markdown and CSV. No torch here."""

import csv
import io
from fractions import Fraction

from tabulate import tabulate

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.reporting.columns import percent, points
from zsrobust.reporting.comparison import LEVEL, Comparison, Line
from zsrobust.reporting.formats import escaped


def render(comparison: Comparison, suffix: str) -> str:
    """Return the comparison in the format of a file suffix; raises ZSRobustError for others."""
    if suffix not in FORMATS:
        raise ZSRobustError(
            f"The suffix {suffix!r} is not a format of comparisons. "
            f"Write to a file that ends in {', '.join(FORMATS)}."
        )
    return FORMATS[suffix](comparison)


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown; significant differences are bold."""
    first, second = comparison.first, comparison.second
    header = ["Dataset", "Images", first, second, "Difference"]
    header += [f"{first} alone", f"{second} alone", "p", "p, Holm"]
    table = tabulate(
        [_entries(line) for line in comparison.lines],
        [escaped(title) for title in header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(header) - 1),
    )
    return "\n\n".join([f"**{comparison.caption}**", table, *_underneath(comparison)]) + "\n"


def _entries(line: Line) -> list[str]:
    difference = points(line.difference)
    return [
        escaped(line.title),
        str(line.images),
        *_shares(line),
        f"**{difference}**" if line.significant else difference,
        str(line.only_first),
        str(line.only_second),
        f"{line.p:.2g}",
        f"{line.adjusted:.2g}",
    ]


def _shares(line: Line) -> list[str]:
    return [percent(Fraction(correct, line.images)) for correct in (line.first, line.second)]


def _underneath(comparison: Comparison) -> list[str]:
    """Return the paragraphs below the table: what is significant, the mean, and the columns."""
    first, second, lines = comparison.first, comparison.second, comparison.lines
    datasets = counted(len(lines), "dataset")
    significant = [line for line in lines if line.significant]
    better = {
        second: [line.title for line in significant if line.difference > 0],
        first: [line.title for line in significant if line.difference < 0],
    }
    listed = "; ".join(f"{who} better on {', '.join(on)}" for who, on in better.items() if on)
    found = [
        f"Significant at {LEVEL:.0%} after Holm's correction over {datasets}: "
        f"{listed or 'no difference'}."
    ]
    mean, interval = comparison.difference, comparison.interval
    if mean is not None and interval is not None:
        low, high = (f"{100 * end:+.2f}" for end in interval)
        found.append(
            f"Mean difference over {datasets}: {points(mean)} points (95% interval: {low} to "
            f"{high}, from a paired bootstrap over the images of each dataset)."
        )
        found.append(_above_chance(comparison))
    else:
        found.append(
            "The mean difference is not printed: it needs all cells of the suite for both "
            "defenses, and one checkpoint for each defense."
        )
    if comparison.apart:
        apart = "; ".join(f"{title}: {why}" for title, why in comparison.apart)
        found.append(f"Not compared: {apart}.")
    found.append(
        f"Difference: {second} minus {first}, in points. Alone: number of images that only this "
        "defense classifies correctly. p: McNemar's exact two-sided test on the same images."
    )
    return found


def _above_chance(comparison: Comparison) -> str:
    """Return the sentence on the means above chance; "" unless all datasets are compared."""
    if comparison.above_chance is None:
        return ""
    first, second = comparison.above_chance
    return (
        f"Above chance: {comparison.first} {percent(first)}, {comparison.second} "
        f"{percent(second)}, difference {points(second - first)} points. These are means of "
        "(accuracy - chance) / (1 - chance), at least 0, and chance is the share of the most "
        "frequent class."
    )


def comma_separated(comparison: Comparison) -> str:
    """Return the comparison as CSV: a line for each dataset, and two for the means."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    first, second = comparison.first, comparison.second
    header = ["Dataset", "Images", first, second, "Difference", "low", "high"]
    writer.writerow([*header, f"{first} alone", f"{second} alone", "p", "p Holm", "significant"])
    for line in comparison.lines:
        shares = [*_shares(line), points(line.difference), "", ""]
        tested = [line.only_first, line.only_second, line.p, line.adjusted]
        significant = "yes" if line.significant else "no"
        writer.writerow([line.title, line.images, *shares, *tested, significant])
    if comparison.difference is not None and comparison.interval is not None:
        ends = [f"{100 * end:+.2f}" for end in comparison.interval]
        writer.writerow(["Mean", "", "", "", points(comparison.difference), *ends, *[""] * 5])
    if comparison.above_chance is not None:
        one, two = comparison.above_chance
        means = [percent(one), percent(two), points(two - one)]
        writer.writerow(["Mean above chance", "", *means, *[""] * 7])
    return out.getvalue()


FORMATS = {".md": markdown, ".csv": comma_separated}
