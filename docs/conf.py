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
    """Keep napoleon off attributes: it takes what stands before a colon for a type."""
    kept: dict[str, list[str]] = {}

    def before(_: Sphinx, what: str, name: str, *rest: Any) -> None:
        if what in ("attribute", "property"):
            kept[name] = list(rest[-1])

    def after(_: Sphinx, what: str, name: str, *rest: Any) -> None:
        if name in kept:
            rest[-1][:] = kept.pop(name)

    app.connect("autodoc-process-docstring", before, priority=400)
    app.connect("autodoc-process-docstring", after, priority=600)
