"""The report: all results of a folder on one self-contained HTML page.

The page is a pure function of the folder. Jinja writes every view as static HTML. `page.js` sorts
the tables and shows one view at a time. The content security policy allows only this script and
these styles.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.core.files import slug
from zsrobust.reporting.report.cells import Provenance, provenance
from zsrobust.reporting.report.collection import Collection
from zsrobust.reporting.report.datasets import Looks
from zsrobust.reporting.report.views import View, views
from zsrobust.reporting.standings import KINDS, STRONG, rankings
from zsrobust.reporting.tables import ROWS
from zsrobust.results.flags import look_up
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.results.store import Store
from zsrobust.settings.suites import Suite

#: Without scripts, readers cannot choose a view, so the page shows all views.
WITHOUT_SCRIPTS = ".view[hidden], .board[hidden], .ranking[hidden] { display: block !important }"


def build(store: Store, own: Sequence[Suite] = ()) -> str:
    """Return the page of the stored results as HTML; `own` has the suites of the user's files.

    Raises ZSRobustError if the folder has no results, or a file that is not a valid result.
    """
    found = Collection.load(store, own)
    shown = views(found)
    looks = Looks(found)
    results = found.results.values()
    return rendered(
        "page.html",
        folder=" and ".join(each.resolve().name for each in store.folders),
        filters=_filters(shown),
        rankings=rankings(found.frame, list(found.suites.values())),
        views=[(view, list(looks.on_datasets(view))) for view in shown],
        cells=_cells(found, shown),
        ids={path: number for number, path in enumerate(found.results)},
        figures=_figures(found),
        flags=_flags(found),
        messages=sorted({line for each in results for line in each.messages or ()}),
        failed=_failed(found),
        counts={"cells": len(results), "images": sum(each.images for each in results)},
        versions=sorted({pair for each in results for pair in each.versions.items()}),
    )


def rendered(template: str, /, **values: Any) -> str:
    """Return a template as HTML, with the styles and the script that its head allows."""
    import jinja2
    from markupsafe import Markup

    # A bar is as long as its accuracy. Lengths are classes: the policy forbids styles on elements.
    lengths = "\n".join(f".s{percent} {{ --share: {percent / 100} }}" for percent in range(101))
    texts = {
        "style": _file("page.css") + lengths,
        "script": _file("page.js"),
        "without_scripts": WITHOUT_SCRIPTS,
    }
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["slug"] = slug  # names in addresses are those of files
    return environment.get_template(template).render(
        {name: Markup(text) for name, text in texts.items()},  # noqa: S704  # our own, without data
        hashes={name: _hash(text) for name, text in texts.items()},
        kinds=KINDS,
        strong=STRONG,
        **values,
    )


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which a content security policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _filters(shown: Sequence[View]) -> dict[str, list[str]]:
    """Return the values of every filter, in the order of the views."""
    return {name: list(dict.fromkeys(view.key[name] for view in shown)) for name in shown[0].key}


def _cells(found: Collection, shown: Sequence[View]) -> dict[str, Provenance]:
    """Return the provenance of each cell by its path."""
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
    """Return every complete figure of the known suites, as SVG in base64."""
    from zsrobust.reporting import figures

    drawn = []
    known = {name: suite for name, suite in found.suites.items() if suite.attack}
    for name, suite in known.items():
        stored = set(found.frame[found.frame["suite"] == name]["protocol"])
        for protocol in sorted(stored, key=lambda protocol: (protocol != "sound", protocol)):
            selection = Selection.of(suite, protocol=protocol)
            for number, figure in figures.FIGURES.items():
                try:
                    picture = figures.draw(number, found.frame, selection)
                    text = figures.describe(number, found.frame, selection)
                    content = base64.b64encode(figures.render(picture, ".svg")).decode()
                except ZSRobustError:
                    continue  # the figure has no complete series
                caption = f"Figure {number}. {figure.caption}. Suite {name}, protocol {protocol}."
                drawn.append({"caption": caption, "text": text, "svg": content})
    return drawn


def _flags(found: Collection) -> list[dict[str, Any]]:
    """Return each flag with its words and its cells, the most frequent flag first."""
    rows: dict[str, dict[str, list[str]]] = {}
    for result in found.results.values():
        for flag in result.flags:
            row = rows.setdefault(flag, {}).setdefault(_row(result.identity), [])
            row.append(result.identity.dataset.title)
    counts = {flag: sum(map(len, titles.values())) for flag, titles in rows.items()}
    return [
        {"words": look_up(flag), "count": counts[flag], "rows": sorted(rows[flag].items())}
        for flag in sorted(counts, key=lambda flag: (-counts[flag], flag))
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
