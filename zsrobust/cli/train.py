"""`zsrobust train`: train the checkpoint of a defense."""

import click

from zsrobust.cli.command import Command
from zsrobust.cli.completion import DEFENSE
from zsrobust.cli.options import (
    checkpoints_option,
    data_option,
    device_option,
    suite_option,
    tensorboard_option,
)
from zsrobust.cli.request import Places, passes
from zsrobust.cli.waiting import waiting
from zsrobust.core.claims import terminable
from zsrobust.core.errors import ZSRobustError


@click.command(
    cls=Command,
    examples=["zsrobust train pmg_aft --suite mini", "zsrobust train tecoa:lr=1e-4 --suite mini"],
)
@click.argument("defense", type=DEFENSE)
@suite_option
@data_option
@passes(Places, "places", checkpoints_option, device_option, tensorboard_option)
@terminable()  # also while torch is loaded
def train(defense: str, suite: str | None, places: Places) -> None:
    """Train the checkpoint of DEFENSE, if it is missing."""
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite

    loaded = load_suite(suite)
    index.check([defense])
    with waiting("loading torch"):
        from zsrobust.cli import progress
        from zsrobust.defenses import defenses

    workshop = places.workshop(loaded)
    recipe = defenses.create(defense).recipe_for(workshop.suite)
    if recipe is None:
        of = getattr(defenses.create(defense), "of", None)
        remedy = f"Next: zsrobust train {of}" if of else "See: zsrobust list defenses"
        raise ZSRobustError(f"{defense} has no training of its own. {remedy}")
    path = workshop.checkpoint_path(recipe)
    there = path.exists()
    with progress.live() as shown:
        workshop.progress, workshop.preparing = shown.training, shown.preparing
        tower = workshop.tower(defense)
    click.echo(f"{path} {'exists already' if there else 'written'}")
    for number, epoch in enumerate(tower.training["history"], 1):
        accuracy = f"accuracy {epoch['accuracy']:.1%}, " if "accuracy" in epoch else ""
        click.echo(
            f"epoch {number}: loss {epoch['loss']:.3f}, {accuracy}"
            f"distance {epoch['distance']:.4f}, {epoch['seconds']:.1f} s"
        )
