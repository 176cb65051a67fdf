"""Write README.md from errands.toml and the stored numbers of both sides.

Run: `python benchmarks/errands/page.py`
"""

import json
from collections.abc import Mapping
from typing import Any

from errands import HERE, errands
from tabulate import tabulate

PAGE = """# A researcher's errands, before and now

Each errand is a task of a researcher. "Before" is commit {before[commit]}, the last one before the
workbench. "Now" is commit {now[commit]}. `python benchmarks/errands/errands.py` measures both with
one script. `python benchmarks/errands/page.py` writes this page.

CPU seconds include child processes. They are the numbers to compare: other work shared the
{before[cores]} cores, so wall seconds can be too long. Each number is one run of its errand.

{table}
{later}
## Screens

Each image is the first screen of a page, built from `results/` of this repository.
`python benchmarks/errands/shots.py` takes them.

{screens}

## Commands

`zsrobust` reads `results/` of this repository. A command that prepares an errand is not timed.

{commands}
"""


def later(rows: Mapping[str, Any]) -> str:
    """Return the lines that name what was measured at another commit than the others."""
    lines = [
        f"* {title}: at commit {row['commit']}\n" for title, row in rows.items() if "commit" in row
    ]
    return "".join(["\nMeasured later:\n\n", *lines]) if lines else ""


def missing(title: str, side: str) -> str:
    """Return why a side has no number."""
    known = {errand["title"]: errand for errand in errands()}
    return "not measured" if known[title].get(side) else "not possible"


def screens() -> str:
    """Return tables of the stored screenshots, before beside now."""
    parts = ["### Table 1 in a terminal of 80 columns"]
    parts.append(beside([["terminal"]]))
    for width in (1400, 400):
        for name, title in (("report", "The report"), ("site", "The site's start page")):
            parts.append(f"### {title} at {width} pixels")
            parts.append(beside([[name, str(width), theme] for theme in ("light", "dark")]))
    return "\n\n".join(parts)


def beside(views: list[list[str]]) -> str:
    """Return a table with a row for each view, and the image of each side that has the page."""
    rows = []
    for view in views:
        paths = [f"shots/{'-'.join([side, *view])}.png" for side in ("before", "now")]
        rows.append(
            [
                f"![{' '.join(view)}]({path})" if (HERE / path).exists() else "not possible"
                for path in paths
            ]
        )
    return tabulate(rows, ["before", "now"], "pipe", disable_numparse=True)


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
        same = errand.get("before") == errand["now"]
        sides_of = {"Before and now": "now"} if same else {"Before": "before", "Now": "now"}
        for label, key in {"Prepared by": "first", **sides_of}.items():
            if lines := "\n".join(errand.get(key, [])):
                commands.append(f"{label}:\n\n```text\n{lines}\n```")
            elif key == "before":
                commands.append("Before: not possible.")
    page = PAGE.format(
        **sides,
        table=text,
        later=later(rows["now"]),
        screens=screens(),
        commands="\n\n".join(commands),
    )
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
