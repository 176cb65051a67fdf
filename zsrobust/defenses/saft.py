"""SAFT: fine-tuning on several descriptions of a class (TMLR 2026, arXiv 2602.12461).

The attack and the loss are means over five descriptions of each class, instead of one prompt. The
attention terms of TGA-ZSR are added, with attention averaged over the descriptions.

The paper trains on TinyImageNet at 1/255 with PGD-2. It evaluates with the single prompt, as
everything here does.

The equations are those of the released code (tmlr-group/SAFT at db30aec); the paper's text could
not be read. There, the five descriptions with the highest CLIP similarity to the bare class name
are chosen from those of a language model. Here, the first five of the dataset's descriptions are
taken: put the chosen ones first. That code normalizes patch features over the tokens, as
`tga_zsr_code` does, and gives a class with fewer descriptions its prompt five times. Both are left
out. On `mini`, the descriptions are captions that the world's pictures have beside the prompt.

On `mini`, bound, epochs and batches are those of the suite.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.datasets import Dataset
from zsrobust.defenses import Defense, defenses
from zsrobust.defenses.tga_zsr import attention, refinement
from zsrobust.training import MinMax, Outputs, Recipe, Step, Texts, objectives

NUMBER = 5  #: descriptions of a class (the released code's N)


def descriptions(dataset: Dataset) -> Texts:
    """Return five heads of a dataset's descriptions; raises as `Dataset.described` does."""
    return dataset.described(NUMBER)


def cross_entropies(step: Step, outputs: Outputs) -> Tensor:
    """Return the cross-entropy (N,) of images, a mean over the descriptions."""
    logits = (outputs.features @ head.T for head in step.heads)
    each = [F.cross_entropy(row, step.labels, reduction="none") for row in logits]
    return torch.stack(each).mean(0)


def described(step: Step, outputs: Outputs) -> Tensor:
    """Return attention maps (N, S·S), means over the descriptions of the labels."""
    maps = [attention(outputs, head[step.labels]) for head in step.heads]
    return torch.stack(maps).mean(0)


def saft(step: Step) -> Tensor:
    """Return the mean cross-entropy + α |A(x',f) - A(x,f0)| + β |A(x,f) - A(x,f0)|."""
    loss = step.term("robust", cross_entropies(step, step.student_adversarial).mean())
    return loss + refinement(step, lambda outputs: described(step, outputs))


objectives.register("saft")(MinMax(minimize=saft, maximize=cross_entropies, texts=descriptions))

defenses.register("saft")(
    Defense(
        title="SAFT",
        paper="TMLR 2026, arXiv 2602.12461",
        # The released code: five descriptions, α = 0.08, β = 0.05, PGD-2. Its learning rate 1e-4
        # and TinyImageNet are not used: the adversarial fine-tunings of a suite share a budget.
        recipe=Recipe(objective="saft", attack="pgd2", options={"alpha": 0.08, "beta": 0.05}),
    )
)
