"""The workshop: makes the image towers of defenses, and trains the checkpoints that are missing."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import exists
from zsrobust.datasets import Images, datasets
from zsrobust.datasets import Progress as Preparing
from zsrobust.defenses import Late, Tower, defenses
from zsrobust.models.clip import Clip, find_clip, load_clip, weights_are_here
from zsrobust.models.remembered import facts_of
from zsrobust.models.threads import one_thread
from zsrobust.results.digests import checkpoint_place
from zsrobust.settings.suites import Suite
from zsrobust.training import Checkpoint, Recipe, ranks, texts, train, trained_encoder
from zsrobust.training.checkpoints import source_of, sources

Progress = Callable[[str, int, int, str], None]  #: name, steps done, steps in all, note
Log = Callable[[str, int, Mapping[str, float]], None]  #: name, steps done, numbers by name


class Workshop:
    """Makes towers from a suite's backbone and a folder of checkpoints; trains missing ones."""

    def __init__(
        self,
        suite: Suite,
        folder: Path,
        device: str = "cpu",
        progress: Progress = lambda name, done, total, note: None,
    ) -> None:
        """Take the suite, the folder of checkpoints, the device, and who is told of progress."""
        self.suite, self.folder, self.device, self.progress = suite, folder, device, progress
        #: Reports the progress of preparing training images.
        self.preparing: Preparing = lambda what, done, total: None
        #: Whether to wait while another run trains a checkpoint, or raise BusyError.
        self.patient = True
        #: How many training images are worked on at a time, if not a whole batch.
        self.micro_batch: int | None = None
        #: Whether training computes activations twice, in order to keep fewer.
        self.checkpoint_activations = False
        #: Receives the numbers of trainings, if anybody asked; see `zsrobust.training.train`.
        self.log: Log | None = None
        self._clip: Clip | None = None

    @property
    def clip(self) -> Clip:
        """The suite's backbone, loaded when first asked for."""
        if self._clip is None:
            self._clip = find_clip(self.suite.backbone, self.device)
        return self._clip

    def forget(self) -> None:
        """Forget the loaded backbone, whose weights an attack changed; it is loaded again."""
        self._clip = None
        vars(self).pop("shape", None)

    @cached_property
    def shape(self) -> Clip:
        """The suite's backbone where weights do not matter: random ones if the real are missing."""
        if weights_are_here(self.suite.backbone):
            return self.clip
        return load_clip(self.suite.backbone, self.device, weights=False)

    def checkpoint_path(self, recipe: Recipe) -> Path:
        """Return where the checkpoint of a recipe is, or will be."""
        return self.folder / checkpoint_place(self.suite.name, recipe.to_dict())

    def tower(self, spec: str) -> Tower:
        """Return the tower of the defense that a spec names."""
        return defenses.create(spec).tower(self)

    def trained(self, recipe: Recipe, name: str) -> Tower:
        """Return the tower of a recipe. It trains a missing checkpoint, or resumes a training."""
        clip, checkpoint = self.clip, self.checkpoint(recipe, name)
        encoder = Late(lambda: trained_encoder(clip, recipe, checkpoint))
        return Tower(encoder, checkpoint.identity, checkpoint.training)

    def checkpoint(self, recipe: Recipe, name: str, tower: nn.Module | None = None) -> Checkpoint:
        """Return the checkpoint of a recipe: trained if it is missing, resumed if unfinished.

        `tower` is the image tower that a context is learned for; see `zsrobust.training.train`.
        """
        report = (lambda line: self.preparing(line, 0, 0)) if self.patient else None
        path = self.checkpoint_path(recipe)
        with ranks.led(claims.sole(path, report)):  # by one of the runs that share the folder
            if exists(path):
                return self._read(recipe, tower)
            return self._train(recipe, name, tower)

    def _read(self, recipe: Recipe, tower: nn.Module | None) -> Checkpoint:
        checkpoint = Checkpoint.read(self.checkpoint_path(recipe))
        dataset, cut = datasets[recipe.train_on], recipe.cut(self.clip)
        # Images that are not here are not fetched to be compared.
        here = dataset.state("train", cut).opens
        asked = checkpoint.sources
        if here:
            part = f"subset {recipe.limit}"
            images = partial(self._images, recipe)
            asked = sources(recipe, self.clip, facts_of(dataset, "train", cut, part, images))
        asked = {**asked, "backbone": self.clip.digest, **source_of(tower)}
        self._compare(checkpoint, recipe, texts(recipe, dataset), asked)
        return checkpoint

    def _images(self, recipe: Recipe) -> Images:
        dataset = datasets[recipe.train_on]
        return dataset.open("train", recipe.cut(self.clip)).subset(recipe.limit)

    def _train(self, recipe: Recipe, name: str, tower: nn.Module | None) -> Checkpoint:
        dataset, cut = datasets[recipe.train_on], recipe.cut(self.clip)
        with ranks.first():
            dataset.prepare("train", cut, self.preparing)
        with one_thread(self.device, self.clip.side):
            return train(
                recipe,
                self.clip,
                dataset,
                self._images(recipe),
                self.checkpoint_path(recipe),
                lambda done, total, note: self.progress(name, done, total, note),
                micro_batch=self.micro_batch,
                checkpoint_activations=self.checkpoint_activations,
                tower=tower,
                log=partial(self.log, name) if self.log else None,
            )

    def _compare(
        self, checkpoint: Checkpoint, recipe: Recipe, prompts: str, asked: dict[str, str]
    ) -> None:
        """Raise ZSRobustError if the recipe would make another checkpoint now.

        `asked` are its sources now; those of images are the stored ones if images are not here.
        """
        stored = checkpoint.sources
        compared = {
            "recipe": (checkpoint.recipe, recipe.to_dict()),
            "backbone": (stored.get("backbone"), asked["backbone"]),
            "image tower": (stored.get("tower"), asked.get("tower")),
            "class texts": (checkpoint.prompts or prompts, prompts),
            "images": (stored.get("images"), asked.get("images")),
            "resizing of images": (stored.get("resized"), asked.get("resized")),
        }
        differing = [name for name, (old, new) in compared.items() if old != new]
        if not differing:
            return
        line = (
            f"The checkpoint {checkpoint.path} was made from another {', '.join(differing)} than "
            "there is now. "
            "Move it away, and it is trained again"
        )
        if "backbone" not in differing and recipe.trainable != "context":
            line += f"; or evaluate it as it is: --defense weights:{checkpoint.path}"
        raise ZSRobustError(line)
