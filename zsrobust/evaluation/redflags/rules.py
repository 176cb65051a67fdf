"""The rules of red flags: the measurements that make a number look too good.

The signs come from these papers:
- Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705, section 5);
- Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018,
  arXiv 1802.00420, section 3.1);
- Pintor et al., "Indicators of Attack Failure" (NeurIPS 2022, arXiv 2106.09947);
- Croce et al., "Evaluating the Adversarial Robustness of Adaptive Test-time Defenses" (ICML 2022,
  arXiv 2202.13711), for classifiers that optimize while they predict.
"""

from collections.abc import Callable, Mapping

#: Measurements by name, as `measurements.examine` returns them and results store them.
Checks = Mapping[str, float]

#: Share of images whose gradient is zero. An honest classifier has 0. One image of 16 exceeds it.
ZERO_GRADIENTS = 0.05
#: Growth of the margin, divided by the growth that its gradient predicts. An honest gradient gives
#: about 1. HalfPrecision gives about 16: it divides by the number of images in a sample.
VANISHING = 100.0
#: Difference of logits between two calls, in units of their range. AutoAttack uses this bound.
UNSTABLE = 1e-4
#: The same between batches of other sizes, where kernels sum in another order. Half precision
#: differs by up to one percent.
COUPLED = 1e-2
#: Share of images whose margin exceeds the range of float32's exp (see `measurements.BEYOND`).
SATURATED = 0.25
#: Share of images that only the black-box attack broke, and their least number.
BLACK_BOX, BLACK_BOX_IMAGES = 0.1, 2
#: Share of images that survive a bound at which each can become plain gray, and their least number.
STANDING, STANDING_IMAGES = 0.1, 2
#: Share of images whose margin does not grow from eps 0 to eps / 2 to eps, and their least number.
NO_GROWTH, NO_GROWTH_IMAGES = 0.25, 3
#: Share of images that only 100 steps broke, and their least number. An attack of 100 steps or more
#: does not raise this flag.
MORE_STEPS, MORE_STEPS_IMAGES, MANY = 0.15, 3, 100
#: The doctor's share of images that only a stronger attack broke, and their least number.
OVERSTATED, OVERSTATED_IMAGES = 0.15, 3
#: The doctor's share of images on which the undefended model survives the stronger attack. CLIP
#: keeps nearly 0% at 1/255. The mini suite's CLIP keeps 7% on average, and 38% on plain colors.
CANARY = 0.25
#: Share that the cell's attack left of the images that it or a short probe breaks, and their least
#: number. Honest attacks differ on single images, by their starts and losses. An attack that misses
#: more than half of what ten plain steps break does not measure the classifier. It is not a share
#: of all correct images: where few images can be broken, a weak attack leaves few of them, too.
#: PGD-2 raises it on some mini datasets, with cause: it leaves 20 of 32 images, and PGD-10 one.
WEAK, WEAK_IMAGES = 0.5, 3
#: Share of images whose own gradient points nowhere uphill, and their least number. An honest
#: classifier has 0 but for rounding. If one image in a thousand is misled by rounding, two of 16
#: are misled in one sample of 8,000. Of every fifth image, two of 16 are found in 6 of 7 samples.
MISLED, MISLED_IMAGES = 0.06, 2
#: How often the gradient predicts the sign of a change in a random direction, and the least number
#: of images, each with two directions. A gradient of noise is right half the time, an honest one
#: nearly always. Of 32 signs of a fair coin, at least 70% agree in one sample of 100.
AGREEMENT, AGREEMENT_IMAGES = 0.7, 4
#: Share of images on whose way the logits jump, and their least number.
CLIFFS, CLIFFS_IMAGES = 0.1, 2
#: Share of images with another result alone or later, and their least number. Rounding decides
#: single images.
FICKLE, FICKLE_IMAGES = 0.1, 2
#: Share of images that only adversarial images of the undefended model break, and their least
#: number.
TRANSFER, TRANSFER_IMAGES = 0.1, 2
#: Share of the broken images that stay broken in 8 bits, and the least number of broken images.
EIGHT_BITS, EIGHT_BITS_IMAGES = 0.5, 4


def _above(name: str, bound: float, images: int = 0) -> Callable[[Checks], bool]:
    """Return a rule: a measurement exceeds the bound, and its share is at least `images` images."""

    def raised(checks: Checks) -> bool:
        value = checks.get(name, 0.0)
        return value > bound and value * checks.get("correct", 0.0) > images - 0.5

    return raised


def _short_of_steps(checks: Checks) -> bool:
    few = checks.get("attack_steps", MANY) < MANY  # an unknown number may be as large
    return few and _above("more_steps", MORE_STEPS, MORE_STEPS_IMAGES)(checks)


def _lost_in_eight_bits(checks: Checks) -> bool:
    return checks.get("broken", 0.0) >= EIGHT_BITS_IMAGES and checks["eight_bits"] < EIGHT_BITS


def _coupled(checks: Checks) -> bool:
    return checks.get("coupled", 0.0) > COUPLED and not checks.get("unstable", 0.0) > UNSTABLE


def _misleading(checks: Checks) -> bool:
    many = checks.get("correct", 0.0) >= AGREEMENT_IMAGES
    disagrees = many and checks.get("agreement", 1.0) < AGREEMENT
    return disagrees or _above("misled", MISLED, MISLED_IMAGES)(checks)


def _fickle(checks: Checks) -> bool:
    stable = not checks.get("unstable", 0.0) > UNSTABLE
    return stable and _above("fickle", FICKLE, FICKLE_IMAGES)(checks)


def _weak_attack(checks: Checks) -> bool:
    return checks.get("weak", 0.0) > WEAK and checks.get("weak_images", 0.0) >= WEAK_IMAGES


#: The rule of every red flag, by the flag's name. Their words are in `zsrobust/results/flags.toml`.
RULES: dict[str, Callable[[Checks], bool]] = {
    "zero_gradients": _above("zero_gradients", ZERO_GRADIENTS),
    "vanishing": _above("vanishing", VANISHING),
    "unstable": _above("unstable", UNSTABLE),
    "coupled": _coupled,
    "inside": _above("inside", 0),
    "probabilities": _above("probabilities", 0),
    "saturated": _above("saturated", SATURATED),
    "black_box": _above("black_box", BLACK_BOX, BLACK_BOX_IMAGES),
    "standing": _above("standing", STANDING, STANDING_IMAGES),
    "no_growth": _above("no_growth", NO_GROWTH, NO_GROWTH_IMAGES),
    "more_steps": _short_of_steps,
    "misleading": _misleading,
    "fickle": _fickle,
    "cliffs": _above("cliffs", CLIFFS, CLIFFS_IMAGES),
    "transfer": _above("transfer", TRANSFER, TRANSFER_IMAGES),
    "weak_attack": _weak_attack,
    "eight_bits": _lost_in_eight_bits,
    "overstated": _above("overstated", OVERSTATED, OVERSTATED_IMAGES),
    "canary": _above("canary", CANARY),
}


def raised(checks: Checks) -> list[str]:
    """Return the names of the red flags that the measurements raise.

    A measurement that is missing raises no flag.
    """
    return [name for name, rule in RULES.items() if rule(checks)]
