"""The options that several commands share."""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from zsrobust.cli.completion import PROTOCOL, SEVERAL, SUITE
from zsrobust.cli.folders import Folder, Results
from zsrobust.cli.request import Decorator, Places, Request, passes
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import LARGEST, NUMBER, parse_eps
from zsrobust.core.sweeps import StepSize, parse_bounds, parse_seeds


class Whole(click.IntRange):
    """A whole number of 64 bits, in ASCII digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; fails for digits outside ASCII, and outside the range."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            self.fail(f"{value[:40]!r} is not a whole number of at most 19 digits.", param, ctx)
        number = int(super().convert(value, param, ctx))
        if number >= LARGEST:
            self.fail(f"{value} is not below 2^63.", param, ctx)
        return number


class Points(click.FloatRange):
    """A number of percentage points."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fails for nan, for digits outside ASCII, and outside the range."""
        if isinstance(value, str) and not NUMBER.fullmatch(value):
            self.fail(f"{value[:40]!r} is not a number.", param, ctx)
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("nan is not a number of points.", param, ctx)
        return number


def _eps(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_eps(value, None)


def _step_size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else StepSize.parse(value)


def _data_root(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Set the dataset folder of this process and of its child processes."""
    if value is not None:
        os.environ["ZSROBUST_DATA"] = str(value)


def _out(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Return the file to write; raises ZSRobustError if its folder's parent is missing."""
    if value is not None and not value.parent.is_dir() and not value.parent.parent.is_dir():
        raise ZSRobustError(
            f"--out {value}: the folder {value.parent.parent} does not exist. "
            f"Next: mkdir -p {value.parent}"
        )
    return value


def out_option(formats: str, default: str | None = None) -> Decorator:
    """Return the option --out of a command that writes one file."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default,
        show_default=default is not None,
        callback=_out,
        help=f"File to write: {formats}.",
    )


def several(option: str, variable: str, text: str, metavar: str | None = None) -> Decorator:
    """Return an option that may be given several times."""
    kind = SEVERAL.get(variable)
    return click.option(option, variable, type=kind, multiple=True, metavar=metavar, help=text)


def _ranges(option: str, variable: str, parse: Callable[[Any], Any], text: str) -> Decorator:
    """Return an option of several values, each one value or a range."""
    return click.option(
        option,
        variable,
        multiple=True,
        metavar="VALUE|FIRST..LAST",
        callback=lambda ctx, parameter, texts: parse(texts),
        help=f"{text} Repeatable.",
    )


def limit_of(default: int | None = None) -> Decorator:
    """Return the option --limit."""
    return click.option(
        "--limit",
        type=Whole(min=1),
        default=default,
        show_default=default is not None,
        help="Number of images: a fixed class-balanced subset of each dataset.",
    )


def _folder(
    variable: str, name: str, default: str, text: str, kind: click.ParamType[Any] | None = None
) -> Decorator:
    """Return the option of a folder; the variable ZSROBUST_NAME is its default."""
    return click.option(
        f"--{name}",
        variable,
        type=kind or Folder(),
        default=default,
        show_default=True,
        envvar=f"ZSROBUST_{name.upper()}",
        help=text,
    )


def _baseline(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path | None:
    return None if str(value) == "none" else value


suite_option = click.option(
    "--suite", type=SUITE, help="Name or TOML file of a suite. Default: paper."
)
stored_suite_option = click.option(
    "--suite",
    type=SUITE,
    help="Name or TOML file of a suite. Default: the only one in the results.",
)
protocol_option = click.option(
    "--protocol",
    type=PROTOCOL,
    default="sound",
    show_default=True,
    help="Name or TOML file of a protocol.",
)
eps_option = click.option(
    "--eps",
    callback=_eps,
    help="Bound of the perturbation, for example 8/255, or 12 in l1. Default: the suite's.",
)
limit_option = limit_of()
seed_option = click.option(
    "--seed",
    type=Whole(min=0),
    default=0,
    show_default=True,
    help="Seed of the attacks' random numbers.",
)
bounds_option = _ranges(
    "--eps",
    "bounds",
    parse_bounds,
    "Bounds of the perturbation: 8/255, or 1/255..8/255 in steps of 1/255, or 12 in l1. "
    "Default: the suite's.",
)
seeds_option = _ranges(
    "--seed", "seeds", parse_seeds, "Seeds of the attacks' random numbers: 3, or 0..4. Default: 0."
)
train_seeds_option = _ranges(
    "--train-seed",
    "train_seeds",
    parse_seeds,
    "Seeds of the trainings: 3, or 0..4. A defense without a training of its own passes it on to "
    "those that it is around; CLIP ignores it. Default: the recipe's.",
)
step_size_option = click.option(
    "--step-size",
    callback=_step_size,
    help="Step of the attacks that have one: a number, or a share of eps such as eps:1/4. "
    "Default: the suite's, at every eps.",
)
data_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    expose_value=False,
    callback=_data_root,
    help="Folder of local datasets in torchvision's layout. Default: ZSROBUST_DATA.",
)
folder_option = _folder("folder", "results", "runs", "Folder of your results.")
stored_option = _folder(
    "folder", "results", "runs", "Folder of results, or hf://OWNER/NAME[@REVISION].", Results()
)
baseline_option = click.option(
    "--baseline",
    type=Results(),
    default="results",
    show_default=True,
    envvar="ZSROBUST_BASELINE",
    callback=_baseline,
    help="Folder of results to reuse; it is never written. none: reuse only your own results.",
)
checkpoints_option = _folder(
    "checkpoints", "checkpoints", "checkpoints", "Folder of the checkpoints."
)
tensorboard_option = click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Folder for the numbers of trainings, as TensorBoard's scalars.",
)
device_option = click.option("--device", help="Torch device. Default: cuda if present, else cpu.")

request_options = passes(Request, "request", suite_option, protocol_option, limit_option)
stored_options = passes(
    Request, "request", stored_suite_option, protocol_option, eps_option, limit_option, seed_option
)
store_options = passes(Places, "places", stored_option, baseline_option)

precision_option = click.option(
    "--precision",
    "search",
    type=click.Choice(["float32", "tf32", "bf16"]),
    default="float32",
    show_default=True,
    help="Precision of the attacks' search. Every verdict is made in float32.",
)
compile_option = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile what attacks search in, except test-time defenses and verdicts.",
)
executor_option = click.option(
    "--executor",
    type=click.Choice(["slurm", "local"]),
    help="Compute in jobs, one for each defense, and wait for them.",
)
slurm_option = several(
    "--slurm",
    "settings",
    "Setting of the jobs: partition, time (minutes), gpus. Needs --executor.",
    metavar="KEY=VALUE",
)


def check_executor(executor: str | None, settings: Sequence[str]) -> None:
    """Raise ZSRobustError for settings of jobs without an executor."""
    if settings and not executor:
        raise ZSRobustError(
            "--slurm configures the jobs of an executor. Next: add --executor slurm"
        )
