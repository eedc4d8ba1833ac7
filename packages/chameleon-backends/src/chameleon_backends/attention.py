"""The attention contract: what a backend is asked, what it returns, and how it is registered.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from ._fields import rejects_unknown_fields
from ._moved import moved_names
from .errors import ConfigError
from .plugins import PluginSpec, always_supported


@rejects_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionSpec:
    """The attention of one forward pass, the same for every layer. ``AttentionBackend`` has the rules.

    Tensors are on ``device``. Only their shapes and dtypes are checked: reading their values would make the host wait
    for the device. Raises ``ConfigError`` for an impossible combination.
    """

    batch_size: int
    """B, rows of the batch, ≥ 1."""
    query_length: int
    """T, queries of a row, ≥ 1."""
    key_length: int
    """S, keys of a row, ≥ 1."""
    num_heads: int
    """H, query heads, a multiple of ``num_key_value_heads``."""
    num_key_value_heads: int
    """K, key and value heads, ≥ 1."""
    head_dim: int
    """D, width of a head, ≥ 1."""
    dtype: torch.dtype
    """Of query, key, value and output."""
    device: torch.device
    """Of all tensors."""
    causal: bool = True
    """Whether a query sees no key after its own position."""
    requires_grad: bool = False
    """Whether gradients will be computed."""
    dropout: bool = False
    """Whether ``attend`` may get a dropout above 0."""
    key_start_B: torch.Tensor | None = None
    """int64; row b sees no key before this one. None: 0."""
    key_end_B: torch.Tensor | None = None
    """int64; row b sees neither this key nor one after it. None: S."""
    document_ids_BS: torch.Tensor | None = None
    """int64; which of the row's packed documents each key belongs to. None: one document."""
    sliding_window: int | None = None
    """How many positions a query sees, its own included, ≥ 1. None: all."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "query_length", "key_length", "num_heads", "num_key_value_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be an integer ≥ 1.")
        if self.num_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_heads ({self.num_heads}) must be a multiple of num_key_value_heads ({self.num_key_value_heads})."
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError(
                f"sliding_window is {self.sliding_window}; it must be an integer ≥ 1, or None for all keys."
            )
        if self.document_ids_BS is not None and self.query_length > self.key_length:
            raise ConfigError(
                f"query_length ({self.query_length}) is above key_length ({self.key_length}): "
                "with document_ids_BS each query must be one of the keys."
            )
        _check_integers("key_start_B", self.key_start_B, (self.batch_size,))
        _check_integers("key_end_B", self.key_end_B, (self.batch_size,))
        _check_integers("document_ids_BS", self.document_ids_BS, (self.batch_size, self.key_length))

    @property
    def has_padding(self) -> bool:
        """Return whether any row may have keys that are padding."""
        return self.key_start_B is not None or self.key_end_B is not None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which torch casts nothing by itself, for a backend that chooses its dtypes."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _check_integers(name: str, tensor: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and (tensor.dtype != torch.int64 or tuple(tensor.shape) != shape):
        raise ConfigError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; it must be int64 of shape {shape}."
        )


@runtime_checkable
class AttentionBackend(Protocol):
    """The attention contract, in two steps: ``plan`` once per forward pass, then ``attend`` once per layer.

    Layout: ``query_BTHD``, ``key_BSKD`` and ``value_BSKD`` in, ``out_BTHD`` out, in the dtype of the query. Any strides
    are allowed, as long as the last dimension is contiguous. No input is changed: the cache belongs to the model, which
    passes all S keys.

    Positions: the queries are the last T of the S positions, so query t is at position p = S − T + t. T may be above S;
    then the first queries are before every key.

    Visibility: query t of row b sees key s where **all** of these hold. There is no other mask, and no backend needs
    a dense one (``visible_keys`` makes it where a backend wants it, ``visible_ranges`` each query's range of keys).

    - ``causal``: s ≤ p.
    - padding, on either side: ``key_start_B[b]`` ≤ s < ``key_end_B[b]``. Keys and values of padding are finite
      but otherwise arbitrary; they have no influence and get no gradient.
    - documents: ``document_ids_BS[b, s] == document_ids_BS[b, p]``. Equal ids lie next to each other.
    - window: the distance of s from p, on either side, is below ``sliding_window``.

    Weights: softmax over the visible keys of ``scale`` · q·k; the scale is positive and always given, never implied.
    Statistics are kept in float32 or better. The output of a query that sees no key is zeros, and its gradients are
    zeros, never NaN.

    Grouped heads: query head h reads key/value head h // (H / K); H is a multiple of K.

    Dropout: each weight becomes zero with probability ``dropout`` and is divided by 1 − ``dropout`` otherwise, drawn
    from torch's global generator. At 0 nothing is drawn.

    Autocast: query, key and value have one dtype under ``torch.autocast`` too, and a plugin is called with autocast off
    (``without_autocast``), so that it chooses its dtypes by itself.

    Gradients, where ``requires_grad``, flow to query, key and value.

    A backend refuses a request that it can't serve in ``plan``, with ``UnsupportedAttentionError`` and the sentence
    that ``AttentionBackendSpec.unsupported`` returns. It never returns a wrong result.
    """

    def plan(self, spec: AttentionSpec) -> Any:
        """Return what ``attend`` needs to know about the forward pass. Should not make the host wait for the device."""

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
        """Return the attention of one layer, ``out_BTHD``. ``prepared`` is what ``plan`` returned for these shapes."""


@runtime_checkable
class AttentionWeightsBackend(AttentionBackend, Protocol):
    """A backend that can return its attention weights; most kernels never have them in memory."""

    def attention_weights(
        self, query_BTHD: torch.Tensor, key_BSKD: torch.Tensor, prepared: Any, *, scale: float
    ) -> torch.Tensor:
        """Return ``weights_BHTS`` before dropout, float32 or better: they sum to 1, or 0 where a query sees no key."""


class AttentionBackendSpec(PluginSpec, frozen=True, kw_only=True):
    """What the hook ``chameleon_attention_backends`` returns: a backend's name and how to make it.

    ``factory()`` returns an ``AttentionBackend``; heavy modules are imported in there. ``unavailable()`` says why it
    can't run on this machine, as far as that can be told without importing what is heavy. What only an import tells,
    such as a library that is broken, the factory raises as ``UnsupportedAttentionError``. ``unsupported(spec)`` says
    why it can't serve a request.
    """

    factory: Callable[[], AttentionBackend] | str
    """Makes the backend."""
    unsupported: Callable[[AttentionSpec], str | None] | str = always_supported
    """Returns the sentence with which ``plan`` refuses a request, None where it serves it."""


if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__, {"WeightsBackend": f"{__name__}:AttentionWeightsBackend"})
