"""The hooks of this package. A plugin implements one or more of them and is found by its entry point.

In a plugin's ``pyproject.toml``::

    [project.entry-points.chameleon_text]
    acme = "acme_audio.plugin"

and in ``acme_audio/plugin.py``::

    from chameleon_text import HOOK_API_VERSION, SegmentCodecSpec, hookimpl

    from .segment import Audio    # a light module with a frozen subclass of Segment

    @hookimpl
    def chameleon_text_segment_codecs():
        return [
            SegmentCodecSpec(
                name="audio",
                segment=Audio,
                factory="acme_audio.codec:AudioCodec",    # imported when it is first used
                api_version=HOOK_API_VERSION,
            )
        ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from .plugins import PluginSpec
from .segments import Segment

PROJECT = "chameleon_text"
HOOK_API_VERSION = 2
"""Incremented when a change of a hook's contract breaks the plugins that were written for it."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class SegmentCodecSpec(PluginSpec, frozen=True, kw_only=True):
    """A segment type: how it becomes ids and comes back, and how it is written in JSON.

    ``name`` is the ``"type"`` of its parts in JSON and in chat messages.
    """

    segment: type[Segment]
    """The class of the segments."""
    dump: Callable[[Any], dict[str, Any]] | str | None = None
    """``dump(segment)`` returns the fields of its JSON object, without the type. By default msgspec writes them."""
    load: Callable[[dict[str, Any]], Segment] | str | None = None
    """``load(fields)`` returns the segment of such fields. It raises ``DocumentError`` for fields that it doesn't
    understand. By default msgspec reads them by the annotations of the class."""


@hookspec
def chameleon_text_segment_codecs() -> Iterable[SegmentCodecSpec]:  # type: ignore[empty-body]
    """Return segment types (text, images, other modalities): how they become ids and come back.

    ``factory(context: CodecContext)`` makes an object that keeps the contract of ``codecs.SegmentCodec``.
    ``unsupported(context)`` says why a processor can't use it, for instance which tokens the vocabulary lacks.
    """


@hookspec
def chameleon_text_templates() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return prompt formats, chosen by the ``template`` of a processor or of one call.

    ``factory()`` makes an object that keeps the contract of ``templates.Template``.
    ``unavailable()`` says why it can't be used on this machine.
    """
