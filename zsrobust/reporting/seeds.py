"""Seeds: entries over several seeds of the attacks and of the trainings. No torch here."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from zsrobust.core.errors import counted
from zsrobust.core.specs import NUMBER
from zsrobust.core.sweeps import format_seeds
from zsrobust.reporting.columns import DASH, Entry, percent
from zsrobust.reporting.rows import Finder
from zsrobust.results.selection import Selection

if TYPE_CHECKING:
    import pandas as pd


def across(found: Sequence[Entry], names: Sequence[str], about: str) -> Entry:
    """Return the mean of entries over several seeds, with its sample standard deviation.

    `names` are those of the seeds; a footnote names the missing ones. One seed has no deviation.
    Other numbers than accuracies are those of the first seed that has one, and words are listed.
    `about` describes the mean of `{}` seeds.
    """
    shares = [each.share for each in found if each.share is not None]
    if len(found) == 1:
        return found[0]
    notes = dict.fromkeys(note for each in found for note in each.notes)
    if not shares:
        known = [each for each in found if each.text != DASH] or found[:1]
        words = list(dict.fromkeys(each.text for each in known))
        text = words[0] if NUMBER.fullmatch(words[0]) else ", ".join(words)
        return replace(known[0], text=text, notes=tuple(notes))
    missing = [name for name, each in zip(names, found, strict=True) if each.share is None]
    if missing:
        notes[f"{len(shares)} of {len(found)} seeds; missing: {', '.join(missing)}."] = None
    mean = sum(shares, Fraction(0)) / len(shares)
    spread = percent(Fraction(statistics.stdev(shares))) if len(shares) > 1 else ""
    about = about.format(len(shares))
    return Entry(percent(mean), mean, spread=spread, notes=tuple(notes), about=about)


@dataclass(frozen=True)
class Run:
    """The cells of one seed of the attacks, and of one of the trainings."""

    seed: int
    train_seed: int | None  #: None: as the specs of the defenses say
    finder: Finder


class Runs:
    """The runs of a table: all combinations of seeds."""

    def __init__(
        self,
        results: "pd.DataFrame",
        selection: Selection,
        seeds: Sequence[int] = (),
        train_seeds: Sequence[int] = (),
    ) -> None:
        """Search the DataFrame of `load_results`; without seeds, for those of the selection."""
        self.results = results
        self.seeds = list(dict.fromkeys(seeds)) or [selection.seed]
        self.train_seeds: list[int | None] = [*dict.fromkeys(train_seeds)] or [selection.train_seed]
        self.selections = [
            replace(selection, seed=seed, train_seed=train_seed)
            for train_seed in self.train_seeds
            for seed in self.seeds
        ]
        self._runs = [
            Run(each.seed, each.train_seed, Finder(results, each)) for each in self.selections
        ]
        self._trained = set(results.loc[results["train_seed"].notna(), "method"])

    def lines(
        self, specs: Sequence[str], read: Callable[[Finder], Sequence[Sequence[Entry]]]
    ) -> list[list[Entry]]:
        """Return the entries of each spec over the runs; `read` returns those of one run."""
        read_lines = [read(run.finder) for run in self._runs]
        merged = []
        for place, spec in enumerate(specs):
            chosen = self._of(spec)
            names = [self._name(self._runs[run], spec) for run in chosen]
            columns = zip(*(read_lines[run][place] for run in chosen), strict=True)
            merged.append([across(each, names, "mean of {} seeds") for each in columns])
        return merged

    @property
    def cells(self) -> "pd.DataFrame":
        """The cells of all rows found so far, in the order of the results."""
        paths = {path for run in self._runs for path in run.finder.cells["path"]}
        return self.results[self.results["path"].isin(paths)]

    @property
    def first(self) -> Finder:
        """The finder of the first seeds."""
        return self._runs[0].finder

    @property
    def note(self) -> str:
        """The rule of the deviations; "" for one run."""
        if len(self._runs) == 1:
            return ""
        trained = [each for each in self.train_seeds if each is not None]
        kinds = {"attack seed": self.seeds, **({"training seed": trained} if trained else {})}
        over = " and ".join(
            f"{counted(len(values), name)} ({', '.join(format_seeds(values))})"
            for name, values in kinds.items()
        )
        once = " Rows without training have one training." if trained else ""
        return (
            f"With ±: mean and sample standard deviation over {over}, each "
            f"combination once.{once} Other numbers are of the first seed that has them. Footnotes "
            "are of any seed."
        )

    @property
    def named(self) -> str:
        """The seeds in words: "seed 0", or "seeds 0..2, training seed 1..2"."""
        trained = [each for each in self.train_seeds if each is not None]
        words = [f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(format_seeds(self.seeds))}"]
        return ", ".join([*words, *(f"training seed {each}" for each in format_seeds(trained))])

    def command(self, specs: Sequence[str], table: str) -> str:
        """Return the command that computes the cells of a table at all seeds."""
        trained = [each for each in self.train_seeds if each is not None]
        return self.selections[0].command(specs, table=table, seeds=self.seeds, train_seeds=trained)

    def _of(self, spec: str) -> list[int]:
        """Return the places of the runs of a spec: without training, of one training alone."""
        if spec in self._trained:
            return list(range(len(self._runs)))
        return list(range(len(self.seeds)))

    def _name(self, run: Run, spec: str) -> str:
        if len(self.train_seeds) == 1 or spec not in self._trained:
            return str(run.seed)
        one = len(self.seeds) == 1
        return str(run.train_seed) if one else f"{run.seed} of training {run.train_seed}"
