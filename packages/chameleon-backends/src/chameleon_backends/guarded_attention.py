"""Attention backends of other packages: tried when they are made, and named by errors in every forward pass.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch

from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec, AttentionWeightsBackend, without_autocast
from .errors import UnsupportedAttentionError
from .plugin_calls import described, plugin_call, wrong


class GuardedAttention:
    """A third-party backend, called with autocast off; what it raises, and results of a wrong shape or dtype, are
    errors that name it.
    """

    def __init__(self, backend: AttentionBackend, owner: str) -> None:
        self.backend = backend
        self.owner = owner

    def plan(self, spec: AttentionSpec) -> Any:
        """Return what the backend plans. Raises ``BrokenPluginError`` and ``UnsupportedAttentionError``."""
        if torch.compiler.is_compiling():
            return self.backend.plan(spec)
        with plugin_call(self.owner, "planning a forward pass"):
            return self.backend.plan(spec)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: Any,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return ``out_BTHD``. Raises ``BrokenPluginError``."""
        if torch.compiler.is_compiling():
            return self.backend.attend(query_BTHD, key_BSKD, value_BSKD, prepared, scale=scale, dropout=dropout)
        with plugin_call(self.owner, "computing attention"), without_autocast(query_BTHD.device):
            out_BTHD = self.backend.attend(query_BTHD, key_BSKD, value_BSKD, prepared, scale=scale, dropout=dropout)
        return _checked(self.owner, "attend", out_BTHD, query_BTHD.shape, query_BTHD.dtype)

    def __getattr__(self, name: str) -> Any:
        # Of the wrapper itself nothing is missing but what copying and pickling ask for.
        if name.startswith("__") or name == "backend":
            raise AttributeError(name)
        return getattr(self.backend, name)

    def __repr__(self) -> str:
        return repr(self.backend)


class GuardedWeightsAttention(GuardedAttention):
    """A third-party backend that can also return its attention weights."""

    def attention_weights(
        self, query_BTHD: torch.Tensor, key_BSKD: torch.Tensor, prepared: Any, *, scale: float
    ) -> torch.Tensor:
        """Return ``weights_BHTS``. Raises ``BrokenPluginError``."""
        B, T, H, _ = query_BTHD.shape
        with plugin_call(self.owner, "computing attention weights"), without_autocast(query_BTHD.device):
            weights_BHTS = self.backend.attention_weights(query_BTHD, key_BSKD, prepared, scale=scale)  # type: ignore[attr-defined]
        return _checked(self.owner, "attention_weights", weights_BHTS, (B, H, T, key_BSKD.shape[1]), None)


def guard(backend: Any, spec: AttentionBackendSpec) -> GuardedAttention:
    """Return what a third-party factory made, tried once on a request that it says it serves.

    Raises ``BrokenPluginError`` where it isn't a backend, fails, or returns another shape or dtype.
    """
    for method in ("plan", "attend"):
        if isinstance(backend, type) or not callable(getattr(backend, method, None)):
            wrong(spec.called, f"{described(backend)} from factory; expected an object with plan and attend.")
    kind = GuardedWeightsAttention if isinstance(backend, AttentionWeightsBackend) else GuardedAttention
    guarded = kind(backend, spec.called)
    # A model may be made on the meta device, in inference mode or under autocast; the trial isn't.
    with torch.device("cpu"), torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        _try(guarded, spec)
    return guarded


def _try(backend: GuardedAttention, spec: AttentionBackendSpec) -> None:
    request = AttentionSpec(
        batch_size=1,
        query_length=2,
        key_length=2,
        num_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    if spec.why_unsupported(request) is not None:
        return
    tensor_BTHD = torch.ones(1, 2, 2, 64)
    try:
        prepared = backend.plan(request)
    except UnsupportedAttentionError:
        return
    backend.attend(tensor_BTHD, tensor_BTHD, tensor_BTHD, prepared, scale=0.125)


def _checked(owner: str, method: str, found: Any, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
    if not isinstance(found, torch.Tensor):
        wrong(owner, f"{described(found)} from {method}; expected a tensor.")
    if tuple(found.shape) != tuple(shape) or (dtype is not None and found.dtype != dtype):
        expected = f"{list(shape)}" if dtype is None else f"{list(shape)} of {dtype}"
        wrong(owner, f"a tensor {list(found.shape)} of {found.dtype} from {method}; expected {expected}.")
    return found
