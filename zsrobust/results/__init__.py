"""Results: one cell on disk, as a JSON file, the outcome of each image, and a few sample images."""

from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.collection import Results
from zsrobust.results.identity import differences
from zsrobust.results.seeds import over_seeds
from zsrobust.results.store import FORMAT, load_results, outcomes_match, paths, read, write

__all__ = [
    "FORMAT",
    "Outcomes",
    "Result",
    "Results",
    "Samples",
    "differences",
    "load_results",
    "outcomes_match",
    "over_seeds",
    "paths",
    "read",
    "write",
]
