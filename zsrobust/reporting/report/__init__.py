"""The report: everything in a results folder as one HTML page that needs nothing else. No torch here.

The page is a pure function of the folder. Its data stand in it as JSON, once; `page.js` shows the view that the address
asks for, as text and never as HTML. Its content security policy allows this script and this style, and no other.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting.report.data import (
    Collection,
    Pool,
    by_class,
    cells,
    read_outcomes,
    static_rows,
    views,
)
from zsrobust.reporting.report.gallery import BUDGET, pictures
from zsrobust.reporting.tables import ROWS
from zsrobust.results.cell import Samples
from zsrobust.results.flags import look_up
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite


def build(folder: Path, own: Sequence[Suite] = ()) -> str:
    """Return the page of a results folder; `own` are suites of the user's files, which ours are not.

    Raises ZSRobustError if the folder holds no results, or something that is none.
    """
    import jinja2
    from markupsafe import Markup

    found = Collection.load(Path(folder), own)
    page: dict[str, Any] = {"views": views(found), **cells(found)}
    classes, gallery = _looks(found, page)
    style, script = _file("page.css"), _file("page.js")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(_file("page.html")).render(
        folder=found.folder.name or str(found.folder.resolve().name),
        style=Markup(style),  # noqa: S704  # ours, and no data in it
        script=Markup(script),  # noqa: S704  # ours, and no data in it
        hashes={"style": _hash(style), "script": _hash(script)},
        first=page["views"][0],
        views=len(page["views"]),
        rows=static_rows(page),
        data={
            name: _json(value)
            for name, value in {"page": page, "classes": classes, "gallery": gallery}.items()
        },
        figures=_figures(found),
        flags=_flags(found),
        messages=sorted({line for result in found.results for line in result.messages or ()}),
        failed=_failed(found),
        counts={
            "cells": len(found.results),
            "images": sum(result.images for result in found.results),
        },
        versions=sorted(
            {(name, number) for result in found.results for name, number in result.versions.items()}
        ),
    )


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Any:
    """Return a value as JSON that cannot end the element that it stands in."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704  # without "<", no text ends a script element


def _looks(found: Collection, page: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what happened class by class, and the gallery, by the cells' numbers; in the order of the views."""
    paths = [Path(path) for path in found.frame["path"]]
    sets, images = Pool(), Pool()
    classes: dict[int, Any] = {}
    gallery: dict[int, Any] = {}
    order = {
        number: None
        for view in page["views"]
        for row in view["rows"]
        for number in row["cells"]
        if number is not None
    }
    used = 0
    for number in order:
        outcomes = read_outcomes(found.results[number], paths[number])
        classes[number] = (
            outcomes
            if isinstance(outcomes, str)
            else by_class(found.results[number], outcomes, sets)
        )
        if used > BUDGET:
            gallery[number] = (
                "This page has no room for more images; those of other cells come first."
            )
            continue
        try:
            samples = Samples.read(paths[number])
            if samples is not None:
                known = len(images.values)
                gallery[number] = pictures(samples, outcomes, images)
                used += sum(map(len, images.values[known:]))
        except (ZSRobustError, KeyError) as error:
            gallery[number] = str(error)
    return {"sets": sets.values, "cells": classes}, {"images": images.values, "cells": gallery}


def _figures(found: Collection) -> list[dict[str, str]]:
    """Return the figures that can be drawn of the suites that are known, as SVG in base64."""
    from zsrobust.reporting import figures

    drawn = []
    for name, suite in found.suites.items():
        protocols = (
            set(found.frame[found.frame["suite"] == name]["protocol"]) if suite.attack else set()
        )
        for protocol in sorted(protocols, key=lambda protocol: (protocol != "sound", protocol)):
            selection = Selection.of(suite, protocol=protocol)
            for number, figure in figures.FIGURES.items():
                try:
                    picture = figures.draw(number, found.frame, selection)
                    text = figures.describe(number, found.frame, selection)
                    content = base64.b64encode(figures.render(picture, ".svg")).decode()
                except ZSRobustError:
                    continue  # nothing to draw
                caption = f"Figure {number}. {figure.caption}. Suite {name}, protocol {protocol}."
                drawn.append({"caption": caption, "text": text, "svg": content})
    return drawn


def _flags(found: Collection) -> list[dict[str, Any]]:
    """Return every distinct flag with its words and its cells, row by row."""
    where: dict[str, dict[str, list[str]]] = {}
    for result in found.results:
        for flag in result.flags:
            where.setdefault(flag, {}).setdefault(_row(result.identity), []).append(
                result.identity["dataset"]["title"]
            )
    return [
        {
            "words": look_up(flag),
            "count": sum(map(len, lines.values())),
            "rows": sorted(lines.items()),
        }
        for flag, lines in sorted(
            where.items(), key=lambda each: (-sum(map(len, each[1].values())), each[0])
        )
    ]


def _failed(found: Collection) -> list[dict[str, str]]:
    return [
        {
            "row": _row(result.identity),
            "dataset": result.identity["dataset"]["title"],
            "error": (result.error or "").strip().splitlines()[-1]
            if (result.error or "").strip()
            else "no error is stored",
        }
        for result in found.results
        if result.status == "failed"
    ]


def _row(identity: dict[str, Any]) -> str:
    defense, attack = identity["defense"], identity["attack"]
    title = ROWS.get(defense["spec"], f"{defense['title']} ({defense['spec']})")
    return f"{title} under {attack['spec']}, eps {attack['eps']}, {identity['suite']}, {identity['protocol']}"
