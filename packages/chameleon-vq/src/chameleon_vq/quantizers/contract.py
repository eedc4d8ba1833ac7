"""The contract of a vector quantizer, the way to one by its name, and what those here are made of.

Shapes: B pictures, D width of a latent, h w latent grid, N codes of the quantizer, Q codes per position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..errors import BrokenPluginError, ConfigError
from ..registry import QUANTIZERS, REGISTRY

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Quantized:
    """What ``VectorQuantizer.forward`` gives."""

    latents: Tensor
    """The quantized latents [B, D, h, w], dtype of the input.

    Their gradient reaches the latents of the same position; unchanged, where a quantizer doesn't say otherwise.
    """
    codes: Tensor
    """int64 [B, h, w], or [B, h, w, Q] where a position has several codes."""
    loss: Tensor
    """The training loss, a scalar."""
    usage: Tensor
    """How often each code was chosen in this batch: int64 [N]; the codes of a position are counted together."""


class VectorQuantizer(Protocol):
    """A layer between encoder and decoder that replaces each latent by one of finitely many.

    It is also an ``nn.Module``. What it promises, and ``chameleon_vq.testing.VectorQuantizerConformance`` checks:

    - Codes are 0…num_codes − 1, and each of them may stand in each of a position's places, so that whatever a
      transformer writes with them can be decoded.
    - ``forward(latents)`` chooses without randomness, dropout while training excepted: the same latents give the same
      codes, a latent's code doesn't depend on its neighbours or its batch, and distances are those of float32 (or
      float64) in bfloat16 and under autocast too.
    - ``lookup(codes)`` gives what the codes stand for, ``forward(latents).latents`` up to rounding, in floating point.
    - With one code per position ``forward(lookup(codes))`` gives the codes back, every one. With several it need not:
      where each code refines what the ones before it left, the sum that they stand for may lie nearer to another first
      code than to theirs, or be the sum of other codes too.
    - Outside of ``forward`` in training mode nothing changes its state, and ``state_dict`` and the configuration carry
      all of it.
    """

    num_codes: int
    codes_per_position: int

    def __call__(self, latents_BDhw: Tensor) -> Quantized:
        """Choose codes; see ``Quantized``."""
        ...

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 codes [B, h, w], or [B, h, w, Q], to latents [B, D, h, w]."""
        ...


def make_quantizer(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    """The quantizer that ``config.quantizer`` names.

    Raises ``UnknownPluginError``; ``ConfigError`` where the plugin can't serve this configuration;
    ``BrokenPluginError`` where it gives something else than a layer.
    """
    spec = REGISTRY.get(QUANTIZERS, config.quantizer)
    reason = spec.why_unsupported(config)
    if reason is not None:
        raise ConfigError(
            f"the vector quantizer {spec.name!r} can't be used with this configuration: {reason.rstrip('.')}."
        )
    quantizer = spec.make(config)
    if not isinstance(quantizer, nn.Module):
        raise BrokenPluginError(
            f"the vector quantizer {spec.name!r} is a {type(quantizer).__name__}, expected a torch.nn.Module."
        )
    return quantizer  # type: ignore[return-value]  # the rest of the contract is the conformance suite's to check


def count_codes(codes: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs: int64 [num_codes], for ``Quantized.usage``."""
    return torch.bincount(codes.reshape(-1), minlength=num_codes)


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """The values of ``quantized``, with the dtype of ``latents``, to which the gradient goes unchanged."""
    return quantized.detach().to(latents.dtype) + (latents - latents.detach())


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it has more: in bfloat16 thousands of distances would tie."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(method: Method) -> Method:
    """Make a method of one tensor compute as if autocast, which rounds products to bfloat16, were off."""

    @wraps(method)
    def run(self: Any, tensor: Tensor) -> Any:
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, tensor)

    return run  # type: ignore[return-value]
