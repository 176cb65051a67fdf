"""The referee: runs one cell and decides who survived. An attack never does.

It hands the attack clones, demands finite pixels inside [0, 1] and inside eps of the original, and predicts again
itself, in float32 and eval mode. A crash, a NaN or a cheat never scores as robustness: the cell fails.
"""

import hashlib
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, exact, frozen, perturbation_size
from zsrobust.datasets import Cut, Dataset, Images
from zsrobust.pixels import tensor
from zsrobust.registry import ZSRobustError, format_eps
from zsrobust.results import Outcomes, Result, Samples

TOLERANCE = 1e-6  # of float32 arithmetic, in pixels of [0, 1]

#: Which images are attacked: those classified correctly, which alone can be robust; or all, as the released code does.
Attacked = Literal["correct", "all"]

#: Called after every batch with the images done, and the images in all.
Progress = Callable[[int, int], None]


class CheatError(ZSRobustError):
    """An attack returned what it must not."""


class Meter(nn.Module):
    """A classifier that counts the images that pass through it, forward and backward."""

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier = classifier
        self.forward_passes = self.backward_passes = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's logits."""
        self.forward_passes += len(images)
        logits: Tensor = self.classifier(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)


class Sampler:
    """Keeps, of the images that an attack is judged on, the first that it broke and the first that survived."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[bool, tuple[int, Tensor, Tensor]] = {}

    def look(self, positions: "np.ndarray[Any, np.dtype[np.int64]]", originals: Tensor, found: Tensor, broken: Any) -> None:
        """See a batch: positions and whether each was broken, (N,); images and adversarial images, (N, 3, S, S)."""
        for kind in {False, True} - self._kept.keys():
            for place in np.flatnonzero(broken == kind)[:1]:
                image = originals[place].cpu()
                self._kept[kind] = (int(positions[place]), image, found[place].detach().cpu() - image)

    @property
    def samples(self) -> Samples | None:
        """What was kept, broken ones first; None if no image was attacked."""
        kept = [self._kept[kind] for kind in (True, False) if kind in self._kept]
        if not kept:
            return None
        places, images, changes = zip(*kept, strict=True)
        change = torch.stack(changes)
        scale = max(float(change.abs().max()), 1e-12)
        return Samples(
            positions=np.array(places, dtype=np.int64),
            pixels=(torch.stack(images) * 255).round().byte().numpy(),
            change=(change / scale * 127).round().to(torch.int8).numpy(),
            scale=scale,
        )


def run_cell(
    identity: dict[str, Any],
    classifier: nn.Module,
    attack: Attack,
    name: str,
    images: Images,
    *,
    seed: int = 0,
    batch_size: int = 256,
    cut: Cut | None = None,
    attacked: Attacked = "correct",
    progress: Progress = lambda done, total: None,
    sampler: Sampler | None = None,
) -> tuple[Result, Outcomes | None]:
    """Evaluate one cell; `name` is the attack's. A failure makes it a failed result with its traceback.

    See `judge` for `cut`, `attacked` and `sampler`.
    """
    started = time.perf_counter()
    result = Result(identity, images=len(images), device=str(device_of(classifier)), versions=versions())
    meter = Meter(classifier)
    outcomes = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcomes = judge(
                meter, attack, name, images,
                seed=seed, batch_size=batch_size, cut=cut, attacked=attacked, progress=progress, sampler=sampler,
            )  # fmt: skip
            result.clean_correct, result.robust_correct = outcomes.clean_correct, outcomes.robust_correct
            if attacked == "all":
                result.robust_correct = outcomes.adversarial_correct
        except Exception:
            result.status, result.error = "failed", traceback.format_exc()
    result.flags = sorted({str(each.message) for each in caught if each.category is UserWarning})
    result.seconds = round(time.perf_counter() - started, 3)
    result.forward, result.backward = meter.forward_passes, meter.backward_passes
    return result, outcomes


def judge(
    meter: Meter,
    attack: Attack,
    name: str,
    images: Images,
    *,
    seed: int,
    batch_size: int,
    cut: Cut | None = None,
    attacked: Attacked = "correct",
    progress: Progress = lambda done, total: None,
    sampler: Sampler | None = None,
) -> Outcomes:
    """Predict, attack what was classified correctly, check, and predict again; in eval mode, the weights frozen.

    `cut` says how images of their own size become what is attacked; None leaves them as they are. With `attacked="all"`
    what was misclassified is attacked as well; a `sampler` sees every batch. Raises CheatError when the attack breaks a
    rule, and whatever the attack or the classifier raise.
    """
    with frozen(meter), exact():
        return _judge(meter, attack, name, images, seed, batch_size, cut, attacked, progress, sampler)


def _judge(
    meter: Meter, attack: Attack, name: str, images: Images, seed: int, batch_size: int,
    cut: Cut | None, attacked: Attacked, progress: Progress, sampler: Sampler | None,
) -> Outcomes:  # fmt: skip
    device, everything = device_of(meter), np.arange(len(images))
    clean = np.concatenate(
        [predict(meter, tensor(images, positions, cut, device)) for positions in _batches(everything, batch_size)]
    )
    adversarial, perturbation = clean.copy(), np.zeros(len(images), dtype=np.float32)
    chosen = np.flatnonzero(clean == images.labels) if attacked == "correct" else everything
    generator = torch.Generator().manual_seed(seed)
    done = len(images) - len(chosen)
    progress(done, len(images))
    for positions in _batches(chosen, batch_size):
        originals = tensor(images, positions, cut, device)
        labels = torch.from_numpy(images.labels[positions]).to(originals.device)
        asked = meter.forward_passes
        with torch.enable_grad():
            found = attack(meter, originals.clone(), labels.clone(), generator)
        sizes = check(name, attack, originals, found)
        adversarial[positions] = predict(meter, found.detach())
        perturbation[positions] = sizes.cpu().numpy()
        untouched = (sizes == 0).cpu().numpy() & (adversarial[positions] == images.labels[positions])
        if untouched.any() and not (
            getattr(attack, "returns_clean", False) and meter.forward_passes - asked > 2 * len(found)
        ):
            raise CheatError(f"{name} returned {untouched.sum()} images as they were (no gradient?): that is no attack.")
        if sampler:
            right = clean[positions] == images.labels[positions]  # what was wrong before is no work of the attack
            broken = adversarial[positions][right] != images.labels[positions][right]
            sampler.look(positions[right], originals[right], found[right], broken)
        done += len(positions)
        progress(done, len(images))
    return Outcomes(images.labels, clean, adversarial, perturbation)


def check(name: str, attack: Attack, originals: Tensor, found: Any) -> Tensor:
    """Return the sizes of the perturbations, (N,); raises CheatError for images that an attack must not return."""
    if not isinstance(found, Tensor) or found.shape != originals.shape or found.dtype != originals.dtype:
        shape = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise CheatError(f"The attack {name} returned {shape} for images {tuple(originals.shape)} {originals.dtype}.")
    found = found.detach()
    if not torch.isfinite(found).all():
        raise CheatError(f"The attack {name} returned pixels that are not finite.")
    if found.min() < -TOLERANCE or found.max() > 1 + TOLERANCE:
        raise CheatError(f"The attack {name} left [0, 1]: pixels from {found.min().item():.6g} to {found.max().item():.6g}.")
    sizes = perturbation_size(found - originals, attack.norm)
    tolerance = TOLERANCE * (1 if attack.norm == "linf" else originals[0].numel() ** 0.5)  # every pixel may be off
    if sizes.max() > attack.eps + tolerance:
        raise CheatError(f"The attack {name} moved by {sizes.max().item():.6g}, beyond eps {format_eps(attack.eps)}.")
    return sizes


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the predicted classes, (N,), in float32 and eval mode, autocast off; raises ZSRobustError on NaN logits."""
    with frozen(classifier), torch.autocast(images.device.type, enabled=False):
        logits = classifier(images)
    if logits.ndim != 2 or not torch.isfinite(logits).all():
        raise ZSRobustError(f"The classifier returned logits {tuple(logits.shape)} that are not (N, K), or not finite.")
    return np.asarray(logits.argmax(1).cpu().numpy(), dtype=np.int64)


def _batches(positions: "np.ndarray[Any, np.dtype[np.int64]]", size: int) -> list["np.ndarray[Any, np.dtype[np.int64]]"]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def device_of(classifier: nn.Module) -> torch.device:
    """Return the device of a module's weights; the CPU if it has none."""
    return next(iter([*classifier.parameters(), *classifier.buffers()]), torch.empty(0)).device


def describe_attack(spec: str, attack: Attack, classes: int) -> dict[str, Any]:
    """Return an attack's part of the identity: spec, eps, every field, and the plan for this many classes."""
    fields = asdict(attack)  # type: ignore[call-overload]  # a protocol cannot say that it is a dataclass
    del fields["eps"]
    if isinstance(fields.get("step_size"), float):
        fields["step_size"] = format_eps(fields["step_size"])
    plan = attack.plan(classes) if hasattr(attack, "plan") else {}
    return {"spec": spec, "eps": format_eps(attack.eps), **fields, **({"plan": plan} if plan else {})}


def describe_dataset(
    name: str, dataset: Dataset, images: Images, limit: int | None, prompts: str = "plain", cut: Cut | None = None
) -> dict[str, Any]:
    """Return a dataset's part of the identity: name, size, subset, and what it showed the classifier."""
    resized = cut is not None and images.cut is None and (images.pixels.shape[-1] != cut.side or cut.zoom != 1)
    templates = dataset.wordings.get(prompts, (dataset.classes, dataset.templates))[1]
    return {
        "name": name,
        "title": dataset.title,
        "images": len(images),
        "limit": limit,
        "classes": len(dataset.classes),
        "templates": list(templates),
        "prompts": hashlib.sha256(repr(dataset.prompts(prompts)).encode()).hexdigest()[:16],
        "digest": images.digest,
        **({"split": dataset.split} if dataset.split else {}),
        **({"cut": asdict(images.cut or cut)} if cut and (images.cut or resized) else {}),
    }


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {}
    for name in ("zsrobust", "torch", "open_clip_torch", "pyautoattack", "torchattacks"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
