"""Labels are mapped by class name, from a source's names to the canonical order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets.sources.records import Record


def fold(name: str) -> str:
    """Return a name without what differs between copies: case, separators, surrounding blanks."""
    for separator in "_-/":
        name = name.replace(separator, " ")
    return " ".join(name.lower().split())


def assign(
    names: Sequence[str], known: Mapping[str, Sequence[str]], dropped: Sequence[str], where: str
) -> dict[int, int | None]:
    """Return the canonical label of each of the source's labels; None for a class that is left out.

    `known` holds what the classes are called, each a list in canonical order; the source must use
    one of these lists, in any order. Equal names within a list stand for their classes in turn.
    Raises ZSRobustError that names the classes on which they disagree.
    """
    left_out = {fold(name) for name in dropped}
    best: tuple[list[str], list[str]] | None = None
    for called in known.values():
        places: dict[str, list[int]] = {}
        for label, name in enumerate(called):
            places.setdefault(fold(name), []).append(label)
        found: dict[int, int | None] = {}
        strange = []
        for position, name in enumerate(names):
            left = places.get(fold(name))
            if left:
                found[position] = left.pop(0)
            elif fold(name) in left_out:
                found[position] = None
            else:
                strange.append(name)
        lacking = [called[label] for labels in places.values() for label in labels]
        if not strange and not lacking:
            return found
        if best is None or len(strange) + len(lacking) < len(best[0]) + len(best[1]):
            best = strange, lacking
    strange, lacking = best or (list(names), [])
    told = [f"unknown classes: {_some(strange)}"] if strange else []
    told += [f"missing classes: {_some(lacking)}"] if lacking else []
    raise ZSRobustError(
        f"{where} has {len(names)} classes that are not this dataset's: {'; '.join(told)}."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (
        f" and {len(names) - 4} more" if len(names) > 4 else ""
    )


@dataclass(frozen=True)
class Labels:
    """Maps the labels of a copy's records to the dataset's."""

    by_number: Mapping[int, int | None]  #: None: the class is left out
    by_name: Mapping[str, set[int | None]]  #: by folded name; more than one where it is ambiguous
    where: str  #: the copy
    dataset: str

    def __call__(self, record: Record) -> int | None:
        """Return the dataset's label of a record; None for a class that is left out.

        Raises ZSRobustError for a label that is not one of the dataset's.
        """
        label = record.label
        if isinstance(label, int) and label in self.by_number:
            return self.by_number[label]
        found = self.by_name.get(fold(label), set()) if isinstance(label, str) else set()
        if len(found) == 1:
            return next(iter(found))
        why = "is not one of its classes"
        if isinstance(label, int) and not self.by_number:
            why = "carries no class names, so that its labels have no meaning"
        raise ZSRobustError(
            f"{self.where}, {record.where}: label {label!r} {why} ({self.dataset})."
        )
