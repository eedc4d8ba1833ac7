"""The hooks of this package. A plugin implements one or more of them and is found by its entry point.

In a plugin's ``pyproject.toml``::

    [project.entry-points.chameleon_text]
    acme = "acme_audio.plugin"

and in ``acme_audio/plugin.py``::

    from chameleon_text import HOOK_API_VERSION, SegmentCodecSpec, hookimpl

    from .segment import Audio    # a light module with a frozen subclass of Segment

    def make(context):
        from .codec import AudioCodec    # heavy modules only here
        return AudioCodec(context.tokenizer)

    @hookimpl
    def chameleon_text_segment_codecs():
        return [SegmentCodecSpec(name="audio", segment=Audio, factory=make, api_version=HOOK_API_VERSION)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from .plugins import PluginSpec
from .segments import Segment

PROJECT = "chameleon_text"
HOOK_API_VERSION = 2
"""Grows when a hook's contract changes so that plugins written for it would break."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class SegmentCodecSpec(PluginSpec, frozen=True, kw_only=True):
    """A segment type: how it becomes ids and comes back, and how it is written in JSON.

    ``name`` is the ``"type"`` of its parts in JSON and in chat messages, ``segment`` its class.
    ``dump(segment)`` gives the fields of its JSON object, without the type, and ``load(fields)`` makes the segment
    again, raising ``DocumentError`` for fields that it doesn't understand; by default msgspec does both by the
    fields' annotations.
    """

    segment: type[Segment]
    dump: Callable[[Any], dict[str, Any]] | str | None = None
    load: Callable[[dict[str, Any]], Segment] | str | None = None


@hookspec
def chameleon_text_segment_codecs() -> Iterable[SegmentCodecSpec]:  # type: ignore[empty-body]
    """How segment types (text, images, a modality of one's own) become ids and come back.

    ``factory(context: CodecContext)`` makes an object that keeps the contract of ``codecs.SegmentCodec``.
    ``unsupported(context)`` says why a processor can't have it, for instance which tokens the vocabulary lacks.
    """


@hookspec
def chameleon_text_templates() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Prompt formats, chosen by the ``template`` of a processor or of one call.

    ``factory()`` makes an object that keeps the contract of ``templates.Template``.
    ``unavailable()`` says why it isn't available here.
    """
