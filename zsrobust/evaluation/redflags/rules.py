"""The rules of red flags: from which measurement on a number looks too good.

The signs are those of Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705, section 5), Athalye,
Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018, arXiv 1802.00420, section 3.1), and
Pintor et al., "Indicators of Attack Failure" (NeurIPS 2022, arXiv 2106.09947). For classifiers that compute while they
predict: Croce et al., "Evaluating the Adversarial Robustness of Adaptive Test-time Defenses" (ICML 2022, arXiv
2202.13711).
"""

from collections.abc import Callable, Mapping

#: Measurements by name, as `measurements.examine` returns them and results store them.
Checks = Mapping[str, float]

#: Share of images without any gradient. An honest classifier has none; one of sixteen is above.
ZERO_GRADIENTS = 0.05
#: How many times more the margin grows than its gradient predicts. About 1 where the gradient is the classifier's own;
#: HalfPrecision divides it by the number of images, 16 in a sample.
VANISHING = 100.0
#: Difference of logits between two calls, in units of their range; AutoAttack's own check has this bound.
UNSTABLE = 1e-4
#: The same between other batches, where kernels sum in another order: half precision is off by up to a percent.
COUPLED = 1e-2
#: Share of images whose margin is beyond what float32 can take the exponential of (see `measurements.BEYOND`).
SATURATED = 0.25
#: Share of images that the black-box attack broke and the white-box one left; and how many they must be at least.
BLACK_BOX, BLACK_BOX_IMAGES = 0.1, 2
#: Share of images that survive where each can become plain gray; and how many they must be at least.
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


def _above(name: str, bound: float, images: int = 0) -> Callable[[Checks], bool]:
    """Return a rule: a measurement is above the bound and, as a share, concerns at least so many correct images."""

    def raised(checks: Checks) -> bool:
        value = checks.get(name, 0.0)
        return value > bound and value * checks.get("correct", 0.0) > images - 0.5

    return raised


def _short_of_steps(checks: Checks) -> bool:
    few = checks.get("attack_steps", MANY) < MANY  # an unknown number of steps may be as large
    return few and _above("more_steps", MORE_STEPS, MORE_STEPS_IMAGES)(checks)


def _lost_in_eight_bits(checks: Checks) -> bool:
    return checks.get("broken", 0.0) >= EIGHT_BITS_IMAGES and checks["eight_bits"] < EIGHT_BITS


def _coupled(checks: Checks) -> bool:
    return checks.get("coupled", 0.0) > COUPLED and not checks.get("unstable", 0.0) > UNSTABLE


#: The rule of every red flag, by the flag's name; `zsrobust/results/flags.toml` has the words.
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
    "eight_bits": _lost_in_eight_bits,
    "overstated": _above("overstated", OVERSTATED, OVERSTATED_IMAGES),
    "canary": _above("canary", CANARY),
}


def raised(checks: Checks) -> list[str]:
    """Return the names of the red flags that the measurements raise; what was not measured raises none."""
    return [name for name, rule in RULES.items() if rule(checks)]
