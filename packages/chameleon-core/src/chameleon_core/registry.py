"""The registry of what is installed: formats, models, processors, picture grammars, caches, decoding strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chameleon_backends.plugins import PluginRegistry, Registered

from . import _builtins, hookspecs
from ._boundary import translates_errors
from ._moved import moved_names

CHECKPOINT_FORMATS_HOOK = "chameleon_core_checkpoint_formats"
PRETRAINED_HOOK = "chameleon_core_pretrained"
LOGITS_PROCESSORS_HOOK = "chameleon_core_logits_processors"
PICTURE_GRAMMARS_HOOK = "chameleon_core_picture_grammars"
CACHES_HOOK = "chameleon_core_caches"
DECODING_HOOK = "chameleon_core_decoding"


class CoreRegistry(PluginRegistry):
    """The registry of chameleon-backends, with core's errors."""

    @translates_errors
    def find(self, hook: str, name: str) -> Registered:
        """Return what is called ``name``. Raises ``UnknownPluginError`` or ``BrokenPluginError``."""
        return super().find(hook, name)


REGISTRY = CoreRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-core",
    hookspecs=hookspecs,
    kinds={
        CHECKPOINT_FORMATS_HOOK: "checkpoint format",
        PRETRAINED_HOOK: "pretrained model",
        LOGITS_PROCESSORS_HOOK: "logits processor",
        PICTURE_GRAMMARS_HOOK: "picture grammar",
        CACHES_HOOK: "cache",
        DECODING_HOOK: "decoding strategy",
    },
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
    spec_types={
        CHECKPOINT_FORMATS_HOOK: hookspecs.CheckpointFormatSpec,
        LOGITS_PROCESSORS_HOOK: hookspecs.LogitsProcessorSpec,
    },
)

if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__, {"FORMATS_HOOK": f"{__name__}:CHECKPOINT_FORMATS_HOOK"})
