"""Comp-TGA: complementary text-guided attention (Yu et al., TPAMI 2026, arXiv 2603.18598).

TGA-ZSR's loss with another attention: where an image looks like the text of its class, and does not
look like the text that denies it, "This is not a photo of a {}".

The paper trains on TinyImageNet at 1/255 with PGD-2 on the labels. It reports 16 datasets under
PGD-100 and AutoAttack (APGD-CE and APGD-DLR only), both at 1/255.

The equations are those of the released code (zhyblue424/TGA-ZSR at 663fe57, Comp-TGA.py); the
paper's text could not be read. Three things of that code are left out: it normalizes patch features
over the tokens, as `tga_zsr_code` does; it sets torch's seed again in every call of the loss, so
that the attack starts from the same noise in every batch; and half precision.

On `mini`, bound, epochs and batches are those of the suite.
"""

import torch.nn.functional as F
from torch import Tensor

from zsrobust.datasets import Dataset
from zsrobust.defenses import Defense, defenses
from zsrobust.defenses.tga_zsr import attention, refinement
from zsrobust.training import MinMax, Outputs, Recipe, Step, Texts, objectives


def negations(dataset: Dataset) -> Texts:
    """Return one further head: the prompt "This is not a photo of a {}" of each class."""
    return [[[f"This is not a photo of a {name}"] for name in dataset.classes]]


def complementary(step: Step, outputs: Outputs) -> Tensor:
    """Return A(t_y) ⊙ (1 - A(t̄_y)), (N, S·S), for the texts of the labels and their negations."""
    texts, denials = step.student.head[step.labels], step.heads[0][step.labels]
    combined: Tensor = attention(outputs, texts) * (1 - attention(outputs, denials))
    return combined


def comp_tga(step: Step) -> Tensor:
    """Return L = cross-entropy + α |A(x',f) - A(x,f0)| + β |A(x,f) - A(x,f0)|, batch means."""
    loss = step.term("robust", F.cross_entropy(step.adversarial_logits, step.labels))
    return loss + refinement(step, lambda outputs: complementary(step, outputs))


objectives.register("comp_tga")(MinMax(minimize=comp_tga, texts=negations))

defenses.register("comp_tga")(
    Defense(
        title="Comp-TGA",
        paper="Yu et al., TPAMI 2026, arXiv 2603.18598",
        # The released code's defaults: α = 0.10, β = 0.07, PGD-2. Its learning rate 1e-4, batch of
        # 128 and TinyImageNet are not used: the adversarial fine-tunings of a suite share a budget.
        recipe=Recipe(objective="comp_tga", attack="pgd2", options={"alpha": 0.10, "beta": 0.07}),
    )
)
