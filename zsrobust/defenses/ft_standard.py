"""FT-Standard: fine-tuning of the image encoder on clean images (PMG-AFT paper, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor

from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, Step, objectives


@objectives.register("ft_standard")
def ft_standard(step: Step) -> Tensor:
    """Return the cross-entropy of the clean images against the class texts, mean over the batch."""
    return F.cross_entropy(step.clean_logits, step.labels)


defenses.register("ft_standard")(
    Defense(
        title="FT-Standard",
        paper="Wang et al., CVPR 2024, arXiv 2401.04350, section 3.2",
        recipe=Recipe(objective="ft_standard"),  # the paper's: SGD, 10 epochs, 5e-5 (section 4.1)
    )
)
