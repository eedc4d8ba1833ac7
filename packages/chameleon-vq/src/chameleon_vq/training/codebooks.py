"""Place a codebook's entries by k-means, revive those without use, and convert it to a plain codebook.

Shapes: B pictures, D width of a latent, h w latent grid, M = B·h·w positions, Q codes per position, Z entries,
J entries to replace.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .._meta import on_meta
from ..errors import ConfigError
from ..model import ChameleonVQVAE
from ..quantizers import VectorQuantizer
from ..quantizers.codebook import nearest_entries
from ..quantizers.contract import at_least_float32
from .metrics import codebook_figures, effective_rank, usage_by_place
from .ranks import ALONE, Ranks


@runtime_checkable
class Restartable(Protocol):
    """A vector quantizer whose entries can be set from outside."""

    num_codes: int

    def restart(self, codes_J: Tensor, entries_JD: Tensor) -> None:
        """Set the entries of some codes, and reset the statistics of the old ones."""
        ...


@runtime_checkable
class OfSeveralCodebooks(Protocol):
    """A vector quantizer with a codebook of its own for each of a position's codes."""

    def codebooks_for(self, latents_BDhw: Tensor) -> Iterator[tuple[VectorQuantizer, Tensor]]:
        """Yield each codebook with the latents that it quantizes, given the current entries of those before it."""
        ...


def can_restart(quantizer: VectorQuantizer) -> bool:
    """Return whether ``restart`` can set entries: the quantizer has a ``restart``, or an ``embedding``."""
    return isinstance(quantizer, Restartable) or isinstance(getattr(quantizer, "embedding", None), nn.Embedding)


def has_codebooks(quantizer: VectorQuantizer) -> bool:
    """Return whether the quantizer has entries to set, in one codebook for each of a position's codes."""
    if isinstance(quantizer, OfSeveralCodebooks):
        return True
    return quantizer.codes_per_position == 1 and can_restart(quantizer)


def codebooks_of(quantizer: VectorQuantizer, latents_MD: Tensor) -> Iterator[tuple[VectorQuantizer, Tensor]]:
    """Yield each codebook with the latents [M, D] that it quantizes.

    Set the entries of one before asking for the next, whose latents are what the new entries leave.
    """
    if not isinstance(quantizer, OfSeveralCodebooks):
        yield quantizer, latents_MD
        return
    for codebook, seen_MD11 in quantizer.codebooks_for(latents_MD[:, :, None, None]):
        yield codebook, seen_MD11[:, :, 0, 0]


def positions(latents_BDhw: Tensor) -> Tensor:
    """Flatten latents [B, D, h, w] to [M, D], at least in float32."""
    return at_least_float32(latents_BDhw).permute(0, 2, 3, 1).reshape(-1, latents_BDhw.shape[1])


@torch.no_grad()
def restart(
    quantizer: VectorQuantizer, codes_J: Tensor, entries_JD: Tensor, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Set the entries of some codes, and reset the optimizer's state of the old ones."""
    if isinstance(quantizer, Restartable):
        quantizer.restart(codes_J, entries_JD)
        return
    weight_ZD: nn.Parameter = quantizer.embedding.weight  # type: ignore[attr-defined]  # can_restart was asked
    weight_ZD[codes_J] = entries_JD.to(weight_ZD.dtype)
    if optimizer is not None:
        for value in optimizer.state.get(weight_ZD, {}).values():
            if isinstance(value, Tensor) and value.shape == weight_ZD.shape:
                value[codes_J] = 0


class CodebookCare:
    """Counts the codes that training chooses, places entries by k-means and revives those without use.

    A quantizer without entries (``fsq``, ``lfq``) is only counted. ``usage_QZ`` is how often each code was chosen, for
    each of a position's codes, since the last ``revive``. Several ranks count the codes of all of them, and pass the
    latents of all to the other methods, so that each does the same to its copy of the codebook.
    """

    def __init__(self, quantizer: VectorQuantizer, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        self.quantizer = quantizer
        self.optimizer = optimizer
        self.ranks = ranks
        shape = (quantizer.codes_per_position, quantizer.num_codes)
        self.usage_QZ = torch.zeros(shape, dtype=torch.int64, device=ranks.device)

    def count(self, codes: Tensor) -> None:
        """Add the codes [B, h, w] or [B, h, w, Q] of a step to the usage, each rank its own."""
        self.usage_QZ += self.ranks.add(usage_by_place(codes, self.quantizer))

    @torch.no_grad()
    def place(self, latents_MD: Tensor, random: np.random.Generator) -> None:
        """Place all entries by k-means over some latents, one codebook after the other."""
        for codebook, seen_MD in codebooks_of(self.quantizer, latents_MD):
            entries_ZD = kmeans(seen_MD, codebook.num_codes, random, ranks=self.ranks)
            restart(codebook, torch.arange(codebook.num_codes, device=seen_MD.device), entries_ZD, self.optimizer)

    @torch.no_grad()
    def revive(self, latents_MD: Tensor, random: np.random.Generator) -> None:
        """Set each entry that nothing has chosen since the last reset to one of the latents."""
        for usage_Z, (codebook, seen_MD) in zip(self.usage_QZ, codebooks_of(self.quantizer, latents_MD), strict=True):
            dead_J = (usage_Z == 0).nonzero().flatten()
            if len(dead_J):
                restart(codebook, dead_J, sample(seen_MD, len(dead_J), random), self.optimizer)

    def figures(self, latents_MD: Tensor) -> dict[str, float]:
        """Return what the log says about the codebook: its usage since the last reset and the latents' rank."""
        usage, perplexity = codebook_figures(self.usage_QZ)
        return {"codebook_usage": usage, "perplexity": perplexity, "latent_rank": effective_rank(latents_MD)}


def with_plain_codebook(model: ChameleonVQVAE) -> ChameleonVQVAE:
    """Return a model that shares the weights and has the quantizer "codebook", which `transformers` reads too.

    It gives the same codes and pictures. Raises ``ConfigError`` if the quantizer has no ``embedding``.
    """
    if not isinstance(getattr(model.quantize, "embedding", None), nn.Embedding):
        raise ConfigError(
            f"the vector quantizer {model.config.quantizer!r} has no codebook (an nn.Embedding named 'embedding'), so "
            "it can't be converted to a plain one; save the model as it is."
        )
    config = model.config.replace(quantizer="codebook", quantizer_options={})
    plain = on_meta(lambda: ChameleonVQVAE(config, with_decoder=model.decoder is not None))
    state = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(state, assign=True)
    return plain.train(model.training)


@torch.no_grad()
def kmeans(
    latents_MD: Tensor, num_codes: int, random: np.random.Generator, *, ranks: Ranks = ALONE, iterations: int = 10
) -> Tensor:
    """Run Lloyd's algorithm from latents chosen at random, and return the entries [Z, D].

    An entry that is nearest to no latent restarts at a random one. With fewer latents than entries, some entries start
    at the same latent. Several ranks, which pass the same latents, share the work.
    """
    own_MD = latents_MD[ranks.share(len(latents_MD))]
    entries_ZD = latents_MD[_choose(len(latents_MD), num_codes, random)].clone()
    for _ in range(iterations):
        nearest_M = nearest_entries(own_MD, entries_ZD)
        count_Z = ranks.add(torch.bincount(nearest_M, minlength=num_codes))
        sum_ZD = ranks.add(torch.zeros_like(entries_ZD).index_add_(0, nearest_M, own_MD))
        entries_ZD = sum_ZD / count_Z.clamp(min=1)[:, None]
        empty_J = (count_Z == 0).nonzero().flatten()
        if len(empty_J):
            entries_ZD[empty_J] = latents_MD[_choose(len(latents_MD), len(empty_J), random)]
    return entries_ZD


def sample(latents_MD: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """Return ``count`` of the latents, all different if there are enough."""
    return latents_MD[_choose(len(latents_MD), count, random)]


def _choose(available: int, count: int, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.choice(available, size=count, replace=available < count))
