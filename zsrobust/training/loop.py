"""The training loop: epochs of batches, their history, and the state of interrupted trainings."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from zsrobust.attacks import exact
from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.files import exists, leftovers, remove, write_atomically
from zsrobust.datasets import Dataset, Images
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.results.digests import seal
from zsrobust.training.checkpoints import Checkpoint, made_from
from zsrobust.training.learner import Learner, exactly
from zsrobust.training.memory import with_peak_bytes
from zsrobust.training.partial import Partial
from zsrobust.training.recipes import Recipe

Progress = Callable[[int, int, str], None]
#: Steps done, and numbers by name: loss, accuracy, lr, images_per_second, terms/NAME; and, at the
#: end of an epoch, distance.
Log = Callable[[int, Mapping[str, float]], None]

SAVE_EVERY = 300.0  # seconds
LOOK_EVERY = {"cpu": 1}  # steps between readings of the tally, by device; 10 elsewhere


@exact()
def train(
    recipe: Recipe,
    clip: Clip,
    dataset: Dataset,
    images: Images,
    path: Path,
    progress: Progress = lambda done, total, note: None,
    *,
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    save_every: float = SAVE_EVERY,
    tower: nn.Module | None = None,
    log: Log | None = None,
) -> Checkpoint:
    """Return the checkpoint of the recipe's fine-tuned image tower, and write it to `path`.

    If the recipe trains a context, it is learned for the image tower `tower`, which stays as it is.
    None is the backbone's.

    `progress` receives, after every step, the steps done, the steps in all, and a note on loss and
    accuracy.

    `log` receives the steps done and the numbers that the training reads anyway, by name: after
    every step on a CPU, after every tenth one on other devices, and at the end of an epoch. `loss`
    and `accuracy` are means over the images since the call before. `terms/NAME` are those of the
    last batch, as the objective names them with `Step.term`, without their weights. `lr` is that of
    the last step, `images_per_second` counts training images, and `distance` is that of Figure 2.
    In torch.distributed, the first process calls `log`, and the terms are those of its images.

    An unfinished training is saved beside the checkpoint, as `NAME.partial`. It is saved every
    `save_every` seconds, and when KeyboardInterrupt or a signal's SystemExit stops it. The next
    training with the same recipe, backbone, images and class texts resumes from that state. On a
    CPU, its weights are the same to the bit.

    `micro_batch` is the number of images per pass; None is a whole batch, if it fits.
    `checkpoint_activations` recomputes activations instead of keeping them. Both change only the
    last bits of the weights. In torch.distributed, the processes share the images of every batch,
    and the first process writes.

    Raises ZSRobustError if a loss, a gradient or a weight is not finite. The error names the step,
    the images of its batch, and the last saved state. No checkpoint is written in that case.
    """
    learner = Learner(recipe, clip, dataset, images, micro_batch, checkpoint_activations, tower)
    origin = made_from(recipe, clip, dataset, images, tower)
    training = Training(learner, origin, path, progress, log)
    training.resume()
    with training.saved_when_stopped():
        for epoch, positions in islice(batches(recipe, len(images)), training.done, None):
            training.step(epoch, positions)
            training.save_after(save_every)
        training.finish()
    return Checkpoint.read(path)


def batches(recipe: Recipe, images: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the epoch's number and the positions (n,) of the images of every batch."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for epoch in range(recipe.epochs):
        for positions in torch.randperm(images, generator=generator).split(recipe.batch_size):
            yield epoch, positions


class DivergedError(ZSRobustError):
    """The loss of a step, or its gradient, is not finite."""

    def __init__(self, step: int, loss: float) -> None:
        """Take the number of steps before the failing one, and its loss, which may be finite."""
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        super().__init__(f"{what} at step {step}. Lower lr.")
        self.step = step


class Tally:
    """Loss and accuracy of an epoch so far, on the device. Reading them waits for the device.

    The number of correct images is None if the objective does not classify.
    """

    def __init__(
        self, device: torch.device, loss: float = 0.0, correct: float | None = 0.0
    ) -> None:
        """Take the sums so far."""
        right = math.nan if correct is None else correct
        self._sums = torch.tensor([loss, right], device=device, dtype=exactly(device))
        # The first step whose loss or gradient is not finite, and its loss.
        self._bad = torch.full_like(self._sums, -1)

    def add(self, totals: Tensor, images: int, step: int, finite: Tensor | bool = True) -> None:
        """Add a batch's summed loss and correct images, (2,), and if its gradient is finite."""
        self._sums += totals
        loss = totals[0] / images
        first = ~(loss.isfinite() & finite) & (self._bad[0] < 0)
        self._bad = torch.where(first, torch.stack([torch.full_like(loss, step), loss]), self._bad)

    def look(self) -> tuple[float, float | None]:
        """Return the summed loss and the correct images; raises DivergedError if not finite."""
        loss, correct, step, bad = torch.cat([self._sums, self._bad]).tolist()
        if step >= 0:
            raise DivergedError(int(step), bad)
        return loss, None if math.isnan(correct) else correct


@dataclass(frozen=True)
class Logged:
    """The sums of an epoch when they were last read: what the next numbers are differences to."""

    images: int = 0
    loss: float = 0.0
    correct: float | None = 0.0
    at: float = field(default_factory=time.perf_counter)

    def since(self, before: "Logged") -> dict[str, float]:
        """Return the means over the images since an earlier reading, and their number a second."""
        images = self.images - before.images
        numbers = {"loss": (self.loss - before.loss) / images}
        if self.correct is not None and before.correct is not None:
            numbers["accuracy"] = (self.correct - before.correct) / images
        return {**numbers, "images_per_second": images / max(self.at - before.at, 1e-9)}


class Training:
    """A running training: its steps, its history, and the files that store them."""

    def __init__(
        self,
        learner: Learner,
        made_from: dict[str, str],
        path: Path,
        progress: Progress,
        log: Log | None = None,
    ) -> None:
        """Take the learner, its sources, the checkpoint's path, and the callbacks."""
        self.learner, self.made_from, self.path, self.progress = learner, made_from, path, progress
        self.partial = path.with_suffix(".partial")
        self.log = log if learner.crew.leads else None
        self.done = self.saved = 0  #: steps
        self.history: list[dict[str, float]] = []
        self.tally, self.found = Tally(learner.device), ""  #: loss and accuracy at the last reading
        #: start of the epoch, and of the time since the last save
        self.began = self.kept = time.perf_counter()
        self.remarks: list[str] = []  #: the end of every note
        self.memory: int | None = None  #: peak bytes of the tensors of a step, once measured
        self._whole = True  #: False during a step
        self.logged = Logged()

    def resume(self) -> None:
        """Resume the saved state of the same training; move a file that does not fit aside."""
        if self.learner.crew.leads:
            for left in [*leftovers(self.path), *leftovers(self.partial)]:
                remove(left)
        if exists(self.partial):
            try:
                self._begin_from(Partial.read(self.partial, self.made_from))
            except NoAnswerError:  # it may be whole, so it stays where it is
                raise
            except ZSRobustError as error:
                self._set_aside(str(error))
            self.progress(self.done, self.learner.steps, self.remarks[-1])
        if self.learner.crew.leaders(self.done, self.learner.device) != self.done:
            raise ZSRobustError(
                f"{self.partial} is not the same file in all processes. Choose a shared folder."
            )

    def _begin_from(self, partial: Partial) -> None:
        self.learner.load(partial.tensors)
        self.tally = Tally(self.learner.device, partial.loss, partial.correct)
        done = partial.done % self.steps_an_epoch * self.learner.recipe.batch_size
        self.logged = Logged(done, partial.loss, partial.correct)
        self.done, self.saved, self.history = partial.done, partial.done, partial.history
        self.began -= partial.seconds
        self.remarks.append(f"resumed at step {self.done} of {self.learner.steps}")

    def _set_aside(self, why: str) -> None:
        if self.learner.crew.leads:
            with suppress(OSError):  # the file then stays, and is overwritten
                self.partial.replace(self.partial.with_suffix(".partial.aside"))
        self.remarks.append(f"begun anew: {why}")

    def step(self, epoch: int, positions: Tensor) -> None:
        """Take one step on the images at these positions."""
        totals = self._measured(lambda: self.learner.gradients(epoch, positions))
        with self._moving():
            self.tally.add(totals, len(positions), self.done, self.learner.finite())
            place, an_epoch = self.done % self.steps_an_epoch + 1, self.steps_an_epoch
            if place == an_epoch or self.done % LOOK_EVERY.get(self.learner.device.type, 10) == 0:
                self._look((place - 1) * self.learner.recipe.batch_size + len(positions))
            self.learner.move(self.done)
            self.done += 1
            if place == an_epoch:
                self._end_epoch()
        self.progress(self.done, self.learner.steps, self._note())

    def _measured(self, gradients: Callable[[], Tensor]) -> Tensor:
        """Return the totals of a step; measure the memory of this process's first one."""
        if self.memory is not None:
            return gradients()
        totals, self.memory = with_peak_bytes(gradients, self.learner.device)
        return totals

    @property
    def steps_an_epoch(self) -> int:
        """The number of batches of an epoch."""
        return self.learner.steps // self.learner.recipe.epochs

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Mark half a step: a training that stops inside is not saved."""
        self._whole = False
        yield
        self._whole = True

    def _look(self, images: int) -> None:
        """Read the tally of this many images; raises ZSRobustError if a step diverged."""
        try:
            loss, correct = self.tally.look()
        except DivergedError as error:
            raise ZSRobustError(
                f"Training {self.learner.recipe.objective}: {error} {self._where(error.step)}"
            ) from None
        self.found = f"loss {loss / images:.2f}"
        if correct is not None:
            self.found += f", accuracy {correct / images:.0%}"
        if self.log is not None:
            self._report(self.log, Logged(images, loss, correct))

    def _report(self, log: Log, now: "Logged") -> None:
        """Give the numbers since the last reading to the log."""
        numbers = {**now.since(self.logged), "lr": self.learner.lr(self.done)}
        if terms := self.learner.terms:
            values = torch.stack([each.float() for each in terms.values()]).tolist()
            numbers |= {f"terms/{name}": each for name, each in zip(terms, values, strict=True)}
        log(self.done + 1, numbers)
        self.logged = now

    def _where(self, step: int) -> str:
        """Return what is needed to repeat a step: its images, and the last saved state."""
        learner, recipe = self.learner, self.learner.recipe
        epoch, positions = next(islice(batches(recipe, len(learner.images)), step, None))
        images = ", ".join(map(str, learner.images.positions[positions.numpy()]))
        kept = (
            f"The last good state is {self.partial}, of step {self.saved}"
            if self.saved
            else "No state was saved before it"
        )
        return f"It is in epoch {epoch + 1}, on the images {images} of {recipe.train_on}. {kept}."

    def _note(self) -> str:
        parts = self.learner.micro_batch
        size = [f"{parts} images at a time"] if parts else []
        return "; ".join([self.found, *size, *self.remarks])

    def _end_epoch(self) -> None:
        """Add an epoch to the history, and start the next one."""
        (loss, correct), images = self.tally.look(), len(self.learner.images)
        now = time.perf_counter()
        accuracy = {} if correct is None else {"accuracy": correct / images}
        self.history.append(
            {
                "loss": loss / images,
                **accuracy,
                **self.learner.distance(),
                "memory": float(self.memory or 0),
                "seconds": round(now - self.began, 3),
            }
        )
        self.tally, self.began = Tally(self.learner.device), now
        if self.log is not None:
            self.log(self.done, {"distance": self.history[-1]["distance"]})
            self.logged = Logged()

    def save_after(self, seconds: float) -> None:
        """Save the state if the last save was at least `seconds` ago."""
        if time.perf_counter() - self.kept >= seconds:
            self.save()

    @contextmanager
    def saved_when_stopped(self) -> Iterator[None]:
        """Save the state if somebody stops the training; not after an error, which would recur."""
        try:
            yield
        except BaseException as reason:
            if not isinstance(reason, Exception):
                self.save()
            raise

    def save(self) -> None:
        """Save a new state between two steps; if that fails, remark on it and go on."""
        self.kept = time.perf_counter()
        if not (self.learner.crew.leads and self._whole and self.done > self.saved):
            return
        try:
            seconds = time.perf_counter() - self.began
            state = Partial(
                self.done, *self.tally.look(), seconds, self.history, self.learner.tensors()
            )
            self._check(state.tensors)
            state.write(self.partial, self.made_from)
            self.saved = self.done
        except ZSRobustError as error:
            others = [remark for remark in self.remarks if remark != str(error)]
            self.remarks = [*others, str(error)]

    def finish(self) -> None:
        """Write the checkpoint; raises ZSRobustError first if a weight is not finite."""
        weights = self.learner.trained()
        self._check(weights)
        if self.learner.crew.leads:
            metadata = {**self.made_from, "history": json.dumps(self.history)}
            metadata["digest"] = seal(metadata, weights_digest(weights))
            write_atomically(self.path, safetensors.torch.save(weights, metadata))
            self.saved = self.done
            remove(self.partial)
        self.learner.crew.leaders(self.done, self.learner.device)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            recipe = self.learner.recipe
            raise ZSRobustError(
                f"Training {recipe.objective}: weights are not finite after step {self.done - 1}. "
                "Lower lr."
            )
