"""Calls of plugins: whatever goes wrong in one is an error that names the plugin and its distribution."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

from .errors import BrokenPluginError, ChameleonTextError, ConfigError
from .registry import REGISTRY, SEGMENT_CODECS_HOOK, TEMPLATES_HOOK
from .segments import Segment
from .templates import Piece, Template, Turn


def owner_of(hook: str, name: str) -> str:
    """Return what errors call a plugin: its kind, its name and its distribution."""
    kind = REGISTRY.kinds[hook]
    for each in REGISTRY.registered(hook):
        if each.spec.name == name:
            return f"the {kind} {name!r} of {each.distribution} {each.version}"
    return f"the {kind} {name!r}"


@contextlib.contextmanager
def plugin_call(owner: str, doing: str) -> Iterator[None]:
    """Raise ``BrokenPluginError`` for what a plugin raises in the block, ``sys.exit()`` and panics of Rust included.

    Errors of this toolkit's packages pass, with a note of where they came from; so does an interruption.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, ChameleonTextError) or _is_siblings(type(error)):
            error.add_note(f"Raised by {owner}, {doing}.")
            raise
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        period = "" if reason.endswith((".", "?", "!")) else "."
        raise BrokenPluginError(f"{owner} failed, {doing}: {reason}{period}") from error


def wrong(owner: str, what: str) -> NoReturn:
    """Raise ``BrokenPluginError`` for a wrong return value of a plugin."""
    raise BrokenPluginError(f"{owner} returned {what}")


def described(value: object) -> str:
    """Return a value for an error: its type, and the value itself only where it is short."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def template_of(name: str) -> Template:
    """Return the template called ``name``. Raises ``UnknownPluginError`` or ``BrokenPluginError``."""
    if not isinstance(name, str):
        raise ConfigError(f"template is {described(name)}, expected the name of one, such as 'chat'.")
    spec = REGISTRY.get(TEMPLATES_HOOK, name)
    owner = owner_of(TEMPLATES_HOOK, name)
    with plugin_call(owner, "being made"):
        reason = spec.why_unavailable()
        if reason is not None:
            raise BrokenPluginError(f"{owner} can't be used here: {reason}")
        template: Template = spec.make()
    for method in ("render", "parse"):
        if not callable(getattr(template, method, None)):
            wrong(owner, f"{described(template)} without a method {method}; see chameleon_text.templates.Template.")
    return template


def render(name: str, turns: Sequence[Turn]) -> list[Piece]:
    """Return the pieces of a conversation in a template. Raises ``BrokenPluginError`` for whatever it does wrong."""
    template, owner = template_of(name), owner_of(TEMPLATES_HOOK, name)
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
    template, owner = template_of(name), owner_of(TEMPLATES_HOOK, name)
    with plugin_call(owner, "reading the turns of a stream"):
        turns = template.parse(segments)
        turns = list(turns) if isinstance(turns, (list, tuple)) else turns
    if not isinstance(turns, list) or not all(isinstance(turn, Turn) for turn in turns):
        wrong(owner, f"{described(turns)} from parse; expected a list of Turn.")
    return turns


def codec_owner(name: str) -> str:
    """Return what errors call an installed segment codec."""
    return owner_of(SEGMENT_CODECS_HOOK, name)


def _is_siblings(kind: type[BaseException]) -> bool:
    return any(base.__name__.startswith("Chameleon") and base.__name__.endswith("Error") for base in kind.__mro__)
