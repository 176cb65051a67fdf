"""The datasets of a view: all methods, the classes, and the gallery. No torch here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.reporting.columns import DASH, Entry, percent
from zsrobust.reporting.report.cells import Class, by_class, read_outcomes
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.report.gallery import Sample, samples_of
from zsrobust.reporting.report.views import Method, View
from zsrobust.reporting.rows import Metric
from zsrobust.results.cell import Outcomes, Result, Samples

BUDGET = 16_000_000  #: characters of all images together; later images are left out with a note


@dataclass
class OnDataset:
    """Every method of a view on one dataset."""

    name: str
    title: str
    about: str  #: its images, classes and prompts
    methods: Sequence[tuple[Method, Mapping[Metric, Entry]]]
    named: list[Method] = field(default_factory=list)  #: the methods with outcomes by class
    #: Name of a class, number of images, and clean and robust accuracy of each method in `named`.
    classes: list[tuple[str, int, list[str]]] = field(default_factory=list)
    gallery: list[tuple[Method, list[Sample]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: why classes or images are missing


class Looks:
    """Reads the outcomes and samples of a collection's cells, within the budget of images."""

    def __init__(self, found: Collection) -> None:
        """Start with an unused budget; outcomes are read once for all views."""
        self._results, self._used = found.results, 0
        self.outcomes = cache(self._outcomes)

    def on_datasets(self, view: View) -> Iterator[OnDataset]:
        """Yield each dataset of a view that has cells."""
        for name, title in view.datasets.items():
            if view.cells[name]:
                yield self._on_dataset(view, name, title)

    def _on_dataset(self, view: View, name: str, title: str) -> OnDataset:
        cells = view.cells[name]
        found = OnDataset(name, title, _about(self._results[cells[0][1]]), _entries(view, name))
        known: list[dict[str, Class]] = []
        for method, path in cells:
            outcomes = self.outcomes(path)
            if isinstance(outcomes, str):
                found.notes.append(f"{method.name}: {outcomes}")
            else:
                found.named.append(method)
                known.append(by_class(self._results[path], outcomes))
            samples = self._samples(path, outcomes)
            if isinstance(samples, str):
                found.notes.append(f"{method.name}: {samples}")
            elif samples:
                found.gallery.append((method, samples))
        found.classes = _merged(known)
        found.notes = list(dict.fromkeys(found.notes))
        return found

    def _outcomes(self, path: str) -> Outcomes | str:
        return read_outcomes(self._results[path], Path(path))

    def _samples(self, path: str, outcomes: Outcomes | str) -> list[Sample] | str:
        """Return the samples of a cell, or why they are not shown."""
        if self._used > BUDGET:
            return "The images are left out, because the page would be too large."
        try:
            stored = Samples.read(Path(path))
        except ZSRobustError as error:
            return str(error)
        found = samples_of(stored, outcomes) if stored else []
        self._used += sum(len(picture.png) for each in found for picture in each.pictures)
        return found


def _about(result: Result) -> str:
    """Return the number of images, the number of classes and the prompts of a cell."""
    dataset = result.identity.dataset.details
    about = f"{counted(result.images, 'image')}."
    if "classes" in dataset:
        about += f" Classes: {dataset['classes']}."
    templates = dataset.get("templates")
    if isinstance(templates, list) and templates:
        more = f", and {len(templates) - 3} more" if len(templates) > 3 else ""
        about += f" Prompts: {', '.join(f'“{each}”' for each in templates[:3])}{more}."
    return about


def _entries(view: View, dataset: str) -> list[tuple[Method, dict[Metric, Entry]]]:
    """Return the entries of a dataset in the boards of a view, by method."""
    paths = {path for _, path in view.cells[dataset]}
    found: dict[Method, dict[Metric, Entry]] = {}
    for board in view.boards:
        for method, entries in board.lines:
            for entry in entries:
                if entry.cell in paths:
                    found.setdefault(method, {})[board.metric] = entry
    return list(found.items())


def _merged(known: Sequence[Mapping[str, Class]]) -> list[tuple[str, int, list[str]]]:
    """Return each class, its images, and its clean and robust accuracy for each method."""
    images = {name: counts.images for each in known for name, counts in each.items()}
    return [
        (name, number, [text for each in known for text in _accuracies(each.get(name))])
        for name, number in images.items()
    ]


def _accuracies(counts: Class | None) -> list[str]:
    if counts is None:
        return [DASH, DASH]
    return [percent(Fraction(right, counts.images)) for right in (counts.clean, counts.robust)]
