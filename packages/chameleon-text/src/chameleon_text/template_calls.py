"""Calls of templates: whatever goes wrong in one is an error that names the plugin and its distribution."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ConfigError
from .plugin_calls import described, plugin_call, wrong
from .registry import REGISTRY, TEMPLATES_HOOK
from .segments import Segment
from .templates import Piece, Template, Turn


def template_of(name: str) -> Template:
    """Return the template called ``name``. Raises ``UnknownPluginError`` or ``BrokenPluginError``."""
    return _made(name)[0]


def render(name: str, turns: Sequence[Turn]) -> list[Piece]:
    """Return the pieces of a conversation in a template. Raises ``BrokenPluginError`` for whatever it does wrong."""
    template, owner = _made(name)
    with plugin_call(owner, "rendering a conversation"):
        pieces = template.render(turns)
        pieces = list(pieces) if isinstance(pieces, (list, tuple)) else pieces
    if not isinstance(pieces, list):
        wrong(owner, f"{described(pieces)} from render; expected a list of Piece.")
    for piece in pieces:
        if not isinstance(piece, Piece) or not isinstance(piece.segment, Segment):
            wrong(owner, f"{described(piece)} among the pieces from render; expected a Piece with a segment.")
    return pieces


def parse(name: str, segments: Sequence[Segment]) -> list[Turn]:
    """Return the turns that a template finds. Raises ``BrokenPluginError`` for whatever it does wrong."""
    template, owner = _made(name)
    with plugin_call(owner, "reading the turns of a stream"):
        turns = template.parse(segments)
        turns = list(turns) if isinstance(turns, (list, tuple)) else turns
    if not isinstance(turns, list) or not all(isinstance(turn, Turn) for turn in turns):
        wrong(owner, f"{described(turns)} from parse; expected a list of Turn.")
    return turns


def _made(name: str) -> tuple[Template, str]:
    """Return a template, and what errors call it."""
    if not isinstance(name, str):
        raise ConfigError(f"template is {described(name)}, expected the name of one, such as 'chat'.")
    spec = REGISTRY.get(TEMPLATES_HOOK, name)
    template: Template = spec.make()
    for method in ("render", "parse"):
        if isinstance(template, type) or not callable(getattr(template, method, None)):
            wrong(
                spec.called,
                f"{described(template)} where an object with a method {method} was expected; see "
                "chameleon_text.templates.Template.",
            )
    return template, spec.called
