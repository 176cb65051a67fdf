"""Which cells a table or a figure shows, and the command that computes them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsrobust.core.specs import format_eps, join_spec, parse_eps, split_spec
from zsrobust.core.sweeps import format_seeds
from zsrobust.settings import protocols, suites
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cells a table or a figure shows; `command` returns the command that computes them."""

    suite: Suite
    attack: str = "pgd10"  #: spec without its eps
    eps: float  #: in pixels of [0, 1]
    protocol: str = protocols.DEFAULT  #: name
    limit: int | None = None  #: images of each subset; None for the suite's own sizes
    seed: int = 0
    #: of the trainings; None if the specs of the defenses name it
    train_seed: int | None = None
    protocol_asked: str = ""  #: the name or the file that the user gave

    @classmethod
    def of(
        cls,
        suite: Suite,
        *,
        attack: str = "pgd10",
        eps: float | None = None,
        protocol: str = protocols.DEFAULT,
        limit: int | None = None,
        seed: int = 0,
        protocol_asked: str = "",
    ) -> "Selection":
        """Return the selection of a suite's cells under an attack, given by its spec.

        `eps` overrides the eps of the spec, which overrides the suite's. Raises ZSRobustError for
        a spec or an eps that is not valid.
        """
        name, fields = split_spec(attack)
        own, norm = fields.pop("eps", None), fields.get("norm", "linf")
        if eps is None:
            eps = suite.attack["eps"] if own is None else parse_eps(own, norm)
        elif eps >= 1:
            eps = parse_eps(format_eps(eps), norm)
        return cls(
            suite=suite,
            attack=join_spec(name, fields),
            eps=eps,
            protocol=protocol,
            limit=limit,
            seed=seed,
            protocol_asked=protocol_asked,
        )

    @property
    def bound(self) -> str:
        """The eps as text, as it is stored and printed: "8/255"."""
        return format_eps(self.eps)

    @property
    def usual(self) -> bool:
        """Whether the eps is the suite's own."""
        own = self.suite.attack.get("eps")
        return own is not None and self.bound == format_eps(own)

    def cells(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return the selected rows of the DataFrame of `load_results`.

        They are the cells on the suite's own sizes, or with `limit` on subsets of that size.
        """
        limit = self.limit
        if limit is None:
            limit = self.suite.limits.get(split_spec(self.attack)[0])
        chosen = frame[
            (frame["suite"] == self.suite.name)
            & (frame["protocol"] == self.protocol)
            & (frame["attack"] == self.attack)
            & (frame["eps"] == self.bound)
            & (frame["seed"] == self.seed)
        ]
        if not limit:
            return chosen[chosen["limit"].isna()]
        # A dataset with at most `limit` images is measured whole, and stored without a limit.
        whole = chosen["limit"].isna() & (chosen["images"] <= limit)
        return chosen[whole | (chosen["limit"] == limit)]

    def matching(self, defense: str, cells: "pd.DataFrame") -> "pd.Series[bool]":
        """Return which cells are of a defense: of its spec, or of its method and `train_seed`.

        A defense without training has the same cells for every training seed.
        """
        if self.train_seed is None:
            return cells["defense"] == defense
        trained = (cells["train_seed"] == self.train_seed) | cells["train_seed"].isna()
        return (cells["method"] == defense) & trained

    def command(
        self,
        defenses: Sequence[str] = (),
        *,
        table: str | None = None,
        figure: str | None = None,
        dataset: str | None = None,
        precision: str | None = None,
        compiled: bool = False,
        force: bool = False,
        attacks: Sequence[str] = (),
        bounds: Sequence[float] = (),
        datasets: Sequence[str] = (),
        seeds: Sequence[int] = (),
        train_seeds: Sequence[int] = (),
    ) -> str:
        """Return the command that computes the selected cells of `defenses`, quoted for a shell.

        At the suite's eps, it names `table` or `figure`, if one is given. Otherwise it names the
        defenses, the attack and the eps. It leaves out the defaults. `attacks`, `bounds` and
        `seeds` replace the selection's own.
        """
        words = ["zsrobust", "run", "--suite", self.suite.asked or self.suite.name]
        if self.protocol != protocols.DEFAULT:
            words += ["--protocol", self._protocol]
        if table and self.usual:
            words += ["--table", table]
        elif figure and self.usual:
            words += ["--figure", figure]
        else:
            words += [word for spec in defenses for word in ("--defense", spec)]
            words += [word for spec in attacks or [self.attack] for word in ("--attack", spec)]
            own = [] if self.usual else [self.eps]
            printed = map(format_eps, bounds or own)
            words += [word for bound in printed for word in ("--eps", bound)]
        for name in [*datasets, *([dataset] if dataset is not None else [])]:
            words += ["--dataset", name]
        if self.limit is not None:
            words += ["--limit", str(self.limit)]
        for option, values in {"--seed": seeds or [self.seed], "--train-seed": train_seeds}.items():
            if list(values) != [0]:
                words += [word for text in format_seeds(values) for word in (option, text)]
        if precision is not None:
            words += ["--precision", precision]
        words += ["--compile"] if compiled else []
        return shlex.join([*words, "--force"] if force else words)

    def examination(
        self, defense: str, datasets: Sequence[str], plugins: Sequence[str] = ()
    ) -> str:
        """Return the command that examines a defense on datasets, quoted for a shell."""
        words = ["zsrobust", *(word for file in plugins for word in ("--plugin", file)), "doctor"]
        words += ["--suite", self.suite.asked or self.suite.name]
        if self.protocol != protocols.DEFAULT:
            words += ["--protocol", self._protocol]
        words += ["--defense", defense]
        words += [word for name in datasets for word in ("--dataset", name)]
        words += [] if self.usual else ["--eps", self.bound]
        return shlex.join([*words, "--seed", str(self.seed)] if self.seed else words)

    @property
    def _protocol(self) -> str:
        """The value of --protocol: a name or a file."""
        if self.protocol_asked:
            return self.protocol_asked
        ours = split_spec(self.protocol)[0] in protocols.names()
        return self.protocol if ours else f"{self.protocol}.toml"


def known_suite(name: str, datasets: Sequence[str] = ()) -> Suite:
    """Return one of our suites by name; any other suite has only its name and `datasets`."""
    if name in suites.names():
        return suites.load(name)
    return Suite(
        name=name,
        title=name,
        backbone="",
        train_on="",
        datasets=tuple(datasets),
        attack={},
        asked=f"{name}.toml",
    )
