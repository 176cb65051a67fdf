"""Write the stored numbers of the benchmarks between the markers of benchmarks/README.md.

Run: `python benchmarks/speed/page.py`
"""

import json
from pathlib import Path
from typing import Any

from measure import RESULTS, shown
from tabulate import tabulate

PAGE = Path(__file__).parents[1] / "README.md"
ORDER = (
    "pgd",
    "autoattack",
    "training",
    "preparation",
    "overheads",
    "memory",
    "suite",
    "device",
    "backbones",
    "layout",
)


def load() -> dict[str, dict[str, Any]]:
    """Return the stored files by benchmark."""
    return {
        name: json.loads(path.read_bytes())
        for name in ORDER
        if (path := RESULTS / f"{name}.json").exists()
    }


def one(stored: dict[str, Any], name: str, key: str, **wanted: object) -> str:
    """Return a number of the row with the wanted values, or "not measured"."""
    for row in stored.get(name, {}).get("rows", []):
        if all(row.get(field) == value for field, value in wanted.items()):
            return f"{row[key]:.1f}"
    return "not measured"


def goals(stored: dict[str, Any]) -> str:
    """Return the goals beside the measured numbers, as Markdown."""

    def pgd(peer: str, ours: str) -> str:
        return one(stored, "pgd", "ratio", peer=peer, classes=100, ours=ours)

    def autoattack(defense: str) -> str:
        return one(stored, "autoattack", "ratio", defense=defense)

    loop, library = "the released loop", "torchattacks.PGD"
    falls, stays = "broken images leave", "none leaves"
    at_last = "… if no image were broken before the last step"
    step = "a training step of PMG-AFT against the released step"
    minutes = one(stored, "suite", "minutes", part="all")

    def gpu(what: str, by: str, key: str) -> str:
        row = {"network": "ViT-B-32", "what": what, "precision": "bf16", "by": by}
        return one(stored, "device", key, **row)

    share = "% of products"
    image_steps = gpu("PGD-10", "zsrobust, all steps", "image-steps a second")
    rows = [
        (
            "PGD-10, ViT-B/32, 100 classes, half right, against the released loop",
            "≥ 5×",
            pgd(loop, falls),
        ),
        (at_last, "", pgd(loop, stays)),
        ("the same against `torchattacks.PGD` on our classifier", "≥ 1.8×", pgd(library, falls)),
        (at_last, "", pgd(library, stays)),
        ("AutoAttack against `pyautoattack`, mini model, TeCoA", "≥ 2×", autoattack("tecoa")),
        ("… undefended", "≥ 3×", autoattack("clip")),
        (step, "≥ 2.5×", one(stored, "training", "ratio")),
        ("the mini suite's Tables 1–3 from nothing, minutes", "≤ 15", minutes),
        ("image-steps a second on an H200, bf16 search", "≥ 20,000", image_steps),
        ("… % of the rate of products", "≥ 45", gpu("PGD-10", "zsrobust, all steps", share)),
        ("PMG-AFT's training in bf16, % of that rate", "≥ 40", gpu("training", "zsrobust", share)),
    ]
    return tabulate(rows, ("", "goal", "measured"), tablefmt="pipe", disable_numparse=True)


def section(name: str, content: dict[str, Any]) -> str:
    """Return the rows of a benchmark, and its machine, as Markdown."""
    rows = [
        {key: shown(value) for key, value in row.items() if key != "all"} for row in content["rows"]
    ]
    machine = content["machine"]
    versions = ", ".join(f"{library} {number}" for library, number in machine["versions"].items())
    where = f"{machine['device']}, {machine['threads']} threads; {versions}; {machine['date']}"
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    return f"### {content['about']}\n\n`python benchmarks/speed/{name}.py`: {where}.\n\n{table}"


def main() -> None:
    """Write the goals and the results into the page."""
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
