"""What attacks and datasets contribute to the identity of a cell."""

import hashlib
from dataclasses import asdict
from typing import Any

from zsrobust.attacks import Attack
from zsrobust.core.specs import format_eps
from zsrobust.datasets import Cut, Dataset, Facts
from zsrobust.datasets.pixels import resizing


def identify_attack(attack: Attack, classes: int) -> dict[str, Any]:
    """Return every field of an attack but eps, and its plan for this many classes.

    A field that is None is left out. A new field thus changes only the identities that set it.
    """
    fields = {name: value for name, value in asdict(attack).items() if value is not None}
    del fields["eps"]
    if isinstance(fields.get("step_size"), float):
        fields["step_size"] = format_eps(fields["step_size"])
    plan = attack.plan(classes)
    return {**fields, "plan": plan} if plan else fields


def identify_dataset(
    dataset: Dataset, images: Facts, wording: str = "plain", cut: Cut | None = None
) -> dict[str, Any]:
    """Return what the classifier sees of a dataset: its images, their digest, prompts and cut.

    A cell without images to resize has no `resized`; see `resizing`.
    """
    details: dict[str, Any] = {
        "images": images.images,
        "classes": len(dataset.classes),
        "templates": list(dataset.wordings.get(wording, (dataset.classes, dataset.templates))[1]),
        "prompts": hashlib.sha256(repr(dataset.prompts(wording)).encode()).hexdigest()[:16],
        "digest": images.digest,
    }
    if dataset.split:
        details["split"] = dataset.split
    if cut is not None and (images.cut is not None or _resizes(cut, images)):
        details["cut"] = (images.cut or cut).stored
    return {**details, **resizing(images, cut)}


def _resizes(cut: Cut, images: Facts) -> bool:
    return images.side != cut.side or cut.zoom != 1
