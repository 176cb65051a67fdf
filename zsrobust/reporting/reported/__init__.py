"""Printed numbers of PMG-AFT (CVPR 2024, arXiv 2401.04350) and of later papers. No torch here.

They are claims: printed and compared, but never a condition. `README.md` describes each file.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources

import pandas as pd

#: The meaning of the words of a claim's quality; a claim has its words in this order.
QUALITIES = {
    "ok": "the printed numbers do not contradict it",
    "impossible": "no number of correct images of the full split rounds or truncates to it",
    "duplicate": "equals its neighbor in the row, and may be a copy of it",
    "doubtful": "robust above clean accuracy, an outlier, AutoAttack on two classes, "
    "or contradicted by another table",
    "average": "the row's stated average does not follow from its cells, and the wrong cells are "
    "unknown",
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
    rows: tuple[str, ...]  #: our names of the defenses; () for an error outside the rows
    columns: tuple[str, ...]  #: our names of the datasets; () if the cells are unknown
    printed: str
    why: str  #: sentences; the first is a summary
    implies: str
    confidence: str
    kind: str

    @property
    def line(self) -> str:
        """The text of a footnote, shorter than 250 characters."""
        first, stop, _ = self.why.partition(". ")
        return f"{self.id}: printed {self.printed}. {first}{stop.strip()}"


@dataclass(frozen=True)
class Anchor:
    """One clean accuracy of an undefended model, measured by others."""

    percent: Decimal
    dataset_there: str  #: the source's own name of the dataset
    source: str  #: file and commit


def anchors(backbone: str, dataset: str) -> tuple[Anchor, ...]:
    """Return the published clean accuracies of a backbone, ARCHITECTURE/TAG, on a dataset.

    () if none is known. open_clip's ViT-B-32 with OpenAI's weights has QuickGELU under either name
    in these sources, so `-quickgelu` is not compared. Means over classes are left out.
    """
    return tuple(
        Anchor(Decimal(row["accuracy"]).scaleb(2), row["dataset_there"], row["source"])
        for row in _rows("anchors_clean.csv")
        if _plain(f"{row['model']}/{row['pretrained']}") == _plain(backbone)
        and (row["dataset"], row["metric"]) == (dataset, "clean")
    )


def robust_anchors() -> tuple[Mapping[str, str], ...]:
    """Return the averages of ten published robust checkpoints, one in each row, as text."""
    return _rows("anchors_robust.csv")


def _plain(backbone: str) -> str:
    return backbone.replace("-quickgelu/", "/")


def cell(table: str, defense: str, dataset: str) -> Claim | None:
    """Return the number in Table 1, 2 or 3 of a defense on a dataset; None if not printed."""
    return _cells().get((table, defense, dataset))


def average(table: str, defense: str, metric: str | None = None) -> Claim | None:
    """Return the stated average of a row; None if the paper does not state it.

    Tables 1 to 3 have one average for each row, and `metric` is optional. Tables 4 and 5 have a
    "clean" and a "robust" one; their rows have specs as names, as `pmg_aft:beta=0`. For Table s1,
    fine-tuned on CIFAR100, the text states one robust average, and another is derived. For Table s2
    the text states nothing.
    """
    return _averages().get((table, defense, metric))


def seconds(table: str, defense: str) -> Decimal | None:
    """Return the seconds per epoch in Table 1, 2 or 3 of a defense; None if not printed."""
    for row in _rows("averages.csv"):
        if (row["table"], row["defense"]) == (table, defense):
            return Decimal(row["seconds"])
    return None


@cache
def _errata() -> dict[str, Erratum]:
    found = {}
    for entry in json.loads(_read("errata.json")):
        lists = {name: tuple(entry[name]) for name in ("rows", "columns")}
        found[entry["id"]] = Erratum(**{**entry, **lists})
    return found


def errata() -> dict[str, Erratum]:
    """Return the errors in the paper's numbers by id."""
    return dict(_errata())


def doubts(claim: Claim) -> list[str]:
    """Return the footnotes of a claim: its errata, and other doubts."""
    words = [word for word in claim.quality if word in ("impossible", "derived")]
    plain = [f"{word.capitalize()}: {QUALITIES[word]}." for word in words]
    return [_errata()[name].line for name in claim.doubt] + plain


def cells() -> pd.DataFrame:
    """Return the printed cells of Tables 1 to 3, one in each row; `percent` is a number."""
    return _frame("cells.csv", "percent")


def others() -> pd.DataFrame:
    """Return the printed numbers of later papers, one in each row, in percent or NaN."""
    return _frame("other_papers.csv", "clean", "robust")


def statements() -> pd.DataFrame:
    """Return the numbers of the paper's text, and numbers derived from them, as text."""
    return _frame("statements.csv")


@cache
def _cells() -> dict[tuple[str, str, str], Claim]:
    claims = {}
    for row in _rows("cells.csv"):
        claim = Claim(Decimal(row["percent"]), _split(row["quality"]), _split(row["doubt"]))
        claims[row["table"], row["defense"], row["dataset"]] = claim
    return claims


@cache
def _averages() -> dict[tuple[str, str, str | None], Claim]:
    claims: dict[tuple[str, str, str | None], Claim] = {}
    for row in _rows("averages.csv"):
        quality = "ok" if row["follows"] == "yes" else "average"
        claim = Claim(Decimal(row["stated"]), (quality,), _split(row["doubt"]))
        for metric in (None, "clean", "robust"):
            claims[row["table"], row["defense"], metric] = claim
    for row in _rows("ablations.csv"):
        quality = "doubtful" if row["doubt"] else "ok"
        for metric in ("clean", "robust"):
            claim = Claim(Decimal(row[metric]), (quality,), _split(row["doubt"]))
            claims[row["table"], row["defense"], metric] = claim
    for row in _rows("statements.csv"):
        if row["table"]:
            quality = "ok" if row["kind"] == "stated" else "derived"
            claim = Claim(Decimal(row["value"]), (quality,), ())
            for metric in (None, row["metric"]):
                claims[row["table"], row["defense"], metric] = claim
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
