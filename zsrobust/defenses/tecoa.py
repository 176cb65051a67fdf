"""TeCoA: text-guided contrastive adversarial training (Mao et al., ICLR 2023, arXiv 2212.07016).

The image encoder is fine-tuned on adversarial images of the target dataset, made by PGD-2 against
the model as it is, so that they are classified by the frozen text embeddings of the classes.

The PMG-AFT paper trains it on TinyImageNet at 1/255. It reports 16 datasets under PGD-10 and
AutoAttack at 1/255, and under PGD-10 at 2/255 and 4/255. On `mini`, bound, epochs and batches are
those of the suite.
"""

import torch.nn.functional as F
from torch import Tensor

from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, Step, objectives


@objectives.register("tecoa")
def tecoa(step: Step) -> Tensor:
    """Return L_robust = cross-entropy(P_adv, y), mean over the batch (PMG-AFT paper, Eq. 6)."""
    return F.cross_entropy(step.adversarial_logits, step.labels)


PAPER = "Mao et al., ICLR 2023, arXiv 2212.07016"

defenses.register("tecoa")(
    Defense(
        title="FT-TeCoA",
        paper=PAPER,
        # PMG-AFT paper, section 4.1: SGD, 10 epochs, learning rate 5e-5, PGD-2.
        recipe=Recipe(objective="tecoa", attack="pgd2"),
    )
)

defenses.register("vpt_tecoa")(
    Defense(
        title="VPT-TeCoA",
        paper=PAPER,
        # PMG-AFT paper, section 4.1: an image prompt of the image's size, 100 tokens, learning rate
        # 40.
        recipe=Recipe(
            objective="tecoa", attack="pgd2", trainable="prompts", lr=40.0, options={"tokens": 100}
        ),
    )
)

defenses.register("vpt_tecoa_code")(
    Defense(
        title="VPT-TeCoA (TeCoA's code)",
        paper=f"{PAPER}, its code",
        # TeCoA's code: prompts start at N(0, 1), and the image prompt is a border of 30 pixels of
        # 224, scaled for other sides. With 100 tokens these are 146,640 numbers on ViT-B/32.
        recipe=Recipe(
            objective="tecoa",
            attack="pgd2",
            trainable="prompts",
            lr=40.0,
            options={"tokens": 100, "border": 30, "std": 1.0},
        ),
    )
)
