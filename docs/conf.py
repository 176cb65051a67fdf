"""The settings of the documentation: `tox -e docs` builds it into docs/_build/html."""

import os
import re
from importlib.metadata import version as installed

from sphinx.application import Sphinx

project = "zsrobust"
author = "the zsrobust authors"
project_copyright = "2026, the zsrobust authors"
release = version = installed("zsrobust")

extensions = [
    "myst_nb",  # reads Markdown, and executes the notebooks
    "sphinx.ext.autodoc",
    "sphinx_click",
]
exclude_patterns = ["_build", "README.md"]  # index.md includes README.md
suppress_warnings = ["myst.strikethrough"]

myst_heading_anchors = 4  # links to a heading are those of GitHub
myst_enable_extensions = ["colon_fence"]

nb_execution_mode = "force"
nb_execution_in_temp = True  # results and checkpoints of a notebook stay out of the repository
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds of a cell
nb_merge_streams = True

default_role = "code"  # docstrings have names between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature shows them
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = f"zsrobust {release}"
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": True,
    "show_version_warning_banner": False,
    "secondary_sidebar_items": ["page-toc"],
}

# Where the versions are published. docs/publish.py writes versions.json there.
if site := os.environ.get("ZSROBUST_DOCS_URL"):
    html_baseurl = f"{site}/latest/"
    html_theme_options |= {
        "switcher": {
            "json_url": f"{site}/versions.json",
            "version_match": os.environ.get("ZSROBUST_DOCS_VERSION", "latest"),
        },
        "check_switcher": False,  # the first release publishes it
        "navbar_end": ["version-switcher", "theme-switcher"],
    }


def _links(app: Sphinx, page: str, source: list[str]) -> None:
    """Change links that leave docs/: a table is in the gallery, other Markdown is downloaded."""
    if "/" in page:
        return  # from a folder of docs/, .. leads to docs/
    text = re.sub(r"\(\.\./results/mini/table_?(\w+)\.md\)", r"(gallery.md#table-\1)", source[0])
    source[0] = re.sub(r"\[([^]]+)\]\((\.\./[^)#]+\.md)\)", r"{download}`\1 <\2>`", text)


def _stars(
    app: Sphinx, what: str, name: str, what_it_is: object, options: object, lines: list[str]
) -> None:
    """Keep the stars of a docstring, which are not markup: (N, *shape)."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> None:
    """Connect the changes to what Sphinx reads."""
    app.connect("source-read", _links)
    app.connect("autodoc-process-docstring", _stars)
