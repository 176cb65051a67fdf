"""Consistency: whether the flags of a stored result follow from its measurements. No torch here."""

from zsrobust.evaluation.redflags.rules import RULES, Checks
from zsrobust.results.cell import Result
from zsrobust.results.registered import of_this_version


class _Recorded(dict[str, float]):
    """Measurements that remember whether a rule read one that is missing."""

    incomplete = False

    def get(self, name: str, default: float = 0.0) -> float:  # type: ignore[override]
        """Return a measurement, or the default if it is missing."""
        self.incomplete |= name not in self
        return super().get(name, default)


def contradictions(result: Result) -> list[str]:
    """Return the red flags that contradict the stored measurements, in words.

    Bounds of rules may change: only results of this version are examined. A flag that is stored
    though its rule does not raise it counts only if all measurements that the rule reads are
    stored. Rules never raise a flag on a measurement that is missing.
    """
    if result.checks is None or not of_this_version(result):
        return []
    return [
        wrong
        for name in RULES
        if (wrong := _contradiction(name, result.checks, name in result.flags)) is not None
    ]


def _contradiction(name: str, checks: Checks, stored: bool) -> str | None:
    recorded = _Recorded(checks)
    try:
        raised = RULES[name](recorded)
    except KeyError as missing:
        return f"the measurement {missing} of the flag {name} is missing"
    if raised and not stored:
        return f"its measurements raise the flag {name}, which is missing"
    if stored and not raised and not recorded.incomplete:
        return f"its measurements do not raise the flag {name}"
    return None
