"""Results: one cell on disk. A JSON file, the outcome of every image, and an image or two to look at. No torch here."""

from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.identity import differences
from zsrobust.results.store import FORMAT, load_results, outcomes_match, paths, read, write

__all__ = [
    "FORMAT",
    "Outcomes",
    "Result",
    "Samples",
    "differences",
    "load_results",
    "outcomes_match",
    "paths",
    "read",
    "write",
]
