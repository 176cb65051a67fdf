"""Print a table that fits the terminal. No torch here."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zsrobust.reporting.columns import Entry
from zsrobust.reporting.formats import Page

EDGES = 3  #: characters that the borders of a column take; the table takes one more
LONGEST = 32  #: characters of an entry's line; longer texts are wrapped at spaces


def print_page(page: Page, console: Console) -> None:
    """Print a table in blocks of columns, each as wide as the console at most, and its notes.

    Columns of datasets come last. Each block repeats the columns that distinguish rows. Entries
    are wrapped at spaces, so that every number stays whole.
    """
    console.print(Text(page.caption))
    for table in _tables(page, console.width):
        console.print(table)
    for line in page.underneath:
        console.print(line, markup=False, highlight=False)


def _tables(page: Page, width: int) -> Iterator[Table]:
    first = 1 + page.leads
    columns = [[title for title, _ in page.rows], *zip(*_shown(page), strict=True)]
    columns = columns if page.rows else [[] for _ in page.header]
    titles = set(page.datasets.values())
    others = [n for n, title in enumerate(page.header) if n >= first and title not in titles]
    datasets = [n for n, title in enumerate(page.header) if n >= first and title in titles]
    widths = {
        n: min(_needed(page.header[n], columns[n], wraps=n >= first), width - 1 - EDGES)
        for n in range(len(page.header))
    }
    labels = list(range(first))
    if sum(widths.values()) + EDGES * len(widths) + 1 > width:
        widths |= _narrow({n: widths[n] for n in labels}, width * 2 // 5)
    taken = sum(widths[n] + EDGES for n in labels) + 1
    for block in _blocks([others, datasets], widths, width - taken):
        yield _table(page, [*labels, *block], columns, widths)


def _shown(page: Page) -> list[list[Text]]:
    """Return the entries of each row as texts, with the best numbers in bold."""
    return [[_entry(page, entry) for entry in entries] for _, entries in page.rows]


def _entry(page: Page, entry: Entry) -> Text:
    number = Text(entry.printed, style="bold" if entry.best else "")
    return number + Text(page.behind(entry))


def _needed(title: str, entries: Sequence[Text | str], wraps: bool) -> int:
    """Return the width of a column; the words of a title, and of long texts, may be wrapped."""
    lines = [str(entry) for entry in entries]
    words = title.split() if wraps else [title]
    words += [word for line in lines if wraps and cell_len(line) > LONGEST for word in line.split()]
    lines = [line for line in lines if not wraps or cell_len(line) <= LONGEST]
    long = [LONGEST] if len(lines) < len(entries) else []
    return max([*map(cell_len, [*lines, *words]), *long, 1])


def _narrow(widths: dict[int, int], room: int) -> dict[int, int]:
    """Return widths that fit the room together; the widest columns give way, down to 8."""
    while sum(widths.values()) > room and max(widths.values()) > 8:
        widest = max(widths, key=widths.__getitem__)
        widths = {**widths, widest: widths[widest] - 1}
    return widths


def _blocks(
    groups: Sequence[Sequence[int]], widths: dict[int, int], room: int
) -> Iterator[list[int]]:
    """Yield the columns of each block; a group that does not fit beside another begins one."""

    def taken(columns: Sequence[int]) -> int:
        return sum(widths[n] + EDGES for n in columns)

    block: list[int] = []
    for group in groups:
        if block and taken(block) + taken(group) > room:
            yield block
            block = []
        for column in group:
            if block and taken([*block, column]) > room:
                yield block
                block = []
            widths[column] = max(1, min(widths[column], room - EDGES))
            block.append(column)
    if block:
        yield block


def _table(
    page: Page,
    chosen: Sequence[int],
    columns: Sequence[Sequence[Text | str]],
    widths: dict[int, int],
) -> Table:
    table = Table()
    for n in chosen:
        table.add_column(
            Text(page.header[n]),
            justify="left" if n <= page.leads else "right",
            overflow="fold",
            width=widths[n],
        )
    for line in zip(*(columns[n] for n in chosen), strict=True):
        table.add_row(*(entry if isinstance(entry, Text) else Text(entry) for entry in line))
    return table
