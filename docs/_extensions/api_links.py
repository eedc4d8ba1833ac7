"""Links to the API reference.

A reference that a person writes must lead to a documented name, or the build fails. Those that signatures bring along
may be of other projects or internal: they are shown without a link. A class, function or module that is only set as
code, in a page or a docstring, becomes a link where exactly one name of the API pages fits.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

OURS = "chameleon_"


def generated(node: nodes.Node) -> bool:
    """Return whether a reference is in a signature or a list of base classes."""
    parent: nodes.Node | None = node
    while parent is not None:
        if isinstance(parent, addnodes.desc_signature):
            return True
        if isinstance(parent, nodes.paragraph) and parent.astext().startswith("Bases:"):
            return True
        parent = parent.parent
    return False


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element) -> Any:
    """Find a name by its last part, or leave it without a link; None is what makes Sphinx warn."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    ours = target.startswith(OURS) or "." not in target
    if not generated(node):
        return None if ours else content
    if ours:
        # Where the signature has the module that defines the name, the pages may have the package that exports it.
        ending = "." + target.rpartition(".")[2]
        objects = env.get_domain("py").data["objects"]
        matches = [full for full in objects if full.endswith(ending) and not objects[full].aliased]
        package = (node.get("py:module") or "").partition(".")[0]
        matches = [full for full in matches if full.startswith(f"{package}.")] or matches
        if len(matches) == 1:
            entry = objects[matches[0]]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, matches[0])
    return content


# A class, what belongs to a class, or anything by its full name; a single lower-case word may be anything.
NAME = re.compile(r"(?:chameleon_\w+(?:\.\w+)+|(?:\w+\.)*[A-Z]\w*[a-z]\w*(?:\.\w+)?)(?:\(\))?")


def link_code(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Turn code that names something on an API page into a link."""
    objects = app.env.get_domain("py").data["objects"]
    endings: dict[str, list[str]] = {}
    for full, entry in objects.items():
        if not entry.aliased and entry.objtype != "attribute":
            parts = full.split(".")
            for start in range(len(parts)):
                endings.setdefault(".".join(parts[start:]), []).append(full)
    for code in list(doctree.findall(nodes.literal)):
        text = code.astext()
        if not NAME.fullmatch(text) or isinstance(code.parent, nodes.reference | addnodes.pending_xref | nodes.title):
            continue
        matches = endings.get(text.removesuffix("()"), [])
        # On an API page, a name is that of the page's own package.
        own = [full for full in matches if document == f"api/{full.partition('.')[0]}"]
        if len(own or matches) == 1:
            (full,) = own or matches
            entry = objects[full]
            code.replace_self(make_refnode(app.builder, document, entry.docname, entry.node_id, code.deepcopy(), full))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", link_code)
    return {"parallel_read_safe": True}
