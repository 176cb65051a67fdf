"""CLIPure-Cos: purified embeddings (Zhang et al., ICLR 2025, arXiv 2502.18176).

The unit-norm image embedding u is moved toward the text of no class, t: the mean over CLIP's 80
ImageNet templates with an empty class name. Each of 10 steps is u ← normalize(u + 30 m / |m|),
where m is the gradient of cos(u, t). Around any defense of the weights: `clipure_cos:of=clip`.

A step turns u by arctan(30) = 88.1 degrees in the plane of u and t. An embedding within this angle
of t, whose cosine is above 0.034, goes past t, and the next step brings it back. Ten steps are
then the identity, up to rounding: the embedding, the prediction and the exact gradient are those
of the undefended classifier. `tests/test_embeddings_defenses.py` shows this. Embeddings beyond that
angle, as some are on `mini`, end elsewhere in the same plane.

The released code (TMLResearchGroup-CAS/CLIPure at b4cc6d1, CLIP_eval/CLIPure_Cos.py) takes |m| over
the whole batch, of 2 images. That is `clipure_cos_code`: its predictions depend on the batch. Both
names take m as a constant, as that code does, so that autograd sees a gradient close to zero: each
step divides it by 30. Half precision in that code makes zeros of it. The authors attack this
gradient with APGD-CE and APGD-T at 4/255 on ViT-L/14, and claim 72.6% robust accuracy on ImageNet
and 91.1% on CIFAR-10. Declared for adaptive attacks (BPDA): the purification counts as the
identity. They also try `exact`, the gradient through m.

The paper's text was not read. CLIPure-Diff is left out: it needs the prior of DALL·E 2. A defense
with a text tower of its own has t from CLIP's.
"""

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip
from zsrobust.models.wrappers import OnFeatures, Wrapper, unchanged

TINY = 1e-12  #: the least length of a direction, so that u = t stays where it is


@dataclass(frozen=True, kw_only=True)
class CLIPureCos(Wrapped):
    """A purification of embeddings; the defaults are those of the released code."""

    steps: int = 10
    step_size: float = 30.0  #: of a direction of length one, on the unit sphere
    coupled: bool = False  #: whether the directions of a batch share one length, as in the code

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.step_size > 0:
            raise ZSRobustError(
                f"CLIPure-Cos cannot take steps={self.steps}, step_size={self.step_size}. Expected "
                "steps of 0 or more, and a positive step_size. See: zsrobust list defenses"
            )

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the purification, the identity that stands in for it, and the exact gradient."""
        change = partial(
            purified,
            null=null_text(workshop.clip),
            steps=self.steps,
            step_size=self.step_size,
            coupled=self.coupled,
        )
        return Wrapper(
            wrap=lambda classifier: OnFeatures(classifier, change),
            surrogate=lambda classifier: OnFeatures(classifier, change, unchanged),
            others={
                "exact": lambda classifier: OnFeatures(classifier, partial(change, exact=True))
            },
        )


def null_text(clip: Clip) -> Tensor:
    """Return the unit-norm text embedding of no class, (D,): a mean over CLIP's 80 templates."""
    _, templates = datasets["imagenet"].wordings["openai"]
    return clip.head([[template.replace("{}", "") for template in templates]], 1.0)[0]


def purified(
    features: Tensor,
    null: Tensor,
    steps: int,
    step_size: float,
    coupled: bool = False,
    exact: bool = False,
) -> Tensor:
    """Return purified unit-norm features (N, D), moved along cos(features, null); null is (D,).

    With `coupled`, directions have one length for the batch. With `exact`, the directions have a
    gradient, too; without it, they count as constants.
    """
    target = F.normalize(null.to(features), dim=-1)
    for _ in range(steps):
        moved = features if exact else features.detach()
        direction = target - (moved @ target)[:, None] * moved
        length = direction.norm() if coupled else direction.norm(dim=1, keepdim=True)
        features = features + step_size * direction / length.clamp_min(TINY)
        features = F.normalize(features, dim=-1)
    return features


_PAPER = "Zhang et al., ICLR 2025, arXiv 2502.18176"
defenses.register("clipure_cos")(CLIPureCos(title="CLIPure-Cos", paper=_PAPER))
defenses.register("clipure_cos_code")(
    CLIPureCos(title="CLIPure-Cos (released code)", paper=_PAPER, coupled=True)
)
