"""The cells of a results folder, and the commands that recompute them."""

import json
import re
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import read_regular, slug
from zsrobust.core.specs import parse_eps
from zsrobust.results import store
from zsrobust.results.cell import Result
from zsrobust.results.findings import removal
from zsrobust.results.identity import FLOAT32, Identity
from zsrobust.results.selection import Selection, known_suite

#: What the five parts of a cell's place are named after; the attack's has its eps, too.
NAMED = ("suite", "protocol", "attack", "defense", "dataset")


class Cells:
    """The cells under a folder: the results by path, and the reasons why others are unreadable."""

    def __init__(self, folder: Path) -> None:
        """Read all cells under `folder`."""
        self.results: dict[Path, Result] = {}
        self.unreadable: dict[Path, str] = {}
        for path in store.paths(folder):
            try:
                self.results[path] = store.read(path)
            except ZSRobustError as error:
                reason = str(error).partition("zsrobust (")[2].rpartition(").")[0]
                self.unreadable[path] = reason or str(error)
        abouts = [result.identity.about for result in self.results.values()]
        #: Names by their slug, for cells whose content is damaged.
        self._names = {slug(about[key]): about[key] for about in abouts for key in NAMED}

    def command(self, path: Path, all_datasets: bool = False, force: bool = True) -> str:
        """Return the command that recomputes a cell, or the cells of all datasets beside it.

        It removes the file if neither its content nor its place names a cell.
        """
        identity = self.results[path].identity if path in self.results else None
        about = identity.about if identity else self._about(path)
        if about is None:
            return removal(path)
        selection = Selection(
            suite=known_suite(about["suite"]),
            attack=about["attack"],
            eps=parse_eps(about["eps"], None),
            **{name: about[name] for name in ("protocol", "limit", "seed")},
        )
        return selection.command(
            [about["defense"]],
            dataset=None if all_datasets else about["dataset"],
            precision=identity.search if identity and identity.search != FLOAT32 else None,
            compiled=bool(identity and identity.compiled),
            force=force,
        )

    def _about(self, path: Path) -> dict[str, Any] | None:
        """Return what an unreadable cell is: by its content if its place agrees, else by place."""
        place = store.place_of(path)
        try:
            stored = Identity.from_json(json.loads(read_regular(path))["identity"])
            if stored.path.parts == place:
                return stored.about
        except (*store.DAMAGED, ZSRobustError):
            pass
        return self._about_place(place)

    def _about_place(self, place: tuple[str, ...]) -> dict[str, Any] | None:
        """Return what a cell is by its place; None if the place does not name a cell."""
        if len(place) < len(NAMED):
            return None
        suite, protocol, attack, defense, name = place
        attack, _, bound = attack.rpartition("-eps=")
        eps = re.sub(r"^(\d+)-(\d+)$", r"\1/\2", bound)  # 6-255 means 6/255; 1e-05 stays
        parts = re.fullmatch(r"(.+?)(?:\.limit=(\d+))?(?:\.seed=(\d+))?", name)
        try:
            parse_eps(eps, None)
        except ZSRobustError:
            return None
        if parts is None or not attack:
            return None
        dataset, limit, seed = parts.groups()
        slugs = zip(NAMED, (suite, protocol, attack, defense, dataset), strict=True)
        return {
            **{key: self._names.get(each, each) for key, each in slugs},
            "eps": eps,
            "limit": int(limit) if limit else None,
            "seed": int(seed) if seed else 0,
        }
