"""The contract of a vector quantizer, and the way to one by its name.

Shapes: B pictures, D width of a latent, h w latent grid, N codes of the quantizer, Q codes per position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..errors import BrokenPluginError, ConfigError
from ..registry import QUANTIZERS, REGISTRY


@dataclass(frozen=True, slots=True)
class Quantized:
    """What ``VectorQuantizer.forward`` gives."""

    latents: Tensor
    """The quantized latents [B, D, h, w], dtype of the input; their gradient reaches the input unchanged."""
    codes: Tensor
    """int64 [B, h, w], or [B, h, w, Q] where a position has several codes."""
    loss: Tensor
    """The training loss, a scalar."""
    usage: Tensor
    """How often each code was chosen in this batch: int64 [N]."""


class VectorQuantizer(Protocol):
    """A layer between encoder and decoder that replaces each latent by one of finitely many.

    It is also an ``nn.Module``. What it promises, and ``chameleon_vq.testing.VectorQuantizerConformance`` checks:

    - ``forward(latents)`` chooses without randomness: the same latents give the same codes, and a latent's code
      doesn't depend on its neighbours or its batch;
    - ``lookup(codes)`` gives what the codes stand for, ``forward(latents).latents`` up to rounding, and ``forward``
      of that gives the codes back;
    - outside of ``forward`` in training mode nothing changes its state.
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
    reason = spec.unsupported(config)
    if reason is not None:
        raise ConfigError(
            f"the vector quantizer {spec.name!r} can't be used with this configuration: {reason.rstrip('.')}."
        )
    quantizer = spec.factory(config)
    if not isinstance(quantizer, nn.Module):
        raise BrokenPluginError(
            f"the vector quantizer {spec.name!r} is a {type(quantizer).__name__}, expected a torch.nn.Module."
        )
    return quantizer  # type: ignore[return-value]  # the rest of the contract is the conformance suite's to check


def count_codes(codes: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs: int64 [num_codes], for ``Quantized.usage``."""
    return torch.bincount(codes.reshape(-1), minlength=num_codes)
