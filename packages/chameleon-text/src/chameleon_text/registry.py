"""The registry of this package's plugins. Nothing is searched for before the first look-up."""

from __future__ import annotations

import warnings
from typing import Any, cast

from . import _builtins, hookspecs
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


def __getattr__(name: str) -> Any:
    renamed = {"SEGMENT_CODECS": SEGMENT_CODECS_HOOK, "TEMPLATES": TEMPLATES_HOOK}
    if name not in renamed:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now called {name}_HOOK.", DeprecationWarning, stacklevel=2)
    return renamed[name]
