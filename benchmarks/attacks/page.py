"""Write the stored results between the markers of benchmarks/attacks/README.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from cases import FAMILIES, MINI, VIT
from pools import LEVEL, OURS, Pool, p_value, pool
from tabulate import tabulate

PAGE = Path(__file__).parent / "README.md"


def write(results: Path) -> list[str]:
    """Write the page from a folder of results; return the verdicts as lines."""
    stored = _load(results)
    pools = {
        (name, where): found
        for name, content in stored.items()
        for where, group in (("mini", set(MINI)), (VIT, {VIT}))
        if (found := pool(content["rows"], group))
    }
    lines = [
        line for (name, where), each in pools.items() for line in verdicts(f"{name}, {where}", each)
    ]
    parts = {
        "verdict": summary(lines),
        "mini": "\n\n".join(
            section(name, each) for (name, where), each in pools.items() if where == "mini"
        ),
        "vit": "\n\n".join(
            section(name, each) for (name, where), each in pools.items() if where == VIT
        ),
        "machine": machine(stored),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{part}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    PAGE.write_text(text, encoding="utf-8")
    return lines


def _load(results: Path) -> dict[str, Any]:
    """Return the stored files by attack, in the order of FAMILIES."""
    paths = {name: results / f"{name.lower()}.json" for name in FAMILIES}
    return {name: json.loads(path.read_bytes()) for name, path in paths.items() if path.exists()}


def section(name: str, each: Pool) -> str:
    """Return the table of an attack, as Markdown."""
    present = list(dict.fromkeys(each.classifiers))
    counts = ", ".join(f"{one} {each.classifiers.count(one)}" for one in present)
    seeds = len(each.broken[OURS])
    rows = [_row(each, library, present) for library in each.broken]
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    failed = "".join(f"\n\n{library} is missing: {why}." for library, why in each.failed.items())
    union = int(each.union.sum())
    return (
        f"### {name}\n\nImages: {counts}. Seeds: {seeds}. Together the libraries break {union}.\n\n"
        f"{table}{failed}"
    )


def _row(each: Pool, library: str, present: list[str]) -> dict[str, str]:
    more, fewer = each.against_ours(library)
    return {
        "library": "ours" if library == OURS else library,
        **{f"robust, {one}": _range(each.robust(library, one)) for one in present},
        "broken alone": str(each.alone(library)),
        "optimality": f"{100 * each.optimality(library):.1f}",
        "more / fewer than ours": "" if library == OURS else f"{more} / {fewer}",
        "forward": f"{each.mean(library, 'forward'):.0f}",
        "backward": f"{each.mean(library, 'backward'):.0f}",
        "seconds": f"{each.seconds(library):.1f}",
        "refused": str(sum(row["refused"] for row in each.rows[library])),
    }


def _range(values: Any) -> str:
    """Return a mean over seeds, and the range where seeds differ."""
    low, high = np.min(values), np.max(values)
    return f"{np.mean(values):.1f}" + (f" ({low:.1f}–{high:.1f})" if high > low else "")


def verdicts(name: str, each: Pool) -> list[str]:
    """Return one line for each peer: whether ours is weaker beyond what seeds explain."""
    lines = []
    for library in each.broken:
        if library != OURS:
            more, fewer = each.against_ours(library)
            p = p_value(more, fewer)
            word = "WEAKER than" if p < LEVEL else "not weaker than"
            lines.append(
                f"{name}: ours is {word} {library}, which breaks {_plural(more, 'image')} "
                f"more often and {fewer} less often (p = {p:.2g})"
            )
    return lines


def summary(lines: list[str]) -> str:
    """Return the verdicts that matter for a reader, as Markdown."""
    weaker = [line for line in lines if "WEAKER" in line]
    better = [line for line in lines if "breaks 0 images" not in line and line not in weaker]
    parts = [f"The test finds ours weaker in {len(weaker)} of {_plural(len(lines), 'comparison')}."]
    if weaker:
        parts.append("\n".join(f"* {line}." for line in weaker))
    if better:
        parts.append("In these, another library breaks images that ours leaves under some seed:")
        parts.append("\n".join(f"* {line}." for line in better))
    return "\n\n".join(parts)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def machine(stored: dict[str, Any]) -> str:
    """Return the machines of the measurements and the libraries' versions, as Markdown."""
    lines = {
        f"{about['device']}, {about['threads']} thread; "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + f"; {about['date']}."
        for content in stored.values()
        if (about := content["machine"])
    }
    versions = {
        row["library"]: row["version"] for content in stored.values() for row in content["rows"]
    }
    tested = ", ".join(f"{library} {number}" for library, number in versions.items())
    return "\n".join([*sorted(lines), f"Libraries: {tested}."])
