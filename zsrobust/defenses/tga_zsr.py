"""TGA-ZSR: text-guided attention (NeurIPS 2024, arXiv 2410.21802).

The attention of an image is the similarity of its patches to the text of its class. TeCoA's loss,
plus two distances to the original CLIP's attention on the clean image: of the student's attention
on the adversarial image (attention refinement) and on the clean one (model constraint).

The paper trains on TinyImageNet at 1/255 with PGD-2 on the labels. It reports 16 datasets under
PGD-100 and AutoAttack (APGD-CE and APGD-DLR only), both at 1/255.

The released code was read. Texts have length 1, both terms compare with the frozen model on clean
images, and the distances are means of l2 norms. The paper's text could not be read. That it
normalizes each patch over its channels, as `tga_zsr` does, is not verified.

On `mini`, bound, epochs and batches are those of the suite.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.defenses import Defense, defenses
from zsrobust.training import Outputs, Recipe, Step, objectives

#: What patch features are normalized over: each patch, or each channel over the tokens.
Over = Literal["channels", "tokens"]


def attention(outputs: Outputs, texts: Tensor, over: Over = "channels") -> Tensor:
    """Return attention maps (N, S·S) in [0, 1] of images to texts (N, D), one for each image.

    The similarities of an image's patches to its text are moved and scaled so that they fill
    [0, 1], then enlarged to the tower's input side S (bilinear). A map of equal similarities is 0.
    The texts' lengths do not matter.

    The released code normalizes over `tokens`: each channel over all tokens, the class token
    included. Raises ZSRobustError for a tower without patch tokens.
    """
    patches = outputs.tokens
    if over == "channels":
        patches = F.normalize(patches, dim=-1)
    else:
        # In CLIP's towers, the embedding is the projected class token.
        tokens = torch.cat([outputs.embeddings[:, None], patches], dim=1)
        patches = F.normalize(tokens, dim=1)[:, 1:]
    similarity = (patches @ F.normalize(texts, dim=-1)[:, :, None])[:, :, 0]
    lowest, highest = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
    # Equal similarities have no contrast to divide by.
    contrast = torch.where(highest > lowest, highest - lowest, 1.0)
    side = math.isqrt(similarity.shape[1])
    maps = ((similarity - lowest) / contrast).unflatten(1, (1, side, side))
    enlarged = F.interpolate(maps, outputs.classifier.side, mode="bilinear", align_corners=False)
    return enlarged.flatten(1)


def gap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean over the batch of the l2 norms of differences of maps (N, S·S)."""
    distances: Tensor = torch.linalg.vector_norm(ours - theirs, dim=1)
    return distances.mean()


def refinement(step: Step, maps: Callable[[Outputs], Tensor]) -> Tensor:
    """Return α |A(x',f) - A(x,f0)| + β |A(x,f) - A(x,f0)|, batch means, for A = `maps`.

    A term of weight 0 costs no pass.
    """
    loss = step.student.head.new_zeros(())
    for weight, kind in (("alpha", "adversarial"), ("beta", "clean")):
        if step.options[weight]:
            distance = gap(maps(getattr(step, f"student_{kind}")), maps(step.teacher_clean))
            loss = loss + step.options[weight] * step.term(f"{kind}_attention", distance)
    return loss


def guided(step: Step, over: Over) -> Tensor:
    """Return L = cross-entropy of the adversarial images + the attention's `refinement`."""
    loss = step.term("robust", F.cross_entropy(step.adversarial_logits, step.labels))
    texts = step.student.head[step.labels]
    return loss + refinement(step, lambda outputs: attention(outputs, texts, over))


@objectives.register("tga_zsr")
def tga_zsr(step: Step) -> Tensor:
    """Return the loss with patch features of length 1."""
    return guided(step, "channels")


@objectives.register("tga_zsr_code")
def tga_zsr_code(step: Step) -> Tensor:
    """Return the released code's loss, with channels normalized over the tokens."""
    return guided(step, "tokens")


PAPER = "NeurIPS 2024, arXiv 2410.21802"
# The released code's defaults (zhyblue424/TGA-ZSR at 663fe57): α = 0.08, β = 0.05, PGD-2. Its
# learning rate 1e-4, batch of 128 and TinyImageNet are not used: the adversarial fine-tunings of a
# suite share a budget. Half precision is left out. α and β belong to maps of 224 pixels a side; the
# norm of a map grows with its side, so both terms weigh less on smaller images.
OPTIONS = {"alpha": 0.08, "beta": 0.05}

defenses.register("tga_zsr")(
    Defense(
        title="TGA-ZSR",
        paper=PAPER,
        recipe=Recipe(objective="tga_zsr", attack="pgd2", options=OPTIONS),
    )
)

defenses.register("tga_zsr_code")(
    Defense(
        title="TGA-ZSR (released code)",
        paper=f"{PAPER}, its code",
        recipe=Recipe(objective="tga_zsr_code", attack="pgd2", options=OPTIONS),
    )
)
