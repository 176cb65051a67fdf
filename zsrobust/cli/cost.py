"""`zsrobust cost`: what the tables of a suite cost on 1, 8 and 64 GPUs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import checkpoints_option, device_option, protocol_option, suite_option
from zsrobust.cli.request import Places, passes
from zsrobust.cli.waiting import waiting
from zsrobust.core.errors import ZSRobustError

if TYPE_CHECKING:
    from zsrobust.running.costs.forecast import Forecast
    from zsrobust.running.costs.model import Speed

GPUS = (1, 8, 64)
IMAGENET = "paper_imagenet"  #: the suite of the last row: Table 1's trainings, on ImageNet


@click.command(
    cls=Command,
    examples=["zsrobust cost --suite mini", "zsrobust cost --suite paper --rate 20000"],
)
@suite_option
@protocol_option
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    help="Assumed image-steps a second of a GPU, forward and backward. Default: measured here.",
)
@passes(Places, "places", device_option, checkpoints_option)
def cost(suite: str | None, protocol: str, rate: float | None, places: Places) -> None:
    """Print the hours, passes and bytes of every table, as if nothing was stored.

    Hours are of 1, 8 and 64 devices of one speed, which the last lines report. It needs neither
    data nor the network.
    """
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    loaded, settings = load_suite(suite), protocols.load(protocol)
    with waiting("loading torch"):
        from zsrobust.reporting import contents
        from zsrobust.running.bench import Bench
        from zsrobust.running.costs import forecast
        from zsrobust.running.costs.model import Speed

    bench = Bench(loaded, settings, places.workshop(loaded))
    found: dict[str, Forecast] = {}
    absent = []
    for number in contents.TABLES:
        try:
            name = contents.suite_name(number, loaded)
            other = loaded if name == loaded.name else load_suite(name)
            found[number] = forecast.of_table(Bench(other, settings, bench.workshop), number)
        except ZSRobustError:
            absent.append(number)
    found["all"] = forecast.merged(found.values())
    large = load_suite(IMAGENET)
    if large.backbone == loaded.backbone:  # another backbone has another speed
        found["ImageNet"] = forecast.of_trainings(large, contents.ROWS)
    with waiting("loading open_clip" if rate else "loading open_clip and measuring this device"):
        shape = bench.workshop.shape
        weights = sum(each.nbytes for each in shape.encoder.parameters())
        flop = forecast.flop_of(shape.encoder.to("cpu"), shape.side)
        speed = Speed(2 * rate, rate) if rate else bench.speed
    click.echo(
        f"{'table':9}{'cells':>6}{'trainings':>10}{'TFLOP':>13}"
        + "".join(f"{f'{gpus} GPU' + 's' * (gpus > 1):>10}" for gpus in GPUS)
        + f"{'at least':>10}{'disk':>12}"
    )
    for number, each in found.items():
        click.echo(_line(number, each, speed, flop, each.bytes(shape.side, weights)))
    for line in _notes(found["all"], absent, speed, rate, bench.workshop.device, weights):
        click.echo(line)


def _line(number: str, each: "Forecast", speed: "Speed", flop: int, size: int) -> str:
    hours = [each.hours(speed, gpus) for gpus in GPUS] + [each.longest(speed)]
    counts = f"{number:9}{len(each.cells):6}{len(each.trainings):10}"
    work = f"{sum(each.passes) * flop / 1e12:13,.1f}"
    return counts + work + "".join(f"{value:8,.2f} h" for value in hours) + f"{size / 1e9:9,.2f} GB"


def _notes(
    whole: "Forecast",
    absent: list[str],
    speed: "Speed",
    rate: float | None,
    device: str,
    weights: int,
) -> Iterator[str]:
    how = "ASSUMED (--rate), forward alone twice" if rate else f"measured just now on {device}"
    yield f"speed     {speed.both:,.0f} image-steps a second forward and backward, {how}"
    size = f"{weights / 1e6:,.1f} MB"
    yield f"memory    weights {size} a tower, two towers in a training; activations not counted"
    yield "at least  the longest cell after its training: more GPUs do not help"
    yield "all       each training and each cell once"
    yield "bounds    no image breaks before the last step; red flags included, text heads not"
    if whole.unknown:
        yield f"          without {', '.join(whole.unknown)}: passes not reported"
    if absent:
        yield f"          without Tables {', '.join(absent)}: the suite does not have them"
