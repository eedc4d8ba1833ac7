"""The hooks of this package. A plugin implements them with ``hookimpl`` and is found by an entry point in the group
``chameleon_backends``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .attention import AttentionBackendSpec
    from .weights import WeightQuantizerSpec

PROJECT = "chameleon_backends"

HOOK_API_VERSION = 2
"""Every spec states the version that it was written for. It changes only when plugins must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def chameleon_attention_backends() -> Iterable[AttentionBackendSpec]:  # type: ignore[empty-body]
    """Attention backends, which answer to the contract in ``AttentionBackend``."""


@hookspec
def chameleon_weight_quantizers() -> Iterable[WeightQuantizerSpec]:  # type: ignore[empty-body]
    """Weight quantizers, which answer to the contract in ``WeightQuantizer``."""
