"""Tables that mirror the paper's: a pure function of the stored results. No torch here."""

import csv
import io
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from zsrobust.registry import ZSRobustError
from zsrobust.suites import Suite

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
    """One of the paper's tables: which cells it shows."""

    caption: str
    metric: Literal["robust", "clean"]
    attack: str  #: the attack whose cells it reads; clean accuracy comes from the same cells
    rows: tuple[str, ...]


TABLES = {
    "1": Table("Zero-shot robust accuracy (%) under PGD-10", "robust", "pgd10", tuple(ROWS)),
    "2": Table("Zero-shot clean accuracy (%)", "clean", "pgd10", tuple(ROWS)),
    "3": Table("Zero-shot robust accuracy (%) under AutoAttack", "robust", "autoattack", ("clip", "tecoa", "pmg_aft")),
}


@dataclass
class Entry:
    """One printed number: a share, or nothing where the cell is missing or failed."""

    share: Fraction | None = None
    seconds: float | None = None
    best: bool = False
    notes: list[int] = field(default_factory=list)  #: numbers of the footnotes

    @property
    def text(self) -> str:
        """Return the number as printed: percent with two decimals, rounded half to even; seconds with one."""
        if self.seconds is not None:
            return f"{self.seconds:.1f}"
        return DASH if self.share is None else percent(self.share)


@dataclass
class Page:
    """A table ready to print."""

    caption: str
    header: list[str]
    rows: list[tuple[str, list[Entry]]]
    lines: list[str]  #: what stands underneath


def percent(share: Fraction) -> str:
    """Return a share as percent with two decimals, rounded half to even, once."""
    exact = Decimal(share.numerator * 100) / Decimal(share.denominator)
    return str(exact.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN))


def build(
    number: str, results: pd.DataFrame, suite: Suite, *, eps: str, limit: int | None = None, protocol: str = "sound"
) -> Page:
    """Return one of the paper's tables over a suite, from the DataFrame of `load_results`.

    `limit` picks cells measured on a subset; by default those on the suite's own sets. All are of one protocol. A mean
    stands only in complete rows. Raises ZSRobustError for a table that does not exist.
    """
    if number not in TABLES:
        raise ZSRobustError(f"There is no table {number!r}. Tables: {', '.join(TABLES)}. Try: zsrobust table 1 --suite mini")
    table = TABLES[number]
    cells = _select(results, suite, table, eps, limit, protocol)
    records = cells.to_dict("records")
    notes: list[str] = []
    rows = []
    for defense in table.rows:
        own = {str(cell["dataset"]): cell for cell in records if cell["defense"] == defense}
        entries = [_entry(own[name], table.metric, notes) if name in own else Entry() for name in suite.datasets]
        shares = [entry.share for entry in entries if entry.share is not None]
        mean = Entry(sum(shares, Fraction(0)) / len(shares)) if len(shares) == len(entries) else Entry()
        if len({cell["made"] for cell in own.values()}) > 1:
            mean = Entry(notes=[_note(MIXED, notes)])
        times = [seconds for seconds in (cell["epoch_seconds"] for cell in own.values()) if not pd.isna(seconds)]
        time = Entry(seconds=float(times[0]) if times else 0.0) if len(own) else Entry()
        rows.append((ROWS[defense], [*entries, mean, time]))
    if table.metric == "robust":
        _mark_best([entries for _, entries in rows])
    titles = dict(zip(cells["dataset"], cells["dataset_title"], strict=True))
    header = ["Method", *(titles.get(name, name) for name in suite.datasets), "Average", "Time (s)"]
    lines = _underneath(cells, suite, table, eps, titles, protocol)
    lines += [f"[{place}] {note}" for place, note in enumerate(notes, 1)]
    return Page(f"Table {number}. {table.caption}, {suite.name} suite, eps {eps}.", header, rows, lines)


def _select(results: pd.DataFrame, suite: Suite, table: Table, eps: str, limit: int | None, protocol: str) -> pd.DataFrame:
    wanted = suite.limits.get(table.attack) if limit is None else limit
    # A set with no more images than the limit is measured whole, and stored without one.
    sized = results["limit"].isna() | (results["limit"] == wanted) if wanted else results["limit"].isna()
    cells = results[
        (results["suite"] == suite.name)
        & (results["protocol"] == protocol)
        & (results["attack"] == table.attack)
        & (results["eps"] == eps)
        & (results["seed"] == 0)
        & results["defense"].isin(table.rows)
        & sized
    ]
    if wanted:
        cells = cells[cells["limit"].notna() | (cells["images"] <= wanted)]
    return cells


def _entry(cell: Mapping[Hashable, Any], metric: str, notes: list[str]) -> Entry:
    marks = [_note(flag, notes) for flag in cell["flags"]]
    if cell["status"] != "ok":
        return Entry(notes=marks)
    return Entry(Fraction(cell[f"{metric}_correct"], cell["images"]), notes=marks)


def _note(note: str, notes: list[str]) -> int:
    """Return the number of a footnote, added to the others if it is new."""
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _mark_best(rows: Sequence[list[Entry]]) -> None:
    for column in zip(*rows, strict=True):
        shares = [entry.share for entry in column if entry.share is not None]
        for entry in column:
            entry.best = len(shares) > 1 and entry.share is not None and entry.share == max(shares)


def _underneath(
    cells: pd.DataFrame, suite: Suite, table: Table, eps: str, titles: dict[str, str], protocol: str
) -> list[str]:
    sizes = {titles[str(name)]: set(group["images"]) for name, group in cells.groupby("dataset", sort=False)}
    counted = ", ".join(
        f"{title} {'/'.join(map(str, sorted(sizes[title])))}" for title in map(titles.get, suite.datasets) if title
    )
    versions = sorted({f"{name} {number}" for each in cells["versions"] for name, number in each.items()})
    return [
        f"Suite {suite.name} ({suite.title}); protocol {protocol}; attack {table.attack}, eps {eps}; "
        f"{DASH}: not measured, or failed. Time: seconds of one training epoch.",
        f"Images: {counted or 'none'}.",
        f"Versions: {', '.join(versions) or 'none'}.",
    ]


def markdown(page: Page) -> str:
    """Return the table as Markdown, the best number of a column in bold."""

    def show(entry: Entry) -> str:
        return (f"**{entry.text}**" if entry.best else entry.text) + "".join(f" [{note}]" for note in entry.notes)

    body = [[title, *map(show, entries)] for title, entries in page.rows]
    align = ["left"] + ["right"] * (len(page.header) - 1)
    table = tabulate(body, page.header, tablefmt="pipe", disable_numparse=True, colalign=align)
    return "\n\n".join([f"**{page.caption}**", table, *page.lines]) + "\n"


def latex(page: Page) -> str:
    """Return the table as LaTeX for the package booktabs."""

    def show(entry: Entry) -> str:
        text = entry.text.replace(DASH, "---")
        marks = "".join(rf"\textsuperscript{{{note}}}" for note in entry.notes)
        return (rf"\textbf{{{text}}}" if entry.best else text) + marks

    body = [[_tex(title), *map(show, entries)] for title, entries in page.rows]
    align = ["left"] + ["right"] * (len(page.header) - 1)
    header = [_tex(title) for title in page.header]
    table = tabulate(body, header, tablefmt="latex_raw", colalign=align, disable_numparse=True)
    for rule in ("toprule", "midrule", "bottomrule"):
        table = table.replace(r"\hline", rf"\{rule}", 1)
    lines = "\n".join(rf"\par\footnotesize {_tex(line)}" for line in page.lines)
    return f"% needs \\usepackage{{booktabs}}\n% {page.caption}\n{table}\n{lines}\n"


def _tex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text).replace(DASH, "---")


def comma_separated(page: Page) -> str:
    """Return the table as CSV: the numbers alone, empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(page.header)
    for title, entries in page.rows:
        writer.writerow([title, *("" if entry.text == DASH else entry.text for entry in entries)])
    return out.getvalue()


FORMATS: dict[str, Callable[[Page], str]] = {".md": markdown, ".tex": latex, ".csv": comma_separated}


def render(page: Page, suffix: str) -> str:
    """Return the table in the format of a file suffix; raises ZSRobustError for an unknown one."""
    if suffix not in FORMATS:
        raise ZSRobustError(
            f"No table format {suffix or 'without suffix'!r}. Write to a file that ends in {', '.join(FORMATS)}."
        )
    return FORMATS[suffix](page)
