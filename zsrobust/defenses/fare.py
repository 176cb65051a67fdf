"""FARE: unsupervised adversarial fine-tuning (Schlarmann et al., ICML 2024, arXiv 2402.12336).

The embedding of an adversarial image stays near the one that the original CLIP gives to the clean
image. The attack moves it as far away as it can. Labels and class texts are not used (section 3).

The paper trains on ImageNet at 2/255 and at 4/255. Its code evaluates with `--attack aa`, on 1,000
images of each dataset. On `mini`, bound, epochs and batches are those of the suite.
"""

from torch import Tensor

from zsrobust.defenses import Defense, defenses
from zsrobust.training import MinMax, Outputs, Recipe, Step, objectives


def distance(step: Step, student: Outputs) -> Tensor:
    """Return ‖φ(z) - φ_org(x)‖², (N,), on embeddings that are not normalized.

    φ_org is the frozen encoder, x the clean image, and φ(z) the student's embedding of z.
    """
    return (student.embeddings - step.teacher_clean.embeddings).square().sum(1)


def fare(step: Step) -> Tensor:
    """Return L_FARE = max over z of ‖φ(z) - φ_org(x)‖², mean over the batch (section 3)."""
    return distance(step, step.student_adversarial).mean()


objectives.register("fare")(MinMax(minimize=fare, maximize=distance))

defenses.register("fare")(
    Defense(
        title="FARE",
        paper="Schlarmann et al., ICML 2024, arXiv 2402.12336",
        # From the published recipe (chs20/RobustVLM at 7de10ee, README): the loss and PGD of 10
        # steps. Its ImageNet, 2 epochs, AdamW and schedule are the suite paper_imagenet's. Other
        # suites have their own: the adversarial fine-tunings of a suite share a budget.
        recipe=Recipe(objective="fare", attack="pgd10"),
    )
)
