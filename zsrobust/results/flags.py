"""Red flags: signs that a number flatters its defense. From which measurement on, in which words, and what to do. No torch.

`zsrobust.redflags` measures on a small sample; the measurements are stored with the result, and what they say is decided
here alone. The signs are those of Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705, section 5),
Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018, arXiv 1802.00420, section
3.1), Pintor et al., "Indicators of Attack Failure" (NeurIPS 2022, arXiv 2106.09947), and, for what computes while it
predicts, Croce et al., "Evaluating the Adversarial Robustness of Adaptive Test-time Defenses" (ICML 2022, arXiv
2202.13711).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

WARNED = "attack_warned"  #: a plugin, or a library, warned while an attack ran


def is_name(text: str) -> bool:
    """Return whether a text is a name of a flag, and not a sentence."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", text) is not None


#: Measurements by name, as `zsrobust.redflags.examine` returns them and results store them.
Checks = Mapping[str, float]

#: Share of images without any gradient. An honest classifier has none; one of sixteen is above.
ZERO_GRADIENTS = 0.05
#: How many times more the margin grows than its gradient says. About 1 where the gradient is the classifier's own;
#: HalfPrecision divides it by the number of images, 16 in a sample.
VANISHING = 100.0
#: Difference of logits between two calls, in units of their range; AutoAttack's own check has this bound.
UNSTABLE = 1e-4
#: The same between other batches, where kernels sum in another order: half precision is off by up to a percent.
COUPLED = 1e-2
#: Share of images whose margin is beyond what float32 can take the exponential of (see `zsrobust.redflags.BEYOND`).
SATURATED = 0.25
#: Share of images that the black-box attack broke and the white-box one left; and how many they must be at least.
BLACK_BOX, BLACK_BOX_IMAGES = 0.1, 2
#: Share of images that still stand where each can become plain gray; and how many they must be at least.
STANDING, STANDING_IMAGES = 0.1, 2
#: Share of images whose margin does not grow from eps 0 to eps / 2 to eps.
NO_GROWTH, NO_GROWTH_IMAGES = 0.25, 3
#: Share of images that 100 steps broke and 10 did not. An attack of as many steps is not concerned.
MORE_STEPS, MORE_STEPS_IMAGES, MANY = 0.15, 3, 100
#: Of the doctor: share of images that a stronger attack broke and PGD-10 left; and how many they must be at least.
OVERSTATED, OVERSTATED_IMAGES = 0.15, 3
#: Of the doctor: share of images that the undefended model keeps under the stronger attack. With CLIP's weights at 1/255
#: nearly nothing is kept; the mini suite's CLIP keeps 7% in the mean over datasets, and 38% of one of plain colors.
CANARY = 0.25
#: Share of the broken images that are still broken in 8 bits; and how many must have been broken, for a share to mean much.
EIGHT_BITS, EIGHT_BITS_IMAGES = 0.5, 4


@dataclass(frozen=True)
class Flag:
    """A red flag."""

    name: str
    title: str  #: in a few words
    sentence: str  #: the footnote, the same for every cell
    means: str  #: for the number that bears it
    remedy: str  #: what to do
    raised: Callable[[Checks], bool]


def _above(
    name: str, bound: float, images: int = 0, of: str = "correct"
) -> Callable[[Checks], bool]:
    """Return whether a measurement is above the bound; and, if it is a share, of so many images at least."""

    def raised(checks: Checks) -> bool:
        value = checks.get(name, 0.0)
        return value > bound and value * checks.get(of, 0.0) > images - 0.5

    return raised


def _short_of_steps(checks: Checks) -> bool:
    few = checks.get("attack_steps", MANY) < MANY  # one that does not say may have had as many
    return few and _above("more_steps", MORE_STEPS, MORE_STEPS_IMAGES)(checks)


def _lost_in_eight_bits(checks: Checks) -> bool:
    return checks.get("broken", 0.0) >= EIGHT_BITS_IMAGES and checks["eight_bits"] < EIGHT_BITS


def _coupled(checks: Checks) -> bool:
    return checks.get("coupled", 0.0) > COUPLED and not checks.get("unstable", 0.0) > UNSTABLE


FLAGS = {
    flag.name: flag
    for flag in (
        Flag(
            "zero_gradients",
            "zero gradients",
            "Red flag: some images have a gradient of exactly zero.",
            "Attacks that follow gradients have no direction there: the image counts as robust although nobody attacked it "
            "in earnest. Rounding, detached tensors and saturated outputs do that.",
            "Attack through a differentiable stand-in for the part without a gradient (BPDA, arXiv 1802.00420), or with an "
            "attack that needs none.",
            _above("zero_gradients", ZERO_GRADIENTS),
        ),
        Flag(
            "vanishing",
            "vanishing gradients",
            "Red flag: the loss grows far more than its gradient says.",
            "What flows back through the classifier is not its gradient: a part of it shrinks the gradient on the way, and "
            "with it the steps of every attack that uses its size.",
            "Replace the backward pass of that part by the identity (BPDA, arXiv 1802.00420), and attack again.",
            _above("vanishing", VANISHING),
        ),
        Flag(
            "unstable",
            "random outputs",
            "Red flag: the same images give other logits in a second call.",
            "The defense is randomized. An attack that asks once follows the gradient of one draw, and is judged on "
            "another; a single verdict is luck, too.",
            "Average gradients over many draws (EOT, arXiv 1707.07397), and judge over several.",
            _above("unstable", UNSTABLE),
        ),
        Flag(
            "coupled",
            "images that depend on their batch",
            "Red flag: an image's logits change with the other images of its batch.",
            "The number depends on which images were evaluated together, and an attacker who sends one image alone meets "
            "another classifier.",
            "Make the defense work image by image (running statistics, eval mode), or evaluate with batches of one.",
            _coupled,
        ),
        Flag(
            "inside",
            "gradients inside",
            "Red flag: the classifier computes gradients while it predicts.",
            "It optimizes at test time. An attack that does not differentiate through that sees another classifier than the "
            "one that is deployed, and such defenses have mostly fallen to attacks made for them (arXiv 2202.13711).",
            "Attack through the optimization, unrolled or with BPDA, and move images from the undefended model to it.",
            _above("inside", 0),
        ),
        Flag(
            "probabilities",
            "probabilities",
            "Red flag: the outputs look like probabilities, not logits.",
            "A loss takes their softmax once more: where the classifier is sure, its gradient vanishes, and losses of "
            "logits do not mean what they should.",
            "Return the logits before the last softmax.",
            _above("probabilities", 0),
        ),
        Flag(
            "saturated",
            "saturated logits",
            "Red flag: logits are so far apart that float32 rounds the gradient of the cross-entropy away.",
            "The temperature is that low, or the scale that high. The cross-entropy is flat there: attacks that climb it "
            "stand still, while nothing is safer than before.",
            "Attack the logits at the scale of training, or use losses that do not depend on it: the margin, DLR.",
            _above("saturated", SATURATED),
        ),
        Flag(
            "black_box",
            "black box beats white box",
            "Red flag: Square, which sees no gradients, breaks images that PGD-100 left.",
            "Who sees gradients must do better than who does not. Here the gradients mislead: the mark of masked gradients, "
            "and the true accuracy is likely lower still.",
            "Believe no number of an attack that follows gradients; find what masks them, and attack through it.",
            _above("black_box", BLACK_BOX, BLACK_BOX_IMAGES),
        ),
        Flag(
            "standing",
            "stands at any eps",
            "Red flag: accuracy does not fall to chance under a huge eps.",
            "Within that bound every image can become plain gray, so that nothing can be recognized. What still stands "
            "there was not attacked well, at no eps.",
            "Find out why the attack does not get on: gradients, step size, or a part of the defense that it does not see.",
            _above("standing", STANDING, STANDING_IMAGES),
        ),
        Flag(
            "no_growth",
            "loss does not grow",
            "Red flag: the loss does not grow with eps.",
            "More room never makes an attack weaker. If its loss does not rise from eps / 2 to eps, it does not follow the "
            "classifier's loss, but noise.",
            "Look at the gradients, and at the loss along the attack's steps; try more restarts, and another loss.",
            _above("no_growth", NO_GROWTH, NO_GROWTH_IMAGES),
        ),
        Flag(
            "more_steps",
            "more steps help",
            "Red flag: PGD-100 breaks many images that PGD-10 left.",
            "The attack was stopped before it was done: accuracy would go down with more steps.",
            "Report PGD-100 or AutoAttack, and look at accuracy over the number of steps.",
            _short_of_steps,
        ),
        Flag(
            "eight_bits",
            "lost in 8 bits",
            "Red flag: most adversarial images are none any more once they are rounded to 8 bits.",
            "They rest on differences that no picture file keeps. The number holds for whoever may send float images; "
            "stored as pictures, these are harmless.",
            "Do not store adversarial images as pictures; if the defense's input is a file, attack on the grid of 8 bits.",
            _lost_in_eight_bits,
        ),
        Flag(
            "overstated",
            "a stronger attack finds more",
            "Red flag: a stronger attack breaks many images that PGD-10 left.",
            "PGD-10 overstates this defense: its loss, its steps or its start do not suit the classifier.",
            "Report AutoAttack, or an attack made for this defense.",
            _above("overstated", OVERSTATED, OVERSTATED_IMAGES),
        ),
        Flag(
            "canary",
            "the undefended model stands",
            "Red flag: the undefended model withstands a strong attack.",
            "Where CLIP itself does not fall, the attack is weak, or eps is small for these images; either way, what a "
            "defense keeps here is no merit of its own.",
            "Raise --eps until the undefended model falls, or measure on another dataset; check scale, normalization and "
            "precision of the protocol.",
            _above("canary", CANARY),
        ),
    )
}


def raised(checks: Checks) -> list[Flag]:
    """Return the flags that the measurements raise; what was not measured raises none."""
    return [flag for flag in FLAGS.values() if flag.raised(checks)]


def sentences(checks: Checks, more: Iterable[str] = ()) -> list[str]:
    """Return the footnotes of the measurements, and `more` of them, each once, sorted."""
    return sorted({*more, *(flag.sentence for flag in raised(checks))})
