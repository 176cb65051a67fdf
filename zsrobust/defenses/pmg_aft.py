"""PMG-AFT: pre-trained model guided fine-tuning (Wang et al., CVPR 2024, arXiv 2401.04350).

TeCoA's loss, plus two that hold the outputs on adversarial images near those of the original CLIP
on the same adversarial images (L_general, Eq. 9) and near the model's own on clean images (L_clean,
Eq. 10).

The paper trains on TinyImageNet at 1/255. It reports 16 datasets under PGD-10 and AutoAttack at
1/255, and under PGD-10 at 2/255 and 4/255. On `mini`, bound, epochs and batches are those of the
suite.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, Step, objectives


def kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return KL(P ‖ Q), (N,), for P = softmax(logits) and Q = softmax(target_logits) (Eq. 8)."""
    log_p, log_q = logits.log_softmax(1), target_logits.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def general(step: Step, layer: str, distance: str) -> Tensor:
    """Return the distance (N,) of student and teacher on adversarial images (Eq. 9, Table 5).

    The paper's is KL on the output. L2 is the squared distance, of the probabilities at the output
    or of the unit-norm embeddings at the feature layer; cosine is 1 - cosine. The paper does not
    spell these out.
    """
    if layer == "output" and distance == "kl":
        return kl(step.adversarial_logits, step.teacher_logits)
    if layer == "output":
        ours, theirs = step.adversarial_logits.softmax(1), step.teacher_logits.softmax(1)
    else:
        ours, theirs = step.adversarial_features, step.teacher_features
    if distance == "l2":
        return (ours - theirs).square().sum(1)
    if distance == "cosine":
        return 1 - F.cosine_similarity(ours, theirs)
    raise ZSRobustError(
        "L_general on features is l2 or cosine: pmg_aft:layer=feature,distance=cosine"
    )


@objectives.register("pmg_aft")
def pmg_aft(step: Step) -> Tensor:
    """Return L = L_robust + α L_general + β L_clean, each a mean over the batch (section 3.3)."""
    options = step.options
    loss = step.term("robust", F.cross_entropy(step.adversarial_logits, step.labels))
    if options["alpha"]:
        distances = general(step, options["layer"], options["distance"])
        loss = loss + options["alpha"] * step.term("general", distances.mean())
    if options["beta"]:
        clean = step.clean_logits.detach() if options["stop_gradient"] else step.clean_logits
        divergences = kl(step.adversarial_logits, clean)
        loss = loss + options["beta"] * step.term("clean", divergences.mean())
    return loss


@objectives.register("pmg_aft_code")
def pmg_aft_code(step: Step) -> Tensor:
    """Return the released code's loss: both KL terms are sums, with P_adv as second argument.

    Its first release (2024-04-24) has the paper's direction: `direction=paper`. The logits are raw
    cosines (the recipe's logit_scale is 1), and P_clean takes gradients. Three things of that code
    are left out: that it trains in half precision, that its attack leaves gradients in the weights
    (made negligible there by the loss scaler), and that it keeps the epoch which does best on the
    test sets.
    """
    ours, theirs, clean = step.adversarial_logits, step.teacher_logits, step.clean_logits
    if step.options["direction"] == "paper":
        terms = kl(ours, theirs).sum() + kl(ours, clean).sum()
    else:
        terms = kl(theirs, ours).sum() + kl(clean, ours).sum()
    sums = torch.as_tensor(terms) / step.share  # whatever parts a batch is in
    robust = step.term("robust", F.cross_entropy(ours, step.labels))
    return robust + step.term("divergences", sums)


PAPER = "Wang et al., CVPR 2024, arXiv 2401.04350"
OPTIONS = {"alpha": 1.0, "beta": 1.0, "layer": "output", "distance": "kl", "stop_gradient": False}
CHOICES = {"layer": Literal["output", "feature"], "distance": Literal["kl", "l2", "cosine"]}

defenses.register("pmg_aft")(
    Defense(
        title="PMG-AFT",
        paper=PAPER,
        # Section 4.1: SGD, 10 epochs, learning rate 5e-5, PGD-2; section 4.6: α = β = 1.
        recipe=Recipe(objective="pmg_aft", attack="pgd2", options=OPTIONS),
        choices=CHOICES,
    )
)

defenses.register("pmg_aft_code")(
    Defense(
        title="PMG-AFT (released code)",
        paper=f"{PAPER}, code of 2024-05-29",
        # The command in its README: eps 1/255, 2 steps of 1/255. Its logits are raw cosines, its
        # images normalized with
        # ImageNet's numbers, Resize(256) and CenterCrop(224) of torchvision, and its prompts of
        # refined class names.
        recipe=Recipe(
            objective="pmg_aft_code",
            attack="pgd2",
            logit_scale=1.0,
            normalization="imagenet",
            zoom=256 / 224,
            interpolation="bilinear",
            prompts="released",
            options={"direction": "code"},
        ),
        choices={"direction": Literal["code", "paper"]},
    )
)

defenses.register("vpt_pmg_aft")(
    Defense(
        title="VPT-PMG-AFT",
        paper=PAPER,
        # Section 4.1: an image prompt of the image's size, 100 tokens, learning rate 40.
        recipe=Recipe(
            objective="pmg_aft",
            attack="pgd2",
            trainable="prompts",
            lr=40.0,
            options={"tokens": 100, **OPTIONS},
        ),
        choices=CHOICES,
    )
)
