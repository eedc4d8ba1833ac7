"""The contract of a vector quantizer, and the helpers that the built-in ones share.

Shapes: B pictures, D width of a latent, h w latent grid, Z codes of the quantizer, Q codes per position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from .._moved import moved_names

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Quantized:
    """What ``VectorQuantizer.forward`` returns."""

    latents: Tensor
    """The quantized latents [B, D, h, w], with the dtype of the input.

    Their gradient reaches the latents of the same position, unchanged unless a quantizer documents something else.
    """
    codes: Tensor
    """int64 [B, h, w], or [B, h, w, Q] if a position has several codes."""
    loss: Tensor
    """The training loss, a scalar."""
    usage: Tensor
    """How often each code was chosen in this batch: int64 [Z]; the codes of a position are counted together."""


class VectorQuantizer(Protocol):
    """A layer between encoder and decoder that replaces each latent by one of finitely many.

    It is also an ``nn.Module``. ``chameleon_vq.testing.VectorQuantizerConformance`` checks this contract:

    - Codes are 0…num_codes − 1. Any code is valid in any place of any position, so whatever a transformer writes with
      them can be decoded.
    - ``forward(latents)`` is deterministic, except for dropout during training: equal latents give equal codes, the
      code of a latent doesn't depend on its neighbours or the rest of the batch, and distances are computed in float32
      (or float64), for bfloat16 latents and under autocast too.
    - ``lookup(codes)`` returns the latents of the codes, equal to ``forward(latents).latents`` up to rounding, in
      floating point.
    - With one code per position, ``forward(lookup(codes))`` returns every code unchanged. With several it needn't: if
      each code refines those before it, the sum of their entries may be nearer to another first code, or equal to the
      sum of other codes.
    - Only ``forward`` in training mode changes its state, and ``state_dict`` and the configuration hold all of it. To
      train in several processes, what follows the latents is an ``OverRanks``.
    """

    num_codes: int
    """Number of codes, ≥ 2."""
    codes_per_position: int
    """Number of codes per position of the latent grid, ≥ 1."""

    def __call__(self, latents_BDhw: Tensor) -> Quantized:
        """Quantize latents [B, D, h, w]; see ``Quantized``."""
        ...

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the latents [B, D, h, w] of int64 codes [B, h, w] or [B, h, w, Q]."""
        ...


def count_codes(codes: Tensor, num_codes: int) -> Tensor:
    """Count how often each code occurs: int64 [Z], for ``Quantized.usage``."""
    return torch.bincount(codes.reshape(-1), minlength=num_codes)


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return the values of ``quantized`` in the dtype of ``latents``, which receive the gradient unchanged."""
    return quantized.detach().to(latents.dtype) + (latents - latents.detach())


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to float32, unless the dtype is more precise: in bfloat16 thousands of distances would tie."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(method: Method) -> Method:
    """Decorate a method of one tensor to run without autocast, which would round products to bfloat16."""

    @wraps(method)
    def run(self: Any, tensor: Tensor) -> Any:
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, tensor)

    return run  # type: ignore[return-value]


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"make_quantizer": "chameleon_vq.registry:make_quantizer"})
