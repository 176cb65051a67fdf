"""The stored results of a report: cells and suites. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.results.cell import Result
from zsrobust.results.selection import Selection, known_suite
from zsrobust.results.store import Store, frame_of, read
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite


@dataclass(frozen=True)
class Collection:
    """The stored cells, sorted by path, and their suites, with the paper's first."""

    store: Store
    frame: pd.DataFrame  #: the DataFrame of `load_results`
    results: Mapping[str, Result]  #: by path, in the order of the frame
    suites: Mapping[str, Suite]

    @classmethod
    def load(cls, store: Store, own: Sequence[Suite] = ()) -> "Collection":
        """Return the stored cells; raises ZSRobustError without cells, or for a damaged file."""
        results = {str(path): read(path) for path in store.paths()}
        frame = frame_of((Path(path), result) for path, result in results.items())
        if frame.empty:
            command = Selection.of(suites.load("mini")).command()
            raise ZSRobustError(f"{store} has no results. Next: {command}")
        known = {suite.name: suite for suite in own}
        ours = suites.names()
        names = frame["suite"].unique().tolist()
        names.sort(key=lambda name: (name != suites.DEFAULT, name not in ours, name))
        # An unknown suite has unknown datasets, so its rows have no means.
        found = {name: known.get(name) or known_suite(name) for name in names}
        return cls(store, frame, results, found)

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the datasets by name."""
        names, titles = (self.frame[column] for column in ("dataset", "dataset_title"))
        return dict(zip(map(str, names), map(str, titles), strict=True))

    def place(self, path: str) -> str:
        """Return the path of a cell's JSON, relative to its folder of results."""
        folder = next(each for each in self.store.folders if Path(path).is_relative_to(each))
        return Path(path).relative_to(folder).as_posix()
