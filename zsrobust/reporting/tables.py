"""Tables that mirror the paper's: a pure function of the stored results. No torch here."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pandas as pd
from tabulate import tabulate

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.reporting import reported
from zsrobust.reporting.rows import Metric, Need, Row, rows
from zsrobust.reporting.statistics import wilson
from zsrobust.results.selection import Selection
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

DASH = "—"

#: The paper's rows, in its order, with their titles.
ROWS = {
    "clip": "CLIP",
    "ft_standard": "FT-Standard",
    "tecoa": "FT-TeCoA",
    "pmg_aft": "PMG-AFT",
    "vpt_tecoa": "VPT-TeCoA",
    "vpt_pmg_aft": "VPT-PMG-AFT",
}

MIXED = "The cells of this row are of different checkpoints, attacks or switches of the protocol; run them again for a mean."


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, or one that goes with them: which cells it shows."""

    caption: str
    metrics: tuple[Metric, ...] = ("robust",)
    attack: str = (
        "pgd10"  #: the attack whose cells it reads; clean accuracy comes from the same cells
    )
    rows: Mapping[str, str] = field(default_factory=lambda: ROWS)  #: title by the defense's spec
    by_dataset: bool = True  #: a column a dataset; else the averages alone
    second: bool = False  #: over the suite's second, which has another target dataset
    note: str = ""  #: what its rows mean


TABLES = {
    "1": Table("Zero-shot robust accuracy (%) under PGD-10"),
    "2": Table("Zero-shot clean accuracy (%)", ("clean",)),
    "3": Table(
        "Zero-shot robust accuracy (%) under AutoAttack",
        attack="autoattack",
        rows={name: ROWS[name] for name in ("clip", "tecoa", "pmg_aft")},
    ),
    "4": Table(
        "The terms of the loss: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "FT-TeCoA (α = 0, β = 0)",
            "pmg_aft:beta=0": "+ L_general (α = 1, β = 0)",
            "pmg_aft": "+ L_general + L_clean (α = 1, β = 1)",
        },
        by_dataset=False,
    ),
    "5": Table(
        "Where L_general is taken, and its distance: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "pmg_aft": "Output + KL",
            "pmg_aft:distance=l2": "Output + L2",
            "pmg_aft:distance=l2,layer=feature": "Feature + L2",
            "pmg_aft:distance=cosine,layer=feature": "Feature + cosine",
        },
        by_dataset=False,
    ),
    "s1": Table("Second target dataset: zero-shot robust accuracy (%) under PGD-10", second=True),
    "s2": Table("Second target dataset: zero-shot clean accuracy (%)", ("clean",), second=True),
    "t1": Table(
        "Test-time defenses around FT-TeCoA: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "FT-TeCoA",
            "tte:of=tecoa": "+ TTE, adaptive",
            "tte:knowledge=oblivious,of=tecoa": "+ TTE, oblivious",
            "ttc:of=tecoa": "+ TTC, adaptive",
            "ttc:knowledge=oblivious,of=tecoa": "+ TTC, oblivious",
        },
        by_dataset=False,
        note="adaptive: the attack sees the test-time defense. oblivious: it sees FT-TeCoA alone, and the number says "
        "nothing of an attacker who knows what is deployed.",
    ),
}


@dataclass
class Entry:
    """One printed number, or a dash where the cell is missing or failed."""

    text: str = DASH
    share: Fraction | None = None  #: what it was printed from, if it is an accuracy of ours
    interval: tuple[float, float] | None = None  #: 95%, in [0, 1]
    best: bool = False
    notes: list[int] = field(default_factory=list)  #: numbers of the footnotes


@dataclass
class Page:
    """A table ready to print."""

    caption: str
    header: list[str]
    rows: list[tuple[str, list[Entry]]]
    lines: list[str]  #: what stands underneath
    notes: list[str]  #: the footnotes, from number 1
    intervals: bool = False


def percent(share: Fraction) -> str:
    """Return a share as percent with two decimals, rounded half to even, once."""
    return str(_two_decimals(share * 100))


def _two_decimals(number: Fraction) -> Decimal:
    hundredths = round(number * 100)  # of a Fraction: exact, half to even
    return Decimal(hundredths).scaleb(-2).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)


def find(number: str) -> Table:
    """Return a table by its number; raises ZSRobustError for one that does not exist."""
    if number not in TABLES:
        raise ZSRobustError(
            f"There is no table {number!r}. Tables: {', '.join(TABLES)}. Try: zsrobust table 1 --suite mini"
        )
    return TABLES[number]


def needs(number: str) -> list[Need]:
    """Return the rows of cells that a table is made of."""
    table = find(number)
    return [Need(defense, table.attack) for defense in table.rows]


def suite_name(number: str, suite: Suite) -> str:
    """Return the name of the suite that a table is made from; raises ZSRobustError if the suite names no second."""
    if not find(number).second or suite.name in suites.firsts():
        return suite.name
    if suite.second is None:
        raise ZSRobustError(
            f"The suite {suite.name} has no second target dataset for Table {number}. Try: zsrobust table 1"
        )
    return suite.second


def build(
    number: str,
    results: pd.DataFrame,
    selection: Selection,
    *,
    intervals: bool = False,
    compare: bool = False,
    more: Sequence[str] = (),
) -> Page:
    """Return one of the paper's tables over the selected cells, from the DataFrame of `load_results`.

    The attack is the table's own, whatever the selection names; for its suite see `suite_name`. A mean is printed
    only in complete rows. `intervals` adds 95% ones: Wilson's for accuracies, a bootstrap's for means. `compare`
    adds what the paper printed, the difference, and what is doubtful about it. `more` holds defenses beyond the paper's.
    Raises ZSRobustError for a table that does not exist, and where there is nothing to show, or to compare with.
    """
    table = find(number)
    selection = replace(selection, attack=table.attack)
    suite, eps = selection.suite, selection.bound
    cells = selection.cells(results)
    chosen = {**table.rows, **_more(more, cells, table, selection)}
    cells = cells[cells["defense"].isin(list(chosen))]
    if cells.empty:
        raise _nothing(number, table, selection)
    own = results[results["suite"] == suite.name]
    titles = dict(zip(own["dataset"], own["dataset_title"], strict=True))
    found = rows(cells, suite)
    page = Page(
        caption=f"Table {number}. {table.caption}, {suite.name} suite, eps {eps}.",
        header=["Method", *_header(table, suite, titles)],
        rows=[],
        lines=_underneath(cells, suite, table, eps, titles, selection.protocol, intervals),
        notes=[],
        intervals=intervals,
    )
    ours = {spec: _entries(found.get(spec, Row(suite, {})), table, page) for spec in chosen}
    rivals = [
        entries for spec, entries in ours.items() if spec not in found or not found[spec].oblivious
    ]
    _mark_best(rivals, len(page.header) - 1 if table.by_dataset else 0)
    for spec, entries in ours.items():
        page.rows.append((chosen[spec], entries))
        if compare:
            page.rows += _compared(number, table, suite, spec, entries, page, eps)
    if compare and len(page.rows) == len(ours):
        raise ZSRobustError(
            f"The paper prints nothing to compare Table {number} of the suite {suite.name} at eps {eps} with. Its numbers "
            "are of the suites paper and paper_cifar100, at 1/255."
        )
    if compare:
        page.lines.append(
            "paper: as printed in arXiv 2401.04350, claims to compare with; difference: ours minus theirs."
        )
    return page


def _nothing(number: str, table: Table, selection: Selection) -> ZSRobustError:
    subset = f", subsets of {selection.limit} images" if selection.limit else ""
    return ZSRobustError(
        f"Table {number} cannot be built: no cell of its rows under {table.attack}, suite {selection.suite.name}, protocol "
        f"{selection.protocol}, eps {selection.bound}, seed {selection.seed}{subset} is stored. "
        f"Next: {selection.command(list(table.rows), table=number)}"
    )


def _more(
    specs: Sequence[str], cells: pd.DataFrame, table: Table, selection: Selection
) -> dict[str, str]:
    """Return the titles of further rows, with the spec where another row has the title."""
    known = dict(zip(cells["defense"], cells["defense_title"], strict=True))
    for spec in specs:
        if spec not in known:
            raise suggest(
                "defense among these results:",
                spec,
                list(known),
                f"Next: {selection.command([spec])}",
            )
    taken = [*table.rows.values(), *(known[spec] for spec in specs)]
    return {
        spec: f"{known[spec]} ({spec})" if taken.count(known[spec]) > 1 else known[spec]
        for spec in specs
    }


def _header(table: Table, suite: Suite, titles: Mapping[str, str]) -> list[str]:
    if not table.by_dataset:
        return [
            f"{metric.capitalize()}{kind}"
            for metric in table.metrics
            for kind in ("", ", zero-shot")
        ]
    return [
        *(titles.get(name, name) for name in suite.datasets),
        "Average",
        "Zero-shot",
        "Time (s)",
    ]


def _entries(row: Row, table: Table, page: Page) -> list[Entry]:
    if not table.by_dataset:
        means = [
            _mean(row, metric, zero_shot, page)
            for metric in table.metrics
            for zero_shot in (False, True)
        ]
        flags = sorted({flag for cell in row.cells.values() for flag in cell["flags"]})
        means[-2].notes += [
            _note(flag, page) for flag in flags
        ]  # the robust mean: its cells are not there to bear them
        return means
    (metric,) = table.metrics
    times = [
        seconds
        for seconds in (cell["epoch_seconds"] for cell in row.cells.values())
        if not pd.isna(seconds)
    ]
    time = Entry(f"{times[0]:.1f}") if times else Entry()
    means = [_mean(row, metric, zero_shot, page) for zero_shot in (False, True)]
    return [*(_accuracy(row, name, metric, page) for name in row.suite.datasets), *means, time]


def _accuracy(row: Row, dataset: str, metric: Metric, page: Page) -> Entry:
    marks = (
        [_note(flag, page) for flag in row.cells[dataset]["flags"]] if dataset in row.cells else []
    )
    counts = row.counts(dataset, metric)
    if counts is None:
        return Entry(notes=marks)
    share = Fraction(*counts)
    return Entry(percent(share), share, wilson(*counts) if page.intervals else None, notes=marks)


def _mean(row: Row, metric: Metric, zero_shot: bool, page: Page) -> Entry:
    mean = row.mean(metric, zero_shot)
    if mean is None:
        return Entry(notes=[_note(MIXED, page)] if row.mixed else [])
    return Entry(percent(mean), mean, row.interval(metric, zero_shot) if page.intervals else None)


def _note(note: str, page: Page) -> int:
    """Return the number of a footnote, added to the others if it is new."""
    if note not in page.notes:
        page.notes.append(note)
    return page.notes.index(note) + 1


def _mark_best(found: Sequence[list[Entry]], columns: int) -> None:
    for column in list(zip(*found, strict=True))[:columns]:
        shares = [entry.share for entry in column if entry.share is not None]
        for entry in column:
            entry.best = len(shares) > 1 and entry.share is not None and entry.share == max(shares)


def _compared(
    number: str, table: Table, suite: Suite, spec: str, ours: list[Entry], page: Page, eps: str
) -> list[tuple[str, list[Entry]]]:
    """Return what the paper prints beside a row of ours, and the difference; nothing where it prints nothing."""
    if table.by_dataset:
        claims = [reported.cell(number, spec, name) for name in suite.datasets] + [
            reported.average(number, spec),
            None,
            None,
        ]
    else:
        averages = (reported.average(number, spec, metric) for metric in table.metrics)
        claims = [claim for average in averages for claim in (average, None)]
    if eps != "1/255" or number not in suite.printed or not any(claims):
        return []
    theirs, difference = [], []
    for entry, claim in zip(ours, claims, strict=True):
        if claim is None:
            theirs.append(Entry())
            difference.append(Entry())
            continue
        theirs.append(
            Entry(
                f"{claim.percent:.2f}",
                notes=[_note(doubt, page) for doubt in reported.doubts(claim)],
            )
        )
        off = (
            None
            if entry.share is None
            else _two_decimals(entry.share * 100 - Fraction(claim.percent))
        )
        difference.append(Entry() if off is None else Entry(f"{off:+.2f}"))
    if table.by_dataset and (seconds := reported.seconds(number, spec)) is not None:
        theirs[-1] = Entry(str(seconds))
    return [("· paper", theirs), ("· difference", difference)]


def _underneath(
    cells: pd.DataFrame,
    suite: Suite,
    table: Table,
    eps: str,
    titles: dict[str, str],
    protocol: str,
    intervals: bool,
) -> list[str]:
    sizes = {
        str(name): sorted(set(group["images"]))
        for name, group in cells.groupby("dataset", sort=False)
    }
    counted = ", ".join(
        f"{titles[name]} {'/'.join(map(str, sizes[name]))}"
        for name in suite.datasets
        if name in sizes
    )
    versions = sorted(
        {f"{name} {number}" for each in cells["versions"] for name, number in each.items()}
    )
    time = " Time: seconds of one training epoch." if table.by_dataset else ""
    lines = [
        f"Suite {suite.name} ({suite.title}); protocol {protocol}; attack {table.attack}, eps {eps}; "
        f"{DASH}: not measured, or failed.{time}",
        f"Means are over the {len(suite.datasets)} datasets; zero-shot ones without "
        f"{titles.get(suite.train_on, suite.train_on)}, which was trained on.",
        *filter(None, [table.note]),
        f"Images: {counted or 'none'}.",
        f"Versions: {', '.join(versions) or 'none'}.",
    ]
    if intervals:
        lines.insert(
            2,
            "In brackets: 95% intervals, Wilson's; for a mean, a bootstrap's over images within datasets.",
        )
    return lines


def markdown(page: Page) -> str:
    """Return the table as Markdown, the best number of a column in bold."""

    def show(entry: Entry) -> str:
        text = f"**{entry.text}**" if entry.best else entry.text
        return text + _interval(entry) + "".join(f" [{note}]" for note in entry.notes)

    body = [[escaped(title), *map(show, entries)] for title, entries in page.rows]
    align = ["left"] + ["right"] * (len(page.header) - 1)
    header = [escaped(title) for title in page.header]
    table = tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=align)
    lines = [*page.lines, *(f"[{place}] {note}" for place, note in enumerate(page.notes, 1))]
    return "\n\n".join([f"**{page.caption}**", table, *map(escaped, lines)]) + "\n"


def escaped(text: str) -> str:
    """Return a text of which Markdown makes no columns and no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _interval(entry: Entry) -> str:
    return (
        f" ({100 * entry.interval[0]:.1f}–{100 * entry.interval[1]:.1f})" if entry.interval else ""
    )


def latex(page: Page) -> str:
    """Return the table as LaTeX, for the packages booktabs and graphicx: as wide as the page, or as a column."""
    wide = len(page.header) > 8

    def show(entry: Entry) -> str:
        text = _tex(entry.text)
        text = rf"\textbf{{{text}}}" if entry.best else text
        if entry.interval:
            text = rf"\shortstack[r]{{{text}\\\scriptsize {_tex(_interval(entry).strip(' ()'))}}}"
        return text + "".join(rf"\textsuperscript{{{note}}}" for note in entry.notes)

    body = [[_tex(title), *map(show, entries)] for title, entries in page.rows]
    align = ["left"] + ["right"] * (len(page.header) - 1)
    first, *others = map(_tex, page.header)
    header = [first, *(rf"\rotatebox{{90}}{{{title}}}" if wide else title for title in others)]
    table = tabulate(body, header, tablefmt="latex_raw", colalign=align, disable_numparse=True)
    for rule in ("toprule", "midrule", "bottomrule"):
        table = table.replace(r"\hline", rf"\{rule}", 1)
    lines = [_tex(line) for line in page.lines]
    lines += [
        rf"\textsuperscript{{{place}}} {_tex(note)}" for place, note in enumerate(page.notes, 1)
    ]
    small = "\n".join(rf"\par\raggedright\footnotesize {line}" for line in lines)
    kind, width = ("table*", "textwidth") if wide else ("table", "columnwidth")
    number, _, caption = page.caption.partition(". ")  # LaTeX numbers it itself
    return (
        f"% {number}; needs \\usepackage{{booktabs,graphicx}}\n\\begin{{{kind}}}\n\\caption{{{_tex(caption)}}}\n"
        f"\\resizebox{{\\{width}}}{{!}}{{%\n{table}}}\n{small}\n\\end{{{kind}}}\n"
    )


_TEX = {
    "L_general": r"$L_\mathrm{general}$",
    "L_clean": r"$L_\mathrm{clean}$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "·": r"$\cdot$",
    "ε": r"$\epsilon$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "×": r"$\times$",
}


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _TEX)), lambda found: _TEX[found[0]], text)


def comma_separated(page: Page) -> str:
    """Return the table as CSV: the numbers alone, empty where there is none; intervals in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", " low", " high") if page.intervals else ("",)
    writer.writerow(
        [page.header[0], *(f"{title}{end}" for title in page.header[1:] for end in ends)]
    )
    for title, entries in page.rows:
        numbers = []
        for entry in entries:
            numbers.append("" if entry.text == DASH else entry.text)
            if page.intervals:
                numbers += (
                    [f"{100 * end:.2f}" for end in entry.interval] if entry.interval else ["", ""]
                )
        writer.writerow([title, *numbers])
    return out.getvalue()


HTML = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ page.caption }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color-scheme: light dark }
table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: bold; padding-block: .5em }
thead th { border-bottom: 1px solid }
th, td { padding: .2em .6em; text-align: right }
th:first-child { text-align: left; white-space: nowrap }
td small { white-space: nowrap }
</style>
<table>
<caption>{{ page.caption }}</caption>
<thead><tr>{% for title in page.header %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for title, entries in page.rows %}
<tr><th scope="row">{{ title }}</th>
{%- for entry in entries %}<td>{% if entry.best %}<strong>{{ entry.text }}</strong>{% else %}{{ entry.text }}{% endif %}
{%- if entry.interval %} <small>{{ interval(entry) }}</small>{% endif %}
{%- for note in entry.notes %}<sup><a href="#note{{ note }}">{{ note }}</a></sup>{% endfor %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for line in page.lines %}
<p>{{ line }}</p>
{% endfor %}
{% if page.notes %}
<ol>
{% for note in page.notes %}
<li id="note{{ loop.index }}">{{ note }}</li>
{% endfor %}
</ol>
{% endif %}
</html>
"""


def html(page: Page) -> str:
    """Return the table as a page of HTML that needs nothing else."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(HTML).render(page=page, interval=_interval)


FORMATS: dict[str, Callable[[Page], str]] = {
    ".md": markdown,
    ".tex": latex,
    ".csv": comma_separated,
    ".html": html,
}


def render(page: Page, suffix: str) -> str:
    """Return the table in the format of a file suffix; raises ZSRobustError for an unknown one."""
    if suffix not in FORMATS:
        raise ZSRobustError(
            f"No table format {suffix or 'without suffix'!r}. Write to a file that ends in {', '.join(FORMATS)}."
        )
    return FORMATS[suffix](page)
