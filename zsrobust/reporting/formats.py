"""The formats of a table: Markdown, LaTeX, CSV, HTML. No torch here."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources

from tabulate import tabulate

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.reporting.columns import DASH, Entry


@dataclass(frozen=True)
class Page:
    """A table ready to print."""

    caption: str
    header: list[str]
    rows: list[tuple[str, list[Entry]]]
    lines: list[str]  #: what is printed below the table
    intervals: bool = False  #: whether to print the entries' intervals
    leads: int = 0  #: columns behind the first that distinguish rows, as "Eps" does
    datasets: Mapping[str, str] = field(default_factory=dict)  #: titles of columns by dataset

    @cached_property
    def notes(self) -> list[str]:
        """The footnotes, in the order of their numbers; the first has number 1."""
        every = [note for _, entries in self.rows for entry in entries for note in entry.notes]
        return list(dict.fromkeys(every))

    @property
    def underneath(self) -> list[str]:
        """What is printed below the table: its lines, then the footnotes with their numbers."""
        return [*self.lines, *(f"[{number}] {note}" for number, note in enumerate(self.notes, 1))]

    def numbers(self, entry: Entry) -> list[int]:
        """Return the numbers of an entry's footnotes."""
        return [self.notes.index(note) + 1 for note in entry.notes]

    def interval(self, entry: Entry) -> str:
        """Return an entry's interval in percent, as "1.20–3.40"; "" if it is not printed."""
        return entry.ends if self.intervals else ""

    def behind(self, entry: Entry) -> str:
        """Return what follows a number: its mark, interval and footnotes; "" without any."""
        parts = [f" {entry.mark}"] if entry.mark else []
        if interval := self.interval(entry):
            parts.append(f" ({interval})")
        return "".join([*parts, *(f" [{number}]" for number in self.numbers(entry))])

    def narrowed(self, names: Sequence[str]) -> "Page":
        """Return the table with these columns alone, in this order.

        A name is a dataset's, or a column's title; case and punctuation do not count. Columns that
        distinguish rows stay. Raises ZSRobustError, with the nearest name, for an unknown one.
        """
        first = 1 + self.leads
        places: dict[str, int] = {}
        for place, title in enumerate(self.header[first:], first):
            places.setdefault(column_name(title), place)
        known = list(places)
        for name, title in self.datasets.items():
            places.setdefault(column_name(name), places[column_name(title)])
        chosen = list(range(first))
        for name in names:
            if column_name(name) not in places:
                raise suggest("column", name, [*places], f"Columns: {', '.join(known)}")
            chosen.append(places[column_name(name)])
        header = [self.header[place] for place in chosen]
        rows = [
            (title, [entries[place - 1] for place in chosen[1:]]) for title, entries in self.rows
        ]
        return replace(self, header=header, rows=rows)


def column_name(title: str) -> str:
    """Return the name by which --columns selects a column: "zero-shot-above-chance"."""
    return re.sub(r"[\W_]+", "-", title.lower()).strip("-")


def render(page: Page, suffix: str) -> str:
    """Return the table in the format of a file suffix; raises ZSRobustError for others."""
    if suffix not in FORMATS:
        raise ZSRobustError(
            f"The suffix {suffix!r} is not a table format. "
            f"Write to a file that ends in {', '.join(FORMATS)}."
        )
    return FORMATS[suffix](page)


def markdown(page: Page) -> str:
    """Return the table as Markdown, with the best number of each column in bold."""

    def show(entry: Entry) -> str:
        text = f"**{entry.printed}**" if entry.best else entry.printed
        return text + page.behind(entry)

    body = [[escaped(title), *map(show, entries)] for title, entries in page.rows]
    header = [escaped(title) for title in page.header]
    table = tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=_align(page))
    return "\n\n".join([f"**{page.caption}**", table, *map(escaped, page.underneath)]) + "\n"


def escaped(text: str) -> str:
    """Return a text with the escapes that keep Markdown from adding columns or HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _align(page: Page) -> list[str]:
    return ["left"] + ["right"] * (len(page.header) - 1)


def latex(page: Page) -> str:
    """Return the table as LaTeX for the packages booktabs and graphicx."""
    wide = len(page.header) > 8  # as wide as the page; other tables are as wide as a column

    def show(entry: Entry) -> str:
        text = _tex(entry.printed)
        text = rf"\textbf{{{text}}}" if entry.best else text
        text += f" {_tex(entry.mark)}" if entry.mark else ""
        if interval := page.interval(entry):
            text = rf"\shortstack[r]{{{text}\\\scriptsize {_tex(interval)}}}"
        return text + "".join(rf"\textsuperscript{{{each}}}" for each in page.numbers(entry))

    body = [[_tex(title), *map(show, entries)] for title, entries in page.rows]
    first, *others = map(_tex, page.header)
    header = [first, *(rf"\rotatebox{{90}}{{{title}}}" if wide else title for title in others)]
    align = _align(page)
    table = tabulate(body, header, tablefmt="latex_raw", colalign=align, disable_numparse=True)
    for rule in ("toprule", "midrule", "bottomrule"):
        table = table.replace(r"\hline", rf"\{rule}", 1)
    lines = [_tex(line) for line in page.lines]
    for number, note in enumerate(page.notes, 1):
        lines.append(rf"\textsuperscript{{{number}}} {_tex(note)}")
    small = "\n".join(rf"\par\raggedright\footnotesize {line}" for line in lines)
    kind, width = ("table*", "textwidth") if wide else ("table", "columnwidth")
    title, _, caption = page.caption.partition(". ")  # LaTeX numbers tables by itself
    return (
        f"% {title}; needs \\usepackage{{booktabs,graphicx}}\n"
        f"\\begin{{{kind}}}\n\\caption{{{_tex(caption)}}}\n"
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
    "±": r"$\pm$",
    "≈": r"$\approx$",
}


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _TEX)), lambda found: _TEX[found[0]], text)


def comma_separated(page: Page) -> str:
    """Return the table as CSV: numbers alone, "" if missing.

    Each end of an interval has a column. Standard deviations and marks have one, if there are any.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    first, *titles = page.header
    parts = [_parts(page, place) for place in range(len(titles))]
    header = [f"{title}{part}" for title, own in zip(titles, parts, strict=True) for part in own]
    writer.writerow([first, *header])
    for title, entries in page.rows:
        numbers = [
            read(entry) for entry, own in zip(entries, parts, strict=True) for read in own.values()
        ]
        writer.writerow([title, *numbers])
    return out.getvalue()


def _parts(page: Page, place: int) -> dict[str, Callable[[Entry], str]]:
    """Return what a column becomes in CSV: the ends of the headings, and their values."""

    def end(which: int) -> Callable[[Entry], str]:
        return lambda entry: f"{100 * entry.interval[which]:.2f}" if entry.interval else ""

    parts: dict[str, Callable[[Entry], str]] = {
        "": lambda entry: "" if entry.text == DASH else entry.text
    }
    column = [entries[place] for _, entries in page.rows]
    if any(entry.spread for entry in column):
        parts[" sd"] = lambda entry: entry.spread
    if any(entry.mark for entry in column):
        parts[" mark"] = lambda entry: entry.mark
    if page.intervals:
        parts |= {" low": end(0), " high": end(1)}
    return parts


def html(page: Page) -> str:
    """Return the table as a self-contained page of HTML."""
    import jinja2

    template = resources.files(__name__.rpartition(".")[0]).joinpath("table.html")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(page=page)


FORMATS = {".md": markdown, ".tex": latex, ".csv": comma_separated, ".html": html}
