"""Writes the numbers of benchmarks/README.md, between its markers, from what the benchmarks stored.

Run: `python benchmarks/speed/page.py`
"""

import json
from pathlib import Path
from typing import Any

from measure import RESULTS, shown
from tabulate import tabulate

PAGE = Path(__file__).parents[1] / "README.md"
ORDER = ("pgd", "autoattack", "training", "preparation", "overheads", "memory", "suite", "device")


def load() -> dict[str, dict[str, Any]]:
    """Return what was stored, by benchmark."""
    return {
        name: json.loads(path.read_bytes())
        for name in ORDER
        if (path := RESULTS / f"{name}.json").exists()
    }


def one(stored: dict[str, Any], name: str, key: str, **wanted: object) -> str:
    """Return the number of the row that has the wanted values; a dash where it was not measured."""
    for row in stored.get(name, {}).get("rows", []):
        if all(row.get(field) == value for field, value in wanted.items()):
            return f"{row[key]:.1f}"
    return "not measured"


def goals(stored: dict[str, Any]) -> str:
    """Return the goals beside what was measured, as Markdown."""
    loop, library = (
        {"peer": "the released loop", "classes": 100},
        {"peer": "torchattacks.PGD", "classes": 100},
    )
    falls, stays = {"ours": "broken images leave"}, {"ours": "none leaves"}
    asked: list[tuple[str, str, str, str, dict[str, object]]] = [
        (
            "PGD-10, ViT-B/32, 100 classes, half right, against the released loop",
            "≥ 5×",
            "pgd",
            "ratio",
            loop | falls,
        ),
        ("… if no image were broken before the last step", "", "pgd", "ratio", loop | stays),
        (
            "the same against `torchattacks.PGD` on our classifier",
            "≥ 1.8×",
            "pgd",
            "ratio",
            library | falls,
        ),
        ("… if no image were broken before the last step", "", "pgd", "ratio", library | stays),
        (
            "AutoAttack against `pyautoattack`, mini model, TeCoA",
            "≥ 2×",
            "autoattack",
            "ratio",
            {"defense": "tecoa"},
        ),
        ("… undefended", "≥ 3×", "autoattack", "ratio", {"defense": "clip"}),
        ("a training step of PMG-AFT against the released step", "≥ 2.5×", "training", "ratio", {}),
        (
            "the mini suite's Tables 1–3 from nothing, minutes",
            "≤ 15",
            "suite",
            "minutes",
            {"part": "both"},
        ),
        (
            "image-steps a second on an H200, bf16 search",
            "≥ 20,000",
            "device",
            "image-steps a second",
            {"search": "bf16"},
        ),
    ]
    rows = [
        (what, goal, one(stored, name, key, **wanted)) for what, goal, name, key, wanted in asked
    ]
    return tabulate(rows, ("", "goal", "measured"), tablefmt="pipe", disable_numparse=True)


def section(name: str, content: dict[str, Any]) -> str:
    """Return a benchmark's rows, and the machine they are from, as Markdown."""
    rows = [
        {key: shown(value) for key, value in row.items() if key != "all"} for row in content["rows"]
    ]
    machine = content["machine"]
    versions = ", ".join(f"{library} {number}" for library, number in machine["versions"].items())
    where = f"{machine['device']}, {machine['threads']} threads; {versions}; {machine['date']}"
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    return f"### {content['about']}\n\n`python benchmarks/speed/{name}.py`: {where}.\n\n{table}"


def main() -> None:
    """Fill the page."""
    stored = load()
    parts = {
        "goals": goals(stored),
        "results": "\n\n".join(section(*each) for each in stored.items()),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{part}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
