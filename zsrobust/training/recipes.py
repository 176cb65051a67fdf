"""Recipes: everything that a checkpoint depends on, as data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from zsrobust.attacks import Attack, attacks
from zsrobust.core.specs import format_eps
from zsrobust.core.values import Bound, Count, NotNegative, Positive, Whole, check, check_fields
from zsrobust.datasets import Cut
from zsrobust.models.clip import Clip, cut_for

#: Precision of the towers' passes, by autocast. Weights, optimizer and loss are always float32.
Precision = Literal["float32", "bfloat16"]
#: A number of prompt tokens above any tower's is an error before their memory is allocated.
Tokens = Annotated[int, Meta(ge=0, le=4096, description="a whole number from 0 to 4096")]
#: Pixels on each side of an image of 224. More would leave no image inside.
Border = Annotated[int, Meta(ge=1, le=111, description="a whole number from 1 to 111")]


#: What a recipe trains. A suite has a group of values for each: `[recipe.encoder]`.
Trainable = Literal["encoder", "prompts", "context"]
GROUPS: tuple[str, ...] = get_args(Trainable)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a checkpoint depends on. Its digest names the checkpoint.

    The defaults are the paper's (section 4.1). If the paper does not specify one, it comes from the
    released code: SGD with momentum 0.9, no weight decay, batch 256, and a cosine schedule with
    1000 steps of linear warm-up. A default never changes. New fields default to None, and None
    stays out of the digest.
    """

    objective: str  #: the loss, by its registered name
    backbone: str = "ViT-B-32-quickgelu/openai"
    train_on: str = "tiny_imagenet"
    attack: str | None = None  #: spec of the attack on the training images, if any
    eps: Bound | None = None  #: of that attack; None is its own
    step_size: Bound | None = None
    epochs: Count = 10
    batch_size: Count = 256
    lr: Positive = 5e-5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.0
    warmup: Whole = 1000  #: steps of linear warm-up, at most half of all steps
    #: "code": all steps of the warm-up, however short the training is, as in the released code
    schedule: Literal["code"] | None = None
    #: weights of the image tower, visual prompts, or the context of a text prompt
    trainable: Trainable = "encoder"
    precision: Precision = "float32"  #: of the passes through the towers
    seed: Whole = 0
    logit_scale: float | None = None  #: in the loss and the attack; None is the model's own
    #: of the images, for the student and the teacher; None is the backbone's
    normalization: Literal["imagenet"] | None = None
    #: training images are resized to `zoom` times the tower's side, then cropped; None is 1
    zoom: Positive | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None  #: None is the backbone's
    #: the wording of the class texts; None is the plain one
    prompts: Literal["released", "openai"] | None = None
    #: size of a class-balanced subset to train on, for short trials
    limit: Count | None = None
    #: of a context: the spec of the defense whose tower it is for, and the digests of its recipes
    tower: str | None = None
    #: options of the objective, the prompts and the context
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ZSRobustError if a field has a wrong type or is out of range."""
        check_fields(self, "The recipe")
        check(self.options.get("tokens", 0), Tokens, "The recipe", path="options.tokens")
        check(self.options.get("border", 1), Border, "The recipe", path="options.border")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values; bounds as "8/255"."""
        return {
            key: format_eps(value) if key in ("eps", "step_size") else value
            for key, value in asdict(self).items()
            if value is not None
        }

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the fields that are set."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def cut(self, clip: Clip) -> Cut:
        """Return how training images become squares of the tower's input size."""
        return cut_for(clip, self.zoom or 1.0, self.interpolation)

    def crafting(self) -> Attack:
        """Return the attack that makes the training images; every image takes all its steps."""
        values = {"eps": self.eps, "step_size": self.step_size}
        given = {key: value for key, value in values.items() if value is not None}
        return attacks.create(str(self.attack), given).full()
