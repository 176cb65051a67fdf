"""The command line: parse, call, print. Commands import heavy modules when they run."""

from collections.abc import Sequence
from pathlib import Path

import click

from zsrobust.cli.calibrate import calibrate
from zsrobust.cli.check import check, report, site
from zsrobust.cli.command import Commands
from zsrobust.cli.compare import compare
from zsrobust.cli.cost import cost
from zsrobust.cli.curve import curve
from zsrobust.cli.data import data, list_
from zsrobust.cli.doctor import doctor
from zsrobust.cli.export import export
from zsrobust.cli.push import push
from zsrobust.cli.reproduce import reproduce
from zsrobust.cli.run import run
from zsrobust.cli.show import figure, table
from zsrobust.cli.submit import submit
from zsrobust.cli.train import train
from zsrobust.cli.verify import verify
from zsrobust.core.registry import load_plugin_file


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    examples=[
        "zsrobust run --suite mini --defense pmg_aft --attack pgd10",
        "zsrobust --plugin mine.py list attacks",
    ],
)
@click.version_option(package_name="zsrobust")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Python file that registers plugins, or TOML file of datasets and weights. Repeatable.",
)
def main(plugins: Sequence[Path]) -> None:
    """Measure the zero-shot adversarial robustness of CLIP: defenses x attacks x datasets.

    Names and fields are completed after this line in the start file of your shell:

    \b
    bash  eval "$(_ZSROBUST_COMPLETE=bash_source zsrobust)"
    zsh   eval "$(_ZSROBUST_COMPLETE=zsh_source zsrobust)"
    fish  _ZSROBUST_COMPLETE=fish_source zsrobust | source
    """  # noqa: D301  # click keeps lines after a backspace character
    for path in plugins:
        if path.suffix == ".toml":
            from zsrobust.running.entries import load_entries

            load_entries(path)
        else:
            load_plugin_file(path)


_commands = (
    list_,
    data,
    train,
    run,
    cost,
    table,
    figure,
    curve,
    compare,
    report,
    site,
    check,
    verify,
    submit,
    push,
    export,
    doctor,
    calibrate,
    reproduce,
)
for command in _commands:
    main.add_command(command)
