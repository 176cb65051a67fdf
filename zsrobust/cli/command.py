"""The base of all commands: examples, one value for each option, and errors of one line."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from zsrobust.core.claims import Preempted
from zsrobust.core.errors import ZSRobustError


class Command(click.Command):
    """A command with examples. It refuses repeated options and empty values."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        """Take click's arguments, and the examples to print below the options."""
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the remaining arguments; raises UsageError for an empty or repeated value."""
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter, times in Counter(order).items():
            if times > 1 and _takes_one_value(parameter):
                _refuse(f"{_name(parameter)} is given {times} times. It takes one value.", ctx)
            given = values.get(str(parameter.name))
            if "" in (given if isinstance(given, list | tuple) else [given]):
                _refuse(f"{_name(parameter)} is empty. It takes a value.", ctx)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each example on its own line, so that it can be copied."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _takes_one_value(parameter: click.Parameter) -> bool:
    if not isinstance(parameter, click.Option):
        return False
    return not (parameter.multiple or parameter.is_flag or parameter.count)


def _name(parameter: click.Parameter) -> str:
    return parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.name).upper()


def _refuse(message: str, ctx: click.Context) -> None:
    if ctx.resilient_parsing:  # a shell asks for completions of what is not yet whole
        return
    raise click.UsageError(message, ctx)


class Commands(Command, click.Group):
    """The group of commands. It prints a ZSRobustError as one line, with exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, and exit."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except ZSRobustError as error:
            code = _report(str(error))
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "zsrobust"
            code = _report(f"{_one_line(error.format_message())} See: {path} --help")
        except click.exceptions.Abort as abort:
            preempted = isinstance(abort.__cause__, Preempted)
            why = "Preempted: the process received SIGTERM." if preempted else "Interrupted."
            rest = "Computed cells are stored. Run the same command to continue."
            click.echo(f"{why} {rest}", err=True)
            code = 0 if preempted else 130  # a scheduler that preempts does not count a failure
        sys.exit(code if isinstance(code, int) else 0)


def _report(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return 2


def _one_line(text: str) -> str:
    """Return click's message as one line; click puts suggested names on other lines."""
    return " ".join(text.split())
