"""The site: Markdown pages, and API pages from the docstrings. ``python -m nox -s docs`` builds it strictly.

Nothing is fetched: no inventories of other projects, no fonts, no scripts; the search runs in the reader's browser.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Chameleon toolkit"
author = "The Chameleon toolkit developers"
copyright = "2026, The Chameleon toolkit developers"  # noqa: A001 - Sphinx's name
release = version = tomllib.loads((ROOT / "packages/chameleon-core/pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
extensions += ["api_links", "api_pages", "repository_files"]  # in _extensions
exclude_patterns = ["_build", "tests"]
nitpicky = True

# What the pages are written in.
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# What the docstrings are read for.
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "Chameleon toolkit"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
