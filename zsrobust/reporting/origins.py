"""Origins: where cells of a folder and of its baseline come from, also where they agree."""

from collections import defaultdict
from collections.abc import Iterable

from zsrobust.core.errors import counted
from zsrobust.reporting.comparison import IMAGES
from zsrobust.reporting.matching import Stored
from zsrobust.results.identity import is_checkpoint


def origins(matched: Iterable[tuple[Stored, Stored]]) -> list[str]:
    """Return a note on each difference of checkpoints, datasets and versions, ours and theirs.

    Cells with the same difference share a note, which names the first of them.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for ours, theirs in matched:
        for what in _differences(ours, theirs):
            found[what].append(theirs.name)
    return [
        f"{what} ({counted(len(names), 'cell')}, first {names[0]})."
        for what, names in sorted(found.items())
    ]


def _differences(ours: Stored, theirs: Stored) -> list[str]:
    """Return the differences in the origin of two cells, each in a few words."""
    differing = {
        each.name: each for each in theirs.result.identity.differences(ours.result.identity)
    }
    found = []
    if any(is_checkpoint(name) for name in differing):
        found.append(f"Another checkpoint of {ours.key.defense}")
    if images := [name for name in IMAGES if name in differing]:
        which = ", ".join(name.removeprefix("dataset.") for name in images)
        found.append(f"Another dataset {ours.key.dataset}: {which}")
    one, two = ours.result.versions, theirs.result.versions
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            mine, other = (each.get(name, "not stored") for each in (one, two))
            found.append(f"Another version of {name}: {mine}, in the baseline {other}")
    return found
