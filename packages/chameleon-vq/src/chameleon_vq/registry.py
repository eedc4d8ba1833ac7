"""The plugins of this package. Nothing is searched for before the first look-up."""

from __future__ import annotations

from . import _builtins, hookspecs
from .plugins import PluginRegistry

QUANTIZERS = "chameleon_vq_quantizers"
PRETRAINED = "chameleon_vq_pretrained"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-vq",
    hookspecs=hookspecs,
    kinds={QUANTIZERS: "vector quantizer", PRETRAINED: "image tokenizer"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
)
