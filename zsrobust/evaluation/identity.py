"""The parts of an identity that an attack and a dataset contribute."""

import hashlib
from dataclasses import asdict
from typing import Any

from zsrobust.attacks import Attack
from zsrobust.core.specs import format_eps
from zsrobust.datasets import Cut, Dataset, Images


def describe_attack(spec: str, attack: Attack, classes: int) -> dict[str, Any]:
    """Return an attack's part of the identity: spec, eps, every field, and the plan for this many classes.

    A field that is None is left out: one that is new then changes no identity but of those who set it.
    """
    fields = {
        name: value for name, value in asdict(attack).items() if value is not None and name != "eps"
    }
    if isinstance(fields.get("step_size"), float):
        fields["step_size"] = format_eps(fields["step_size"])
    plan = attack.plan(classes)
    return {
        "spec": spec,
        "eps": format_eps(attack.eps),
        **fields,
        **({"plan": plan} if plan else {}),
    }


def describe_dataset(
    name: str,
    dataset: Dataset,
    images: Images,
    limit: int | None,
    prompts: str = "plain",
    cut: Cut | None = None,
) -> dict[str, Any]:
    """Return a dataset's part of the identity: name, size, subset, and what it showed the classifier."""
    resized = (
        cut is not None
        and images.cut is None
        and (images.pixels.shape[-1] != cut.side or cut.zoom != 1)
    )
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
