"""The checkpoint formats and the named models that are installed."""

from __future__ import annotations

from chameleon_backends.plugins import PluginRegistry

from . import _builtins, hookspecs

FORMATS_HOOK = "chameleon_core_checkpoint_formats"
PRETRAINED_HOOK = "chameleon_core_pretrained"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-core",
    hookspecs=hookspecs,
    kinds={FORMATS_HOOK: "checkpoint format", PRETRAINED_HOOK: "pretrained model"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
    spec_types={FORMATS_HOOK: hookspecs.CheckpointFormatSpec},
)
