"""Prints a variable of a MATLAB file as JSON. A damaged file can end this process."""

import json
import sys
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return scipy's values as lists of numbers, texts, and dictionaries for structures."""
    if isinstance(value, np.ndarray):
        return [plain(each) for each in np.atleast_1d(value)]
    if isinstance(value, np.void) and value.dtype.names:
        return {name: plain(value[name]) for name in value.dtype.names}
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    import scipy.io  # type: ignore[import-untyped]  # it has no types

    found = scipy.io.loadmat(
        sys.argv[1], appendmat=False, squeeze_me=True, variable_names=[sys.argv[2]]
    )
    json.dump(plain(np.atleast_1d(found[sys.argv[2]])), sys.stdout)
