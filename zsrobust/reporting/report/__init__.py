"""The report: everything in a results folder as one HTML page that needs nothing else.

The page is a pure function of the folder. Jinja writes every view as static HTML; `page.js` sorts
the tables and shows one view at a time. The content security policy allows this script and this
style, and no other.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.reporting.report.cells import Provenance, provenance
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.report.datasets import Looks
from zsrobust.reporting.report.views import View, views
from zsrobust.reporting.tables import ROWS
from zsrobust.results.flags import look_up
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.results.store import Store
from zsrobust.settings.suites import Suite

#: Without scripts nobody can choose a view, so that all are shown.
WITHOUT_SCRIPTS = ".view[hidden], .board[hidden] { display: block !important }"


def build(store: Store, own: Sequence[Suite] = ()) -> str:
    """Return the page of the stored results; `own` are suites of the user's files.

    Raises ZSRobustError if the folder has no results, or a file that is not a result.
    """
    import jinja2
    from markupsafe import Markup

    found = Collection.load(store, own)
    shown = views(found)
    looks = Looks(found)
    # A bar in a cell is as long as its accuracy: the policy forbids styles on elements, so that
    # lengths are classes.
    lengths = "\n".join(f".s{percent} {{ --share: {percent / 100} }}" for percent in range(101))
    style, script = _file("page.css") + lengths, _file("page.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        folder=" and ".join(each.resolve().name for each in store.folders),
        style=Markup(style),  # noqa: S704  # ours, and no data in it
        script=Markup(script),  # noqa: S704  # ours, and no data in it
        without_scripts=Markup(WITHOUT_SCRIPTS),  # noqa: S704  # ours, and no data in it
        hashes={
            "style": _hash(style),
            "script": _hash(script),
            "without_scripts": _hash(WITHOUT_SCRIPTS),
        },
        filters=_filters(shown),
        views=[(view, list(looks.on_datasets(view))) for view in shown],
        cells=_cells(found, shown),
        ids={path: number for number, path in enumerate(found.results)},
        figures=_figures(found),
        flags=_flags(found),
        messages=sorted({line for each in found.results.values() for line in each.messages or ()}),
        failed=_failed(found),
        counts={
            "cells": len(found.results),
            "images": sum(result.images for result in found.results.values()),
        },
        versions=sorted(
            {pair for each in found.results.values() for pair in each.versions.items()}
        ),
    )


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _filters(shown: Sequence[View]) -> dict[str, list[str]]:
    """Return the values of every filter, in the order of the views."""
    return {name: list(dict.fromkeys(view.key[name] for view in shown)) for name in shown[0].key}


def _cells(found: Collection, shown: Sequence[View]) -> dict[str, Provenance]:
    """Return where the numbers of each cell come from, by path."""
    methods = {
        path: method.name
        for view in shown
        for cells in view.cells.values()
        for method, path in cells
    }
    return {
        path: provenance(result, found.place(path), methods[path])
        for path, result in found.results.items()
    }


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
    for result in found.results.values():
        for flag in result.flags:
            where.setdefault(flag, {}).setdefault(_row(result.identity), []).append(
                result.identity.dataset.title
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
            "dataset": result.identity.dataset.title,
            "error": last_line(result.error),
        }
        for result in found.results.values()
        if result.status == "failed"
    ]


def _row(identity: Identity) -> str:
    defense, about = identity.defense, identity.about
    title = ROWS.get(defense.spec, f"{defense.title} ({defense.spec})")
    where = f"eps {about['eps']}, {about['suite']}, {about['protocol']}"
    return f"{title} under {about['attack']}, {where}"
