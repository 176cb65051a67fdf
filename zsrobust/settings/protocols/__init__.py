"""Protocols: how to measure. A protocol is a TOML file; any difference is a named switch."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from zsrobust.core.specs import field_types, join_spec, parse_fields, split_spec
from zsrobust.core.values import Line, check_fields
from zsrobust.settings.files import Files

DEFAULT = "sound"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The switches of a measurement; the defaults are those of `sound`."""

    name: str
    title: str = ""
    #: which images, in their order; a batch has 256. The released code takes every twentieth batch
    #: during training, and all images with its option --evaluate
    select: Literal["all", "every_20th_batch"] = "all"
    #: the paper's template, the prompts of the released code or of TeCoA's code, or ensembles
    prompts: Literal["plain", "released", "tecoa", "openai"] = "plain"
    normalization: Literal["backbone", "imagenet"] = "backbone"
    #: None is the model's own; 1 makes the logits raw cosines
    logit_scale: float | None = None
    #: the shortest side is resized to this times the tower's input side; then the center is cropped
    zoom: float = 1.0
    interpolation: Literal["backbone", "bicubic", "bilinear"] = "backbone"
    #: datasets attacked at their own size, and up-sampled inside the classifier
    native: tuple[Line, ...] = ()
    #: "all": misclassified images, too; robust is then correct under attack
    attacked: Literal["correct", "all"] = "correct"
    #: "any": an image counts as broken by any iterate; "final": by the last one
    judged: Literal["any", "final"] = "any"
    #: the classifier's precision, in the attack and the verdict
    precision: Literal["float32", "float16"] = "float32"

    @property
    def switches(self) -> dict[str, Any]:
        """The switches that differ from `sound`, with their values."""
        switches = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in ("name", "title") and value != each.default:
                switches[each.name] = list(value) if isinstance(value, tuple) else value
        return switches


_FILES = Files(kind="protocol", type=Protocol, package=__name__)
names = _FILES.names


def load(spec: str = DEFAULT) -> Protocol:
    """Return a protocol by name, spec (`reference:precision=float16`) or path of a TOML file.

    Raises ZSRobustError for a switch that is unknown or not valid, and as `Files.load` does.
    """
    if spec.endswith(".toml"):
        return _FILES.load(spec)
    name, changed = split_spec(spec)
    protocol = _FILES.load(name)
    kinds = field_types(protocol)
    for key in ("name", "title", "native"):
        del kinds[key]
    values = parse_fields(changed, kinds, f"protocol {name!r}")
    protocol = replace(protocol, name=join_spec(name, changed), **values)
    check_fields(protocol, f"The protocol {spec}")
    return protocol
