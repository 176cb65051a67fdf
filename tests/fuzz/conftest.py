"""How many inputs each target gets: a few by default, always the same; ZSROBUST_FUZZ=1 (`tox -e nightly`) all, new every time.

A target says with `inputs` how many it gets at night; ZSROBUST_FUZZ is the share of them.
"""

import resource
from collections import Counter

import pytest
from fuzz_inputs import CALLS, SHARE, TAKEN


@pytest.fixture(autouse=True)
def _room():
    """What a hostile file claims must not be allocated: within a test, so many GB more than now and no more."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 6 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CALLS:
        terminalreporter.section("inputs")
        for name, count in CALLS.items() if SHARE > 0.05 else ():
            refused = ", ".join(
                f"{number} {kind}" for kind, number in sorted(Counter(TAKEN[name]).items())
            )
            terminalreporter.write_line(f"{count:8d} {name}: {refused}")
        terminalreporter.write_line(f"{sum(CALLS.values()):8d} in all")
