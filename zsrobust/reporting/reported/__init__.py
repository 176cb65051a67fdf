"""Numbers that PMG-AFT (CVPR 2024, arXiv 2401.04350) and later papers printed.

They are claims: shown, compared, never a gate. `README.md` says what each file holds. No torch
here.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources

import pandas as pd

#: What the words of a claim's quality mean; those of one claim stand in this order.
QUALITIES = {
    "ok": "the printed numbers do not speak against it",
    "impossible": "no share of the full split's images is this number, rounded or truncated",
    "duplicate": "equals its neighbor in the row, and may be a copy of it",
    "doubtful": "robust above clean accuracy, an outlier, AutoAttack on two classes, "
    "or contradicted by another table",
    "average": "the row's stated average does not follow from the row's cells; "
    "which of them are wrong is another question",
    "derived": "not printed, but follows from two printed numbers",
}


@dataclass(frozen=True)
class Claim:
    """One printed number."""

    percent: Decimal  #: with two decimals, as printed
    quality: tuple[str, ...]  #: words of QUALITIES
    doubt: tuple[str, ...]  #: ids of errata


@dataclass(frozen=True)
class Erratum:
    """An error in the paper's numbers, for the cells that it names."""

    id: str
    table: str  #: "2", "4,5", or "text"
    rows: tuple[str, ...]  #: our names of the defenses; none where it is about no row
    columns: tuple[str, ...]  #: our names of the datasets; none where no cell can be named
    printed: str
    why: str  #: sentences; the first says it all in short
    implies: str
    confidence: str
    kind: str

    @property
    def line(self) -> str:
        """Return what a footnote says, under 250 characters."""
        first, stop, _ = self.why.partition(". ")
        return f"{self.id}: printed {self.printed}. {first}{stop.strip()}"


def cell(table: str, defense: str, dataset: str) -> Claim | None:
    """Return what Table 1, 2 or 3 prints for a defense on a dataset, or None."""
    return _cells().get((table, defense, dataset))


def average(table: str, defense: str, metric: str | None = None) -> Claim | None:
    """Return the stated average of a row; None where none is stated.

    Tables 1 to 3 have one average a row, whatever `metric` says. Those of Tables 4 and 5 are
    "clean" and "robust", and their rows have the names of specs, as `pmg_aft:beta=0`. Of Table s1,
    fine-tuned on CIFAR100, the text states one robust average, from which another is derived; of
    Table s2 it states nothing.
    """
    return _averages().get((table, defense, metric))


def seconds(table: str, defense: str) -> Decimal | None:
    """Return the seconds per epoch that Table 1, 2 or 3 prints for a defense, or None."""
    times = {
        (row["table"], row["defense"]): Decimal(row["seconds"]) for row in _rows("averages.csv")
    }
    return times.get((table, defense))


@cache
def _errata() -> dict[str, Erratum]:
    entries = json.loads(_read("errata.json"))
    return {
        entry["id"]: Erratum(
            **entry | {"rows": tuple(entry["rows"]), "columns": tuple(entry["columns"])}
        )
        for entry in entries
    }


def errata() -> dict[str, Erratum]:
    """Return what does not add up in the paper, by id."""
    return dict(_errata())


def doubts(claim: Claim) -> list[str]:
    """Return the footnotes of a claim: its errata, and other doubts."""
    plain = [
        f"{word.capitalize()}: {QUALITIES[word]}."
        for word in claim.quality
        if word in ("impossible", "derived")
    ]
    return [errata()[name].line for name in claim.doubt] + plain


def cells() -> pd.DataFrame:
    """Return the printed cells of Tables 1 to 3, one per row; `percent` is a number."""
    return _frame("cells.csv", "percent")


def others() -> pd.DataFrame:
    """Return what later papers printed, one per row, in percent or NaN."""
    return _frame("other_papers.csv", "clean", "robust")


def statements() -> pd.DataFrame:
    """Return the numbers of the paper's text and what follows from them, as text."""
    return _frame("statements.csv")


@cache
def _cells() -> dict[tuple[str, str, str], Claim]:
    return {
        (row["table"], row["defense"], row["dataset"]): Claim(
            Decimal(row["percent"]), _split(row["quality"]), _split(row["doubt"])
        )
        for row in _rows("cells.csv")
    }


@cache
def _averages() -> dict[tuple[str, str, str | None], Claim]:
    claims: dict[tuple[str, str, str | None], Claim] = {}
    for row in _rows("averages.csv"):
        quality = "ok" if row["follows"] == "yes" else "average"
        for metric in (None, "clean", "robust"):
            claims[row["table"], row["defense"], metric] = Claim(
                Decimal(row["stated"]), (quality,), _split(row["doubt"])
            )
    for row in _rows("ablations.csv"):
        quality = "doubtful" if row["doubt"] else "ok"
        for metric in ("clean", "robust"):
            claims[row["table"], row["defense"], metric] = Claim(
                Decimal(row[metric]), (quality,), _split(row["doubt"])
            )
    for row in _rows("statements.csv"):
        if row["table"]:
            quality = "ok" if row["kind"] == "stated" else "derived"
            for metric in (None, row["metric"]):
                claims[row["table"], row["defense"], metric] = Claim(
                    Decimal(row["value"]), (quality,), ()
                )
    return claims


def _split(words: str) -> tuple[str, ...]:
    return tuple(filter(None, words.split(";")))


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


@cache
def _rows(name: str) -> tuple[Mapping[str, str], ...]:
    return tuple(csv.DictReader(_read(name).splitlines()))


def _frame(name: str, *numbers: str) -> pd.DataFrame:
    frame = pd.DataFrame(_rows(name))
    return frame.assign(**{column: pd.to_numeric(frame[column]) for column in numbers})
