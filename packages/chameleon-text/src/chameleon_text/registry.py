"""The registry of this package's plugins. Nothing is searched for before the first look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from . import _builtins, hookspecs
from ._moved import moved_names
from .hookspecs import SegmentCodecSpec
from .plugins import PluginRegistry

SEGMENT_CODECS_HOOK = "chameleon_text_segment_codecs"
TEMPLATES_HOOK = "chameleon_text_templates"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-text",
    hookspecs=hookspecs,
    kinds={SEGMENT_CODECS_HOOK: "segment codec", TEMPLATES_HOOK: "template"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
    spec_types={SEGMENT_CODECS_HOOK: SegmentCodecSpec},
)


def segment_codec_specs() -> list[SegmentCodecSpec]:
    """Return every usable segment codec, built-ins first."""
    return [cast(SegmentCodecSpec, each.spec) for each in REGISTRY.registered(SEGMENT_CODECS_HOOK)]


def segment_codec_spec(name: str) -> SegmentCodecSpec:
    """Return the segment codec called ``name``. Raises ``UnknownPluginError`` or ``BrokenPluginError``."""
    return cast(SegmentCodecSpec, REGISTRY.get(SEGMENT_CODECS_HOOK, name))


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(
        __name__,
        {"SEGMENT_CODECS": f"{__name__}:SEGMENT_CODECS_HOOK", "TEMPLATES": f"{__name__}:TEMPLATES_HOOK"},
    )
