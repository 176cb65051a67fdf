"""Sim-CLIP: Siamese adversarial fine-tuning (Hossain and Imteaj, arXiv 2407.14971).

Clean and adversarial images of one batch pass through the same encoder. Each embedding is a target
for the other one, in turn, and a target takes no gradient. Labels and class texts are not used.

The attack is that of FARE: it maximizes the squared distance to the original CLIP's embedding of
the clean image, in 10 steps. The paper trains on ImageNet at 2/255 and at 4/255. Equation and
attack come from notes on the paper and from its code; the text itself could not be compared again.

On `mini`, bound, epochs and batches are those of the suite.
"""

from torch import Tensor

from zsrobust.defenses import Defense, defenses
from zsrobust.defenses.fare import distance
from zsrobust.training import MinMax, Recipe, Step, objectives


def negative_cosine(ours: Tensor, target: Tensor) -> Tensor:
    """Return D = -cos, (N,) in [-1, 1], of unit-norm embeddings (N, D) and their fixed targets."""
    return -(ours * target.detach()).sum(1)


def sim_clip(step: Step) -> Tensor:
    """Return L = ½ [D(f(x'), sg f(x)) + D(f(x), sg f(x'))], mean over the batch."""
    clean, adversarial = step.clean_features, step.adversarial_features
    return (negative_cosine(adversarial, clean) + negative_cosine(clean, adversarial)).mean() / 2


def sim_clip_code(step: Step) -> Tensor:
    """Return the released code's loss, -½ cos(f(x'), f0(x)), mean over the batch.

    Its clean branch is the original CLIP f0, without gradient. Its second term has the value of the
    first one and no gradient, so it is left out here: training does not depend on it.
    """
    return negative_cosine(step.adversarial_features, step.teacher_clean.features).mean() / 2


objectives.register("sim_clip")(MinMax(minimize=sim_clip, maximize=distance))
objectives.register("sim_clip_code")(MinMax(minimize=sim_clip_code, maximize=distance))

PAPER = "Hossain and Imteaj, arXiv 2407.14971"

# The published recipe (speedlab-git/SimCLIP at 2388a87): PGD of 10 steps, which is used here. Its
# ImageNet, 10,000 steps of 64 images, AdamW, learning rate 1e-3, and weight decay 1e-5 are not
# used: the adversarial fine-tunings of a suite share a budget.
defenses.register("sim_clip")(
    Defense(title="Sim-CLIP", paper=PAPER, recipe=Recipe(objective="sim_clip", attack="pgd10"))
)

defenses.register("sim_clip_code")(
    Defense(
        title="Sim-CLIP (released code)",
        paper=f"{PAPER}, its code",
        recipe=Recipe(objective="sim_clip_code", attack="pgd10"),
    )
)
