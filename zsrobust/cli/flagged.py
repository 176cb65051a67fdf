"""Red flags and notes of a run: marks for its table, their words, and the next commands."""

from collections.abc import Iterable, Sequence

import click

from zsrobust.core.errors import counted
from zsrobust.evaluation.redflags.rules import RULES
from zsrobust.results.cell import Result
from zsrobust.results.flags import known, look_up
from zsrobust.results.selection import Selection, known_suite

NAMED = 3  #: datasets that a command names


class Flagged:
    """The flags of a run's results, with a number each."""

    def __init__(self, results: Sequence[Result]) -> None:
        """Number the flags in the order of `flags.toml`, those without words last."""
        self._results = results
        raised = sorted({flag for result in results for flag in result.flags})
        order = [*(name for name in known() if name in raised), *raised]
        self._numbers = {flag: n for n, flag in enumerate(dict.fromkeys(order), start=1)}

    def __bool__(self) -> bool:
        """Whether any result has a flag."""
        return bool(self._numbers)

    def mark(self, flags: Iterable[str]) -> str:
        """Return the numbers of some flags: "1,3"."""
        raised = set(flags)
        return ",".join(str(number) for flag, number in self._numbers.items() if flag in raised)

    @property
    def lines(self) -> list[str]:
        """The words of each flag with its rows and datasets, then a command for each defense."""
        lines = []
        for flag, number in self._numbers.items():
            words = look_up(flag)
            remedy = words.remedy if _is_note(flag) else ""
            lines.append(f"!{number} {words.sentence} {remedy}".rstrip())
            rows: dict[str, list[str]] = {}
            for result in self._results:
                if flag in result.flags:
                    rows.setdefault(_row(result), []).append(result.identity.dataset.title)
            lines += [f"   {row}: {_listed(titles)}" for row, titles in rows.items()]
        return [*lines, *(f"Next: {command}" for command in self._commands)]

    @property
    def _commands(self) -> list[str]:
        """The command that examines each defense with a red flag, on the datasets that have one."""
        chosen: dict[str, tuple[Selection, list[str]]] = {}
        for result in self._results:
            identity = result.identity
            if all(map(_is_note, result.flags)):
                continue
            selection = Selection(
                suite=known_suite(identity.suite),
                eps=identity.attack.eps,
                protocol=identity.protocol,
                seed=identity.seed,
            )
            _, names = chosen.setdefault(identity.defense.spec, (selection, []))
            names.append(identity.dataset.name)
        return [
            selection.examination(defense, list(dict.fromkeys(names))[:NAMED], _plugins())
            for defense, (selection, names) in chosen.items()
        ]


def _is_note(flag: str) -> bool:
    """Return whether a flag comes from an attack or from the counts, and not from a rule."""
    return flag in known() and flag not in RULES


def _row(result: Result) -> str:
    about = result.identity.about
    return f"{about['defense']} under {about['attack']} {about['eps']}"


def _listed(titles: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(titles))
    return f"{', '.join(distinct)} ({counted(len(distinct), 'dataset')})"


def _plugins() -> Sequence[str]:
    """Return the plugin files of the command that runs now."""
    context = click.get_current_context(silent=True)
    return [] if context is None else list(map(str, context.find_root().params["plugins"]))
