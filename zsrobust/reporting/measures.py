"""Measures: columns over several rows of cells, such as training seeds, attacks and bounds.

A column of `columns` reads one row of cells. A measure reads the rows that its `needs` name, for
each method of a table. No torch here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zsrobust.reporting.columns import Entry
from zsrobust.reporting.rows import Need, Row


@dataclass(frozen=True)
class Measure:
    """A column: the rows of cells that it reads of each method, and a function of all of them."""

    title: str
    needs: Callable[[str], Sequence[Need]]  #: by the spec of a method
    #: from the rows of every method, by spec and in the order of `needs`, to an entry each
    entries: Callable[[Mapping[str, Sequence[Row]]], list[Entry]]
    ranked: bool = False  #: whether its best entry is marked
    note: str = ""  #: a paragraph below the table: the rules of its numbers
