"""The hooks of this package. A plugin implements them with ``hookimpl`` and is found by an entry point in the group
``chameleon_backends``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .attention import AttentionBackendSpec
    from .weight_quantizer import WeightQuantizerSpec

PROJECT = "chameleon_backends"

HOOK_API_VERSION = 2
"""The version of the hooks' contracts, which every spec states. It grows when plugins must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def chameleon_attention_backends() -> Iterable[AttentionBackendSpec]:  # type: ignore[empty-body]
    """Return attention backends: objects that keep the contract of ``AttentionBackend``."""


@hookspec
def chameleon_weight_quantizers() -> Iterable[WeightQuantizerSpec]:  # type: ignore[empty-body]
    """Return weight quantizers: objects that keep the contract of ``WeightQuantizer``."""
