"""The options of a command as objects: the requested cells, and the folders."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsrobust.defenses.workshop import Workshop
    from zsrobust.results.selection import Selection
    from zsrobust.results.store import Store
    from zsrobust.settings.suites import Suite

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The cells that the options request, as the user wrote them."""

    suite: str | None
    protocol: str
    limit: int | None
    eps: float | None = None
    seed: int = 0
    attack: str = "pgd10"

    def selection(self, suite: "Suite") -> "Selection":
        """Return the selection of a suite's cells; raises ZSRobustError for a wrong option."""
        from zsrobust.results.selection import Selection
        from zsrobust.settings import protocols

        return Selection.of(
            suite,
            attack=self.attack,
            eps=self.eps,
            protocol=protocols.load(self.protocol).name,
            limit=self.limit,
            seed=self.seed,
            protocol_asked=self.protocol,
        )


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders of results and checkpoints, and the torch device."""

    folder: Path = Path("runs")  #: of your results
    baseline: Path | None = None  #: results to reuse; never written
    checkpoints: Path = Path("checkpoints")
    device: str | None = None
    tensorboard: Path | None = None  #: where trainings log their numbers

    @property
    def store(self) -> "Store":
        """The results that a command reads, and the folder that a run writes."""
        from zsrobust.results.store import Store

        return Store(self.folder, self.baseline)

    def workshop(self, suite: "Suite") -> "Workshop":
        """Return the workshop of a suite; raises ZSRobustError if the device is not usable."""
        from zsrobust.cli.device import choose
        from zsrobust.defenses.workshop import Workshop

        workshop = Workshop(suite, self.checkpoints, choose(self.device))
        if self.tensorboard is not None:
            from zsrobust.training.scalars import Scalars

            workshop.log = Scalars(self.tensorboard)
        return workshop


def passes(kind: type[Any], name: str, *options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command, and passes their values as one object."""
    names = [each.name for each in fields(kind)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            values = {key: given.pop(key) for key in names if key in given}
            command(**given, **{name: kind(**values)})

        decorated: Callable[..., None] = called
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
