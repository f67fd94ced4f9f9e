"""Sphinx: ``make docs`` builds the site, warnings are errors."""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "enhance"
author = "the authors of enhance"
version = release = installed("enhance")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "enhance"
myst_heading_anchors = 3
default_role = "py:obj"  # `name` in a docstring is a name of Python
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the NumPy form tells shapes and units, signatures the defaults


def setup(app: Sphinx) -> None:
    """Before napoleon: it takes what stands before a colon in an attribute's text for a type."""

    def keep_whole(_: Sphinx, what: str, *rest: Any) -> None:
        lines = rest[-1]
        if what in ("attribute", "property"):
            lines.insert(0, "")

    app.connect("autodoc-process-docstring", keep_whole, priority=400)
