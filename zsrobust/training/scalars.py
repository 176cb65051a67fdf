"""The numbers of trainings as scalars of TensorBoard."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError


class Scalars:
    """Writes the numbers of each training into a folder of its own. It is a `Workshop.log`."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; raises ZSRobustError if TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ZSRobustError(
                "--tensorboard needs the package tensorboard, which is not installed. "
                "Next: pip install tensorboard"
            ) from None
        self._open, self._folder = SummaryWriter, folder
        self._writers: dict[str, Any] = {}

    def __call__(self, name: str, done: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of a training after `done` steps; they are on disk when it returns."""
        if name not in self._writers:
            folder = self._folder / re.sub(r"[^\w.,=-]+", "-", name)
            # A resumed training replaces what an interrupted one wrote after its last saved state.
            self._writers[name] = self._open(str(folder), purge_step=done)
        for key, value in numbers.items():
            self._writers[name].add_scalar(key, value, done)
        self._writers[name].flush()
