"""Folders as values of options: on this machine, or results on the hub that are only read."""

from pathlib import Path
from typing import Any

import click

from zsrobust.cli.waiting import waiting
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import is_address
from zsrobust.core.hub import local


class Folder(click.Path):
    """A folder on this machine, which may be missing."""

    def __init__(self) -> None:
        """Take no settings: files are refused, and values are paths."""
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raises ZSRobustError for an address of the hub, which is read only."""
        if is_address(value):
            raise ZSRobustError(
                f"{value} is read only, and this option is a folder that may be written. "
                f"Next: --baseline {value} reuses its cells; zsrobust push uploads a folder"
            )
        return super().convert(value, param, ctx)


class Results(Folder):
    """A folder of results to read: a path, or hf://OWNER/NAME[@REVISION], which is downloaded."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raises ZSRobustError for an address that leads nowhere."""
        if is_address(value) and not (ctx and ctx.resilient_parsing):
            with waiting(f"reading {value}"):
                value = local(value)
        return super().convert(value, param, ctx)
