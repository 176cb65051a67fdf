"""The results of several cells, as `zsrobust.evaluate` returns them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from zsrobust.results import shown
from zsrobust.results.cell import Result

if TYPE_CHECKING:
    import pandas as pd


class Results(Sequence[Result]):
    """The results of several cells, in the order in which they were asked for."""

    def __init__(self, results: Sequence[Result]) -> None:
        """Take the results."""
        self._results = tuple(results)

    @property
    def frame(self) -> "pd.DataFrame":
        """A DataFrame with a row for each result; its columns are the keys of `Result.to_dict`."""
        import pandas as pd  # half a second, which a command without tables does not need

        return pd.DataFrame([result.to_dict() for result in self])

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> "Results": ...
    def __getitem__(self, index: int | slice) -> "Result | Results":
        """Return a result by its position, or the results of a slice."""
        found = self._results[index]
        return found if isinstance(found, Result) else Results(found)

    def __repr__(self) -> str:
        """Return a line for each result."""
        return "\n".join(map(shown.line, self)) or "Results()"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return shown.html(self)
