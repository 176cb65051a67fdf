"""Red flags explained: what was measured, or what an attack warned of, and what that means for the number beside it."""

import re

from zsrobust.results.flags import FLAGS

#: What a flag means, by a pattern of its text: those of `zsrobust.flags`, of our attacks, and of AutoAttack's library.
_MEANINGS = {
    **{
        f"^{re.escape(flag.sentence)}$": f"{flag.means} What to do: {flag.remedy}"
        for flag in FLAGS.values()
    },
    r"^Red flags could not be computed": (
        "The cell itself was measured, but the small sample on which red flags are looked for could not be attacked. "
        "Nothing is known of what may be wrong with this number: zsrobust doctor tells more."
    ),
    r"^\w+: some images have a gradient of exactly zero": (
        "A gradient of zero gives the attack no direction: the image stays where it is, and counts as robust although "
        "nobody attacked it in earnest. Saturated or quantized outputs and gradient masking do that. Compare with "
        "AutoAttack: its Square attack needs no gradient."
    ),
    r"^APGD: it climbs the margin": (
        "The loss that was asked for compares more logits than there are classes, so that the margin of the logits was "
        "climbed in its place. The number is sound; the attack is another one than on datasets with more classes."
    ),
    r"needs [34] classes": (
        "AutoAttack's DLR loss compares three logits, its targeted one four, so with fewer classes that part cannot run. "
        "PGD-100 on the margin stands in for it. The number is sound, but it is not AutoAttack's standard suite."
    ),
    r"randomized defense": (
        "The same images gave different logits twice. Against a defense with randomness an attack has to average over it; "
        "plain AutoAttack does not, and flatters."
    ),
    r"probability distribution": (
        "The classifier seems to return probabilities, not logits. Their gradients vanish where it is sure, and the attack "
        "is weaker than it could be."
    ),
    r"points with zero gradient": (
        "For some images the gradient was exactly zero, so that attacks that follow gradients may have failed on them. In "
        "AutoAttack their robustness rests on Square alone, which asks only for logits; elsewhere on nothing."
    ),
    r"Square Attack has decreased": (
        "The attack without gradients broke images that those with gradients could not. That is the mark of masked "
        "gradients: the true accuracy is likely lower still."
    ),
    r"dynamic defense": (
        "The classifier computes gradients or optimizes while it predicts. AutoAttack does not see through that, and its "
        "number may be too high."
    ),
    r"not possible to use the .*DLR loss": (
        "AutoAttack's DLR loss needs at least three classes, targeted four. With fewer, part of the attack did not run."
    ),
    r"target classes": (
        "AutoAttack was asked for more target classes than there are; it used those that there are."
    ),
}

_UNKNOWN = (
    "The attack, or the classifier under it, warned of this while the cell was measured. We know nothing more about it: "
    "treat the numbers that bear it with care, and compare with another attack."
)


def explain(flag: str) -> str:
    """Return what a flag means for the number that bears it, in a few sentences."""
    return next(
        (meaning for pattern, meaning in _MEANINGS.items() if re.search(pattern, flag)), _UNKNOWN
    )
