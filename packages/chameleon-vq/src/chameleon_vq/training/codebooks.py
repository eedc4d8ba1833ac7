"""A codebook's start, the revival of its dead entries, and its plain form when training is over.

Shapes: B pictures, P latents, D width of a latent, h w latent grid, N entries, M entries to replace.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..model import ChameleonVQVAE
from ..quantizers import VectorQuantizer


@runtime_checkable
class Restartable(Protocol):
    """A vector quantizer whose entries can be placed from outside."""

    num_codes: int

    def restart(self, codes_M: Tensor, entries_MD: Tensor) -> None:
        """Give some codes new entries and forget what chose the old ones."""
        ...


@runtime_checkable
class OfSeveralCodebooks(Protocol):
    """A vector quantizer whose codes of a position come from codebooks of their own, one for each place."""

    def codebooks_for(self, latents_BDhw: Tensor) -> Iterator[tuple[VectorQuantizer, Tensor]]:
        """Each codebook with what it gets to quantize of some latents, once those before it are as they shall be."""
        ...


def can_restart(quantizer: VectorQuantizer) -> bool:
    """Whether ``restart`` can place entries: the quantizer says how, or keeps them in an ``embedding``."""
    return isinstance(quantizer, Restartable) or isinstance(getattr(quantizer, "embedding", None), nn.Embedding)


def has_codebooks(quantizer: VectorQuantizer) -> bool:
    """Whether there are entries to place, and for each place of a position those of one codebook."""
    if isinstance(quantizer, OfSeveralCodebooks):
        return True
    return quantizer.codes_per_position == 1 and can_restart(quantizer)


def codebooks_of(quantizer: VectorQuantizer, latents_PD: Tensor) -> Iterator[tuple[VectorQuantizer, Tensor]]:
    """Each codebook, in which ``restart`` can place entries, with what it gets to quantize: [P, D].

    The entries of one are to be placed before the next is asked for, which gets what they leave.
    """
    if not isinstance(quantizer, OfSeveralCodebooks):
        yield quantizer, latents_PD
        return
    for codebook, seen_PD11 in quantizer.codebooks_for(latents_PD[:, :, None, None]):
        yield codebook, seen_PD11[:, :, 0, 0]


def positions(latents_BDhw: Tensor) -> Tensor:
    """[B, D, h, w] to float32 [P, D]."""
    return latents_BDhw.float().permute(0, 2, 3, 1).reshape(-1, latents_BDhw.shape[1])


@torch.no_grad()
def restart(
    quantizer: VectorQuantizer, codes_M: Tensor, entries_MD: Tensor, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Give some codes new entries. What the optimizer remembers of the old ones is forgotten."""
    if isinstance(quantizer, Restartable):
        quantizer.restart(codes_M, entries_MD)
        return
    weight_ND: nn.Parameter = quantizer.embedding.weight  # type: ignore[attr-defined]  # can_restart was asked
    weight_ND[codes_M] = entries_MD.to(weight_ND.dtype)
    if optimizer is not None:
        for value in optimizer.state.get(weight_ND, {}).values():
            if isinstance(value, Tensor) and value.shape == weight_ND.shape:
                value[codes_M] = 0


def with_plain_codebook(model: ChameleonVQVAE) -> ChameleonVQVAE:
    """The same model, sharing its weights, with the quantizer "codebook": one that `transformers` reads too.

    Gives the same codes and pictures. Raises ``ConfigError`` where the quantizer has no ``embedding``.
    """
    if not isinstance(getattr(model.quantize, "embedding", None), nn.Embedding):
        raise ConfigError(f"the vector quantizer {model.config.quantizer!r} has no codebook to be written as one.")
    config = model.config.replace(quantizer="codebook", quantizer_options={})
    with torch.device("meta"):
        plain = ChameleonVQVAE(config, with_decoder=model.decoder is not None)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(state, assign=True)
    return plain.train(model.training)


@torch.no_grad()
def kmeans(latents_PD: Tensor, num_codes: int, random: np.random.Generator, *, iterations: int = 10) -> Tensor:
    """Lloyd's algorithm from latents chosen at random: entries [N, D].

    An entry that nothing is nearest to starts again at a latent chosen at random. Where there are fewer latents than
    entries, some start at the same latent.
    """
    entries_ND = latents_PD[_choose(len(latents_PD), num_codes, random)].clone()
    for _ in range(iterations):
        nearest_P = torch.cat([torch.cdist(part, entries_ND).argmin(dim=1) for part in torch.split(latents_PD, 4096)])
        count_N = torch.bincount(nearest_P, minlength=num_codes)
        sum_ND = torch.zeros_like(entries_ND).index_add_(0, nearest_P, latents_PD)
        entries_ND = sum_ND / count_N.clamp(min=1)[:, None]
        empty_M = (count_N == 0).nonzero().flatten()
        if len(empty_M):
            entries_ND[empty_M] = latents_PD[_choose(len(latents_PD), len(empty_M), random)]
    return entries_ND


def sample(latents_PD: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """``count`` of the latents, different ones as far as there are enough."""
    return latents_PD[_choose(len(latents_PD), count, random)]


def _choose(available: int, count: int, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.choice(available, size=count, replace=available < count))
