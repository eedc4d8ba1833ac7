"""The site is read without a network: no page loads a script, a style, a font or a picture from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?P<source>(?:https?:)?//[^"]*)"
                      | <link\b(?![^>]*rel="canonical")[^>]*\bhref="(?P<link>(?:https?:)?//[^"]*)"
                      | (?:@import|url\()\s*(?:url\()?["']?(?P<style>(?:https?:)?//[^"')]*)""",
    re.VERBOSE,
)


def check(app: Sphinx, failure: Exception | None) -> None:
    """Raise where a file that was written loads something from another host."""
    if failure is not None or app.builder.format != "html":
        return
    found = []
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in (".html", ".css"):
            for match in LOADED.finditer(path.read_text(encoding="utf-8")):
                found.append(f"{path.relative_to(app.outdir)}: {match['source'] or match['link'] or match['style']}")
    if found:
        raise ExtensionError("these pages load something from a network:\n" + "\n".join(found))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
