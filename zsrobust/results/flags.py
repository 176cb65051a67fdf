"""Red flags and notes by name, and the words that are looked up when they are printed.

Results store names. `flags.toml` has the words. Results written before flags had names store
sentences; `named` reads these results.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

WARNED = "attack_warned"  #: a plugin or a library warned while an attack ran
NOT_COMPUTED = "red_flags_not_computed"
PROCESS_CHANGED = "process_changed"  #: an attack left other settings of the process
KEEPS_STATE = "keeps_state"  #: the classifier changes itself while it predicts

#: Names by the beginning of the sentence in older results; a number or a reason may follow.
OLD = {
    "Red flag: some images have a gradient of exactly zero": "zero_gradients",
    "Red flag: the loss grows far more than its gradient says": "vanishing",
    "Red flag: the same images give other logits in a second call": "unstable",
    "Red flag: an image's logits change with the other images": "coupled",
    "Red flag: the classifier computes gradients while it predicts": "inside",
    "Red flag: the outputs look like probabilities": "probabilities",
    "Red flag: logits are so far apart that float32 rounds": "saturated",
    "Red flag: Square, which sees no gradients": "black_box",
    "Red flag: accuracy does not fall to chance under a huge eps": "standing",
    "Red flag: the loss does not grow with eps": "no_growth",
    "Red flag: PGD-100 breaks many images that PGD-10 left": "more_steps",
    "Red flag: most adversarial images are none any more": "eight_bits",
    "Red flags could not be computed": NOT_COMPUTED,
    "PGD: some images have a gradient of exactly zero": "attack_zero_gradients",
    "MIM: some images have a gradient of exactly zero": "attack_zero_gradients",
    "feature_l2: some images have a gradient of exactly zero": "attack_zero_gradients",
    "APGD: there are points with zero gradient": "attack_zero_gradients",
    "APGD: it climbs the margin; its loss dlr": "margin_for_dlr",
    "APGD: it climbs the margin; its loss targeted": "margin_for_targeted",
    "AutoAttack: PGD-100 on the margin for APGD-DLR": "plan_without_apgd_dlr",
    "AutoAttack: PGD-100 on the margin for APGD-T": "plan_without_apgd_t",
    "AutoAttack: there are": "attack_zero_gradients",
    "AutoAttack: it seems to be a randomized defense": "attack_saw_randomness",
    "AutoAttack: it seems that the output is a probability": "attack_saw_probabilities",
    "AutoAttack: it seems to be a dynamic defense": "attack_saw_gradients",
    "AutoAttack: Square Attack has decreased": "square_found_more",
}


@dataclass(frozen=True)
class Flag:
    """The words of a red flag or of a note."""

    name: str  #: the name that results store
    title: str  #: a few words
    sentence: str  #: the footnote of a table
    means: str  #: what it means for the number
    remedy: str  #: what to do

    @property
    def red(self) -> bool:
        """Whether it is a red flag, not a note. Its footnote begins with these words."""
        return self.sentence.startswith("Red flag:")


@cache
def known() -> dict[str, Flag]:
    """Return the flags and notes of this version by name, in the order of `flags.toml`."""
    file = resources.files("zsrobust.results").joinpath("flags.toml")
    return {
        name: Flag(name, **{key: " ".join(text.split()) for key, text in words.items()})
        for name, words in tomllib.loads(file.read_text(encoding="utf-8")).items()
    }


def look_up(name: str) -> Flag:
    """Return the words of a flag; for an unknown name, words that explain where it comes from."""
    unknown = Flag(
        name,
        title=name,
        sentence=f"Flag {name}: this version of zsrobust has no words for it.",
        means="A plugin or a newer zsrobust set this flag. Its meaning is not known here.",
        remedy="Read the documentation of the plugin, or update zsrobust.",
    )
    return known().get(name, unknown)


def is_name(text: str) -> bool:
    """Return whether a text is the name of a flag and not a sentence."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", text) is not None


def named(
    stored: Iterable[str], messages: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """Return the sorted names of a result's stored flags, and its messages or None.

    A sentence of an older result becomes its name. An unknown sentence becomes `attack_warned` and
    a message.
    """
    names: set[str] = set()
    texts = list(messages or ())
    for text in stored:
        name = text if is_name(text) else _name_of(text)
        names.add(name)
        if name != text and name in (WARNED, NOT_COMPUTED):
            texts.append(text)
    return sorted(names), texts or None


def _name_of(sentence: str) -> str:
    return next((name for start, name in OLD.items() if sentence.startswith(start)), WARNED)
