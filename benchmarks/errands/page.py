"""Write README.md from errands.toml and the stored numbers of both sides.

Run: `python benchmarks/errands/page.py`
"""

import json

from errands import HERE, errands
from tabulate import tabulate

PAGE = """# A researcher's errands, before and now

Each errand is a task of a researcher. "Before" is commit {before[commit]}, the last one before the
workbench. "Now" is commit {now[commit]}. `python benchmarks/errands/errands.py` measures both with
one script. `python benchmarks/errands/page.py` writes this page.

CPU seconds include child processes. They are the numbers to compare: other work shared the
{before[cores]} cores, so wall seconds can be too long. Each number is one run. The row
`import torch` is measured with the others. The accepted submission and the last two
rows of now come from later runs. The report of now shared the cores with tests.

{table}

## Commands

`zsrobust` reads `results/` of this repository. A command that prepares an errand is not timed.

{commands}
"""


def missing(title: str, side: str) -> str:
    """Return why a side has no number."""
    known = {errand["title"]: errand for errand in errands()}
    return "not measured" if known[title].get(side) else "not possible"


def main() -> None:
    """Write the page."""
    sides = {
        side: json.loads((HERE / "results" / f"{side}.json").read_bytes())
        for side in ("before", "now")
    }
    rows = {side: {row["errand"]: row for row in stored["rows"]} for side, stored in sides.items()}
    table = []
    for title in ["import torch", *(errand["title"] for errand in errands())]:
        found = [rows[side].get(title) for side in rows]
        table.append(
            [title]
            + [
                f"{each[key]:.1f}" if each else missing(title, side)
                for key in ("cpu", "wall")
                for side, each in zip(rows, found, strict=True)
            ]
        )
    headers = ["errand", "CPU s before", "CPU s now", "wall s before", "wall s now"]
    text = tabulate(table, headers, "pipe", disable_numparse=True, colalign=["left"])
    commands = []
    for errand in errands():
        commands.append(f"### {errand['title'][0].upper()}{errand['title'][1:]}")
        for label, key in (("Prepared by", "first"), ("Before", "before"), ("Now", "now")):
            lines = "\n".join(errand.get(key, []))
            block = f"{label}:\n\n```text\n{lines}\n```"
            if lines or key == "before":
                commands.append(block if lines else "Before: not possible.")
    page = PAGE.format(**sides, table=text, commands="\n\n".join(commands))
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
