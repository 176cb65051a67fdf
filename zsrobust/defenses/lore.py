"""LORE: FARE under a constraint on clean embeddings (Khodabandeh et al., NeurIPS 2025, 2505.18884).

The embedding of an adversarial image stays near the one that the original CLIP gives to the clean
image, as in FARE. Clean embeddings may move by a share ρ of their squared length. A small network
learns the multiplier of this constraint for each image, so that training finds a saddle point.

The paper trains on ImageNet or ImageNet-100. The bounds and attacks of its evaluation could not be
read. On `mini`, bound, epochs and batches are those of the suite.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.defenses import Defense, defenses
from zsrobust.defenses.fare import distance
from zsrobust.training import MinMax, Recipe, Step, objectives


def multiplier(step: Step) -> Tensor:
    """Return λ_ω(x) = softplus(MLP(φ_org(x))), (N,); 0 for a step without a dual network."""
    embeddings = step.teacher_clean.embeddings
    if step.dual is None:
        return embeddings.new_zeros(len(embeddings))
    return F.softplus(step.dual(embeddings)).squeeze(1)


def violation(step: Step) -> Tensor:
    """Return ‖φ(x) - φ_org(x)‖² - ρ ‖φ_org(x)‖², (N,), which the constraint wants at most 0."""
    allowed: Tensor = step.options["rho"] * step.teacher_clean.embeddings.square().sum(1)
    return distance(step, step.student_clean) - allowed


def lore(step: Step) -> Tensor:
    """Return the Lagrangian: the mean of FARE's distance + λ_ω(x) · violation(x).

    The student descends it, and takes no gradient from λ. The dual network ascends it.
    """
    violated = violation(step)
    step.term("violation", violated.mean())
    return (distance(step, step.student_adversarial) + multiplier(step) * violated).mean()


def network(width: int) -> nn.Module:
    """Return the dual network: two layers, from an embedding of `width` numbers to one number."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


objectives.register("lore")(MinMax(minimize=lore, maximize=distance, dual=network))

defenses.register("lore")(
    Defense(
        title="LORE",
        paper="Khodabandeh et al., NeurIPS 2025, arXiv 2505.18884",
        # The paper: ρ = 0.1, FARE's attack, ImageNet (2 epochs) or ImageNet-100 (5 epochs). After K
        # steps of the student, the dual network takes one. We could not read K, the network's width
        # and its optimizer. K = 5, the width of the embedding, and Adam at its usual rate are ours:
        # SGD at the student's rate diverges on mini. The suite's budget is used, as for all
        # adversarial fine-tunings.
        recipe=Recipe(
            objective="lore",
            attack="pgd10",
            options={"rho": 0.1, "primal_steps": 5, "dual_lr": 1e-3},
        ),
    )
)
