"""Shell completion of names, and of the fields behind `name:`. No torch here."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    split_arg_string,
)
from click.types import StringParamType

#: Names, each with its fields.
Names = Callable[[], Mapping[str, Sequence[str]]]


class Named(StringParamType):
    """Text that a shell completes: a name, then its fields, or the path of a file."""

    def __init__(self, names: Names, files: bool = False) -> None:
        """Take the names, which are read when a shell asks, and whether files are accepted."""
        self._names, self._files = names, files

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names, or the fields not yet written, that begin as the text does."""
        names = self._names()
        name, colon, fields = incomplete.partition(":")
        if not colon:
            found = [CompletionItem(each) for each in names if each.startswith(incomplete)]
            return found or [CompletionItem(incomplete, type="file")] * self._files
        written, comma, begun = fields.rpartition(",")
        taken = [each.partition("=")[0] for each in written.split(",")]
        left = [each for each in names.get(name, ()) if each not in taken]
        return [
            CompletionItem(f"{name}:{written}{comma}{each}=")
            for each in left
            if each.startswith(begun)
        ]


class Bash(BashComplete):
    """Completion in bash, which breaks words at ":" and "=": it gets what follows the last one."""

    source_template = BashComplete.source_template.replace(
        'COMP_WORDS="${COMP_WORDS[*]}"',
        'COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS"',
    ).replace(
        "COMPREPLY+=($value)",
        'COMPREPLY+=("$value"); [[ $value == *= ]] && compopt -o nospace',
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words before the cursor, and the word at the cursor."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1].isspace() else ""
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return the completions without what bash keeps of the word at the cursor."""
        found = super().get_completions(args, incomplete)
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        breaks = "".join(set(os.environ.get("COMP_WORDBREAKS", ":=")) & set(":="))
        kept = re.match(rf".*[{breaks}]", value) if breaks else None
        for item in found:
            if kept and str(item.value).startswith(kept[0]):
                item.value = item.value[kept.end() :]
        return found


add_completion_class(Bash)


def _entries(kind: str) -> Names:
    """Return what reads the built-in names of a kind, "attack" for example, and their fields."""

    def names() -> Mapping[str, Sequence[str]]:
        from zsrobust.core.index import FILE  # the entries of plugins are not in it

        found = json.loads(FILE.read_text(encoding="utf-8"))[kind]
        return {name: [*each.get("fields", ())] for name, each in found.items()}

    return names


def _suites() -> Mapping[str, Sequence[str]]:
    from zsrobust.settings import suites

    return dict.fromkeys(suites.names(), ())


def _protocols() -> Mapping[str, Sequence[str]]:
    from zsrobust.settings import protocols

    switches = [each.name for each in dataclasses.fields(protocols.Protocol)]
    fields = [name for name in switches if name not in ("name", "title")]
    return dict.fromkeys(protocols.names(), fields)


def _tables() -> Mapping[str, Sequence[str]]:
    from zsrobust.reporting.contents import TABLES

    return dict.fromkeys(TABLES, ())


def _figures() -> Mapping[str, Sequence[str]]:
    from zsrobust.reporting.plots import FIGURES

    return dict.fromkeys(FIGURES, ())


ATTACK, DEFENSE, DATASET = (Named(_entries(kind)) for kind in ("attack", "defense", "dataset"))
SUITE, PROTOCOL = Named(_suites, files=True), Named(_protocols, files=True)
TABLE, FIGURE = Named(_tables), Named(_figures)

#: The types of options that may be given several times, by their variable.
SEVERAL = {
    "attacks": ATTACK,
    "defenses": DEFENSE,
    "datasets": DATASET,
    "numbers": TABLE,
    "figures": FIGURE,
}
