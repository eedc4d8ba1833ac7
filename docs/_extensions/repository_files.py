"""Links between the site and the rest of the repository.

Pages link to files as people who read them in the repository need it, by relative paths. A README or changelog that is
a page of the site becomes a link to that page; any other file, a script for instance, a page that shows its text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import get_node_source

SHOWN = "files"


def included(srcdir: Path) -> dict[Path, str]:
    """Return the pages that are another file of the repository, by that file: ``` ```{include} ../README.md ``` ```."""
    found = {srcdir.parent / "README.md": "index"}
    for path in sorted(srcdir.rglob("*.md")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if first.startswith("```{include} "):
            target = (path.parent / first.removeprefix("```{include} ")).resolve()
            found[target] = path.relative_to(srcdir).with_suffix("").as_posix()
    return found


def target_path(link: nodes.Element, srcdir: Path) -> Path | None:
    """Return the file that a Markdown link names, None where it is a page that Sphinx finds by itself."""
    target = link["reftarget"].partition("#")[0]
    if link.get("reftype") != "myst" or not target:
        return None
    if link.get("refdomain") == "doc":  # without its ending, and absolute where it is outside docs/
        return Path(f"{target}.md") if target.startswith("/") else None
    # Relative to the file that the link stands in, which may be included by a page elsewhere.
    source = get_node_source(link) or srcdir / link["refdoc"]
    path = (Path(source).parent / target).resolve()
    return path if path.exists() else None


def replace_links(app: Sphinx, doctree: nodes.document) -> None:
    """Turn links to files outside ``docs/`` into links to pages of the site."""
    srcdir = Path(app.srcdir).resolve()
    pages = included(srcdir)
    for link in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = target_path(link, srcdir)
        if path is None:
            continue
        document = link["refdoc"]
        content = [nodes.inline("", "", *(child for node in link.children for child in node.children))]
        if path.suffix == ".md" and srcdir in path.parents:
            pages.setdefault(path, path.relative_to(srcdir).with_suffix("").as_posix())
        if path in pages:
            options = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "refdoc": document}
            new: nodes.Element = addnodes.pending_xref("", *content, reftarget=f"/{pages[path]}", **options)
        elif path.is_file():
            shown = path.relative_to(srcdir.parent).as_posix()
            shown_files(app.env).setdefault(document, set()).add(shown)
            uri = os.path.relpath(f"{SHOWN}/{shown}.html", Path(document).parent)
            new = nodes.reference("", "", *content, refuri=uri, internal=True)
        else:  # a folder, of which there is no page
            new = content[0]
        link.replace_self(new)


def shown_files(env: BuildEnvironment) -> dict[str, set[str]]:
    """Return the files that each page links to, kept between builds."""
    if not hasattr(env, "repository_files"):
        env.repository_files = {}  # type: ignore[attr-defined]
    return env.repository_files  # type: ignore[attr-defined, no-any-return]


def forget(app: Sphinx, env: BuildEnvironment, document: str) -> None:
    """Forget what a page linked to before it is read again."""
    shown_files(env).pop(document, None)


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each file that a page links to."""
    for shown in sorted(set().union(*shown_files(app.env).values())):
        text = (Path(app.srcdir).parent / shown).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(shown)
        except ClassNotFound:
            lexer = TextLexer()
        code = highlight(text, lexer, HtmlFormatter(cssclass="highlight"))
        yield f"{SHOWN}/{shown}", {"title": shown, "body": f"<h1>{shown}</h1>\n{code}"}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", replace_links, priority=400)
    app.connect("env-purge-doc", forget)
    app.connect("html-collect-pages", file_pages)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False}
