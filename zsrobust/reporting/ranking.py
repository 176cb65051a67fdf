"""The ranking of test-time defenses: its rows, its attacks and its subset. No torch here.

Every defense has its released settings, or fewer views, around CLIP and around FT-TeCoA. One
dataset in four, from the first on, with the suite's subset of images. No row was chosen, left out
or tuned by its result.
"""

from collections.abc import Mapping

from zsrobust.core.specs import join_spec, split_spec
from zsrobust.reporting.columns import Entry
from zsrobust.reporting.rows import USUAL, Need
from zsrobust.settings.suites import Suite

#: The defenses by spec, with their titles.
DEFENSES = {
    "tte": "TTE",
    "ttc": "TTC",
    "mac": "MAC",
    "doc": "DOC",
    "clipure_cos": "CLIPure-Cos",
    "clipure_cos_code": "CLIPure-Cos (released code)",
    "cola_projection": "COLA's projection",
    "cola": "COLA",
    "csr": "CSR",
    "dbd:crops=6,filters=false,noises=2": "DBD",
    "et3": "ET3",
    "r_tpt:views=8": "R-TPT",
    "ss_tpt:views=8": "SS-TPT",
}
AROUND = {"clip": "CLIP", "tecoa": "FT-TeCoA"}
ADAPTIVE = "adaptive:eot=2,steps=10"  #: as many steps as PGD-10 and `transfer` have
#: The attacks that know the defense, and those that need no gradient of it, by column.
ATTACKS = {"Adaptive": ADAPTIVE, "Transfer": "transfer", "Black box": "square:queries=200"}
BLIND = "Transfer"  #: the one of them that sees another classifier than the defense
EVERY = 4
NOTE = (
    "Oblivious: PGD-10 on the undefended classifier, which is what is usually published. It is "
    "never ranked. Adaptive: PGD and APGD of 10 steps through every surrogate that the defense "
    "declares, from several starts. Transfer: PGD-10 on CLIP. Black box: Square with 200 queries "
    "of the defense. One dataset in four, from the first on. DBD has 9 views in place of 31, R-TPT "
    "8 in place of 64 and SS-TPT 8 in place of 16, so that all rows fit into some hours."
)
CLEAN, WORST = "Clean, above chance", "Worst, above chance"  #: what defenses are ranked by
ABOUT_WORST = "Worst: an image counts if it survives all these attacks."
RULE = (
    "Rank: among the defenses around the same classifier, by the worst case above chance. If these "
    "are equal, by clean accuracy above chance; if both are, defenses share their rank. The "
    "undefended classifier comes first. A defense with a missing number comes last."
)
VERDICT = (
    "Verdict: doubtful if a red flag was raised under an attack that sees the defense, which the "
    "adaptive one and Square do. The footnotes beside Worst name the flags of all four attacks."
)
COST = (
    "Passes: through the image tower for one deployed prediction. Added: milliseconds of one image "
    "beyond the undefended classifier, on cores that other work shared. Memory: peak of one image."
)


def titles() -> dict[str, str]:
    """Return the rows: the undefended classifiers, each with the defenses around it."""
    found = {}
    for base, name in AROUND.items():
        found[base] = name
        found |= {_around(spec, base): f"{title} ({name})" for spec, title in DEFENSES.items()}
    return found


def _around(spec: str, base: str) -> str:
    name, fields = split_spec(spec)
    return join_spec(name, {**fields, "of": base})


def need(spec: str, suite: Suite, attack: str) -> Need:
    """Return the cells of a defense under one of the attacks."""
    return Need(spec, attack, every=EVERY, limit=suite.limits.get(split_spec(ADAPTIVE)[0]))


def oblivious(spec: str, suite: Suite) -> Need:
    """Return the cells of a defense under PGD-10 on the undefended classifier."""
    name, fields = split_spec(spec)
    if "of" in fields:
        fields["knowledge"] = "oblivious"
    return need(join_spec(name, fields), suite, USUAL)


def needs(spec: str, suite: Suite) -> list[Need]:
    """Return the cells that the worst case is taken over."""
    return [oblivious(spec, suite), *(need(spec, suite, each) for each in ATTACKS.values())]


def seeing(spec: str, suite: Suite) -> list[Need]:
    """Return the cells whose attack sees the defense, so that their red flags are about it."""
    return [need(spec, suite, each) for title, each in ATTACKS.items() if title != BLIND]


def ranks(found: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return the rank of each row, by its spec, in the order of the table.

    `found` has the entries of each row by their titles. See `RULE`.
    """
    groups: dict[str, list[str]] = {}
    for spec in found:
        groups.setdefault(_base(spec), []).append(spec)
    ordered: dict[str, Entry] = {}
    for base, group in groups.items():
        keys = {spec: tuple(found[spec][each].share for each in (WORST, CLEAN)) for spec in group}
        known = {
            spec: (worst, clean)
            for spec, (worst, clean) in keys.items()
            if spec != base and worst is not None and clean is not None
        }
        if base in group:
            ordered[base] = Entry("", about="undefended")
        for spec in sorted(known, key=known.__getitem__, reverse=True):  # stable for ties
            above = sum(other > known[spec] for other in known.values())
            ordered[spec] = Entry(str(above + 1))
        rest = [spec for spec in group if spec not in ordered]
        ordered |= dict.fromkeys(rest, Entry(about="not complete: a number is missing"))
    return ordered


def _base(spec: str) -> str:
    """Return the spec of the defense that a test-time defense is around; others are their own."""
    return str(split_spec(spec)[1].get("of", spec))
