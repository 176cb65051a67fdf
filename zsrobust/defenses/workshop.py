"""The workshop: makes the image towers of defenses, and trains the checkpoints that are missing."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Images, datasets
from zsrobust.datasets import Progress as Preparing
from zsrobust.defenses import Tower, defenses
from zsrobust.models.clip import Clip, load_clip, weights_are_here
from zsrobust.results.digests import checkpoint_place
from zsrobust.settings.suites import Suite
from zsrobust.training import Checkpoint, Recipe, ranks, texts, train, trained_encoder

Progress = Callable[[str, int, int, str], None]  #: name, steps done, steps in all, note


class Workshop:
    """Where towers come from: a suite's backbone, and the folder of checkpoints, filled by training what is missing."""

    def __init__(
        self,
        suite: Suite,
        folder: Path,
        device: str = "cpu",
        progress: Progress = lambda name, done, total, note: None,
    ) -> None:
        """Take the suite, the folder of checkpoints, the device, and a function to report the progress of training."""
        self.suite, self.folder, self.device, self.progress = suite, folder, device, progress
        self.preparing: Preparing = lambda what, done, total: (
            None
        )  #: reports the progress of preparing training images
        self.patient = (
            True  #: whether to wait while another run trains a checkpoint, or raise BusyError
        )
        self.micro_batch: int | None = (
            None  #: how many training images are worked on at a time, if not a whole batch
        )
        self.checkpoint_activations = (
            False  #: whether training computes activations twice in the place of keeping them
        )
        self._clip: Clip | None = None

    @property
    def clip(self) -> Clip:
        """The suite's backbone, loaded when first asked for."""
        if self._clip is None:
            self._clip = load_clip(self.suite.backbone, self.device)
        return self._clip

    @cached_property
    def shape(self) -> Clip:
        """The suite's backbone where its weights do not matter: with random ones, if the real ones are not here yet."""
        if weights_are_here(self.suite.backbone):
            return self.clip
        return load_clip(self.suite.backbone, self.device, weights=False)

    def checkpoint_path(self, recipe: Recipe) -> Path:
        """Return where the checkpoint of a recipe is, or will be."""
        return self.folder / checkpoint_place(self.suite.name, recipe.to_dict())

    def trained(self, recipe: Recipe, name: str) -> Tower:
        """Return the tower of a recipe, trained if its checkpoint is missing; a training that was stopped goes on."""
        tell = (lambda line: self.preparing(line, 0, 0)) if self.patient else None
        with ranks.led(
            claims.sole(self.checkpoint_path(recipe), tell)
        ):  # by one of the runs that share the folder
            return self._trained(recipe, name)

    def _trained(self, recipe: Recipe, name: str) -> Tower:
        path = self.checkpoint_path(recipe)
        dataset, cut = datasets[recipe.train_on], recipe.cut(self.clip)
        if path.exists():
            checkpoint = Checkpoint.read(path)
            # Images that are not here are not fetched to be compared.
            here = dataset.state("train", cut).opens
            images = dataset.open("train", cut).subset(recipe.limit) if here else None
            self._compare(checkpoint, recipe, texts(recipe, dataset), images)
        else:
            with ranks.first():
                dataset.prepare("train", cut, self.preparing)
            images = dataset.open("train", cut).subset(recipe.limit)

            def report(done: int, total: int, note: str) -> None:
                self.progress(name, done, total, note)

            checkpoint = train(
                recipe,
                self.clip,
                dataset,
                images,
                path,
                report,
                micro_batch=self.micro_batch,
                checkpoint_activations=self.checkpoint_activations,
            )
        encoder = trained_encoder(self.clip, recipe, checkpoint)
        identity = {
            **checkpoint.sources,
            "checkpoint": checkpoint.digest,
            "recipe": recipe.to_dict(),
        }
        return Tower(
            encoder,
            identity,
            {"epoch_seconds": checkpoint.epoch_seconds, "history": checkpoint.history},
        )

    def _compare(
        self, checkpoint: Checkpoint, recipe: Recipe, prompts: str, images: Images | None
    ) -> None:
        """Raise ZSRobustError, naming what differs, if a checkpoint is not what the recipe would make now."""
        differing = [
            name
            for name, stored, asked in (
                ("recipe", checkpoint.recipe, recipe.to_dict()),
                ("backbone", checkpoint.sources.get("backbone"), self.clip.digest),
                ("class texts", checkpoint.prompts or prompts, prompts),
                (
                    "images",
                    checkpoint.sources.get("images"),
                    images.digest if images else checkpoint.sources.get("images"),
                ),
            )
            if stored != asked
        ]
        if differing:
            here = (
                ""
                if "backbone" in differing
                else f"; or evaluate it as it is: --defense weights:{checkpoint.path}"
            )
            raise ZSRobustError(
                f"The checkpoint {checkpoint.path} was made from another {', '.join(differing)} than there is now. Move it "
                f"away, and it is trained again{here}"
            )

    def tower(self, spec: str) -> Tower:
        """Return the tower of the defense that a spec names."""
        return defenses.create(spec).tower(self)
