"""Protocols: how it is measured. One TOML file a protocol; every difference between two is a named switch."""

import tomllib
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.files import is_file
from zsrobust.core.specs import field_types, join_spec, parse_fields, parse_value, split_spec
from zsrobust.core.values import fits

DEFAULT = "sound"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The switches of a measurement; the defaults are those of `sound`."""

    name: str
    title: str = ""
    select: Literal["all", "every_20th_batch"] = (
        "all"  #: of the images in their order; batches of 256
    )
    prompts: Literal["plain", "released", "openai"] = (
        "plain"  #: the paper's template, the code's prompts, or ensembles
    )
    normalization: Literal["backbone", "imagenet"] = "backbone"
    logit_scale: float | None = None  #: None is the model's own; 1 makes the logits raw cosines
    zoom: float = 1.0  #: the shortest side is resized to this times the tower's input side; then the center is cropped
    interpolation: Literal["backbone", "bicubic", "bilinear"] = "backbone"
    native: tuple[
        str, ...
    ] = ()  #: datasets attacked at their own size, and up-sampled inside the classifier
    attacked: Literal["correct", "all"] = (
        "correct"  #: "all": also what is misclassified; robust is then right in the end
    )
    judged: Literal["any", "final"] = (
        "any"  #: "any": an image counts as broken by any iterate; "final": by the last one
    )
    precision: Literal["float32", "float16"] = (
        "float32"  #: of the classifier, in the attack and the verdict
    )

    @property
    def switches(self) -> dict[str, Any]:
        """Return what differs from `sound`."""
        return {
            each.name: list(value)
            if isinstance(value := getattr(self, each.name), tuple)
            else value
            for each in fields(self)
            if each.name not in ("name", "title") and getattr(self, each.name) != each.default
        }


def names() -> list[str]:
    """Return the names of the protocols there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(spec: str = DEFAULT) -> Protocol:
    """Return a protocol by name, `reference` or `reference:precision=float16` say, or from a TOML file, named as the file.

    Raises ZSRobustError for one that is not there, for switches that do not exist, and for a file with the name of one of
    ours, whose results it would mix with.
    """
    if spec.endswith(".toml"):
        path = Path(spec)
        if not is_file(path):
            raise ZSRobustError(f"No protocol file {path}. See: zsrobust list protocols")
        if path.stem in names():
            raise ZSRobustError(
                f"The protocol {path.stem!r} is one of ours; give the file {path} another name."
            )
        return _parse(path.stem, _text(path), str(path))
    name, changed = split_spec(spec)
    if name not in names():
        raise suggest("protocol", name, names(), "See: zsrobust list protocols")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    protocol = _parse(join_spec(name, changed), text, name)
    kinds = {
        key: kind
        for key, kind in field_types(protocol).items()
        if key not in ("name", "title", "native")
    }
    return replace(protocol, **parse_fields(changed, kinds, f"protocol {name!r}"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ZSRobustError(
            f"The protocol {path} is not one: {error}. See: zsrobust list protocols"
        ) from None


def _parse(name: str, text: str, where: str) -> Protocol:
    kinds = field_types(Protocol(name=name))
    try:
        values = tomllib.loads(text)
        for key, value in values.items():
            if key not in kinds or key == "name":
                raise suggest(
                    f"switch of the protocol {where}:",
                    key,
                    list(kinds),
                    f"Its switches: {', '.join(kinds)}.",
                )
            if key == "native" and not fits(value, list[str]):
                raise ValueError("native is a list of names of datasets")
            values[key] = tuple(value) if key == "native" else parse_value(str(value), kinds[key])
        return Protocol(name=name, **values)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ZSRobustError(
            f"The protocol {where} is not one: {error}. See: zsrobust list protocols"
        ) from None
