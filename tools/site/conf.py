"""Sphinx settings of the documentation site; tools/build_site.py copies this file next to the pages."""

from __future__ import annotations

import re
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import labkit

project = "The llama.cpp lab"
author = "the labkit authors"
version = release = labkit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["notebooks/sanitize.cfg"]
html_theme = "furo"
html_title = f"The llama.cpp lab {release}"
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

nb_execution_mode = "off"  # the stored outputs are shown
nb_mime_priority_overrides = [("html", "text/html", 0)]
nb_ipywidgets_js = {}  # no widget is alive here, so nothing is loaded for them
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

default_role = "py:obj"
add_module_names = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # autodoc lists them


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw without JavaScript; classes are made by functions."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("autodoc-process-signature", _signature)
    app.connect("html-page-context", _accessible, priority=900)  # after the theme's


def _accessible(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Repair what axe-core finds in Sphinx's HTML: headings without a level, terms without a description."""
    navigation = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = navigation.replace('role="heading"', 'role="heading" aria-level="2"')
    context["body"] = re.sub(r"</dt>\s*</dl>", "</dt><dd></dd></dl>", context.get("body", ""))


def _inline_math(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def _block_math(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def _signature(_app: Sphinx, kind: str, _name: str, *_rest: Any) -> tuple[str, None] | None:
    return ("", None) if kind == "class" else None
