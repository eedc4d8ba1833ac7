"""The plugins of this package. Nothing is searched for before the first look-up."""

from __future__ import annotations

from typing import cast

from . import _builtins, hookspecs
from .hookspecs import SegmentCodecSpec
from .plugins import PluginRegistry

SEGMENT_CODECS = "chameleon_text_segment_codecs"
TEMPLATES = "chameleon_text_templates"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-text",
    hookspecs=hookspecs,
    kinds={SEGMENT_CODECS: "segment codec", TEMPLATES: "template"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
    spec_types={SEGMENT_CODECS: SegmentCodecSpec},
)


def segment_codec_specs() -> list[SegmentCodecSpec]:
    """Every usable segment codec, built-ins first."""
    return [cast(SegmentCodecSpec, each.spec) for each in REGISTRY.registered(SEGMENT_CODECS)]


def segment_codec_spec(name: str) -> SegmentCodecSpec:
    """The segment codec called ``name``. Raises ``UnknownPluginError`` or ``BrokenPluginError``."""
    return cast(SegmentCodecSpec, REGISTRY.get(SEGMENT_CODECS, name))
