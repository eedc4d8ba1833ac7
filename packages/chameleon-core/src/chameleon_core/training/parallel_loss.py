"""The loss of training where the rows of the output layer are divided among ranks: no rank has all logits.

Shapes: M positions that have a target, m positions of a chunk of them, E hidden width, V vocabulary, U ids of this
rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .loss import TargetLoss, chunk_size_of, importances, product_dtype

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of the output layer that this rank has."""

    first: int
    """The id of the first one."""
    group: dist.ProcessGroup
    """The ranks that have all rows together."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The loss of some positions."""

    cross_entropy_m: Tensor
    log_normalizer_m: Tensor
    probabilities_mU: Tensor
    """Of this rank's ids."""
    places_m: Tensor
    """Where the targets are among this rank's ids."""
    owned_m: Tensor
    """Whether they are there at all."""

    @classmethod
    def of(cls, logits_mU: Tensor, targets_m: Tensor, rows: _Rows) -> _Chunk:
        """Return the loss of logits, which are overwritten."""
        largest_m = logits_mU.amax(dim=1)
        dist.all_reduce(largest_m, dist.ReduceOp.MAX, group=rows.group)
        logits_mU -= largest_m[:, None]
        places_m = targets_m - rows.first
        owned_m = (places_m >= 0) & (places_m < logits_mU.shape[1])
        places_m = places_m.clamp(0, logits_mU.shape[1] - 1)
        own_logits_m = logits_mU.gather(1, places_m[:, None])[:, 0] * owned_m
        sums_2m = torch.stack((logits_mU.exp_().sum(dim=1), own_logits_m))
        dist.all_reduce(sums_2m, group=rows.group)
        normalizer_m, target_logits_m = sums_2m
        log_m = normalizer_m.log()
        logits_mU /= normalizer_m[:, None]
        return cls(log_m - target_logits_m, log_m + largest_m, logits_mU, places_m, owned_m)

    def gradient(self, importance_m: Tensor, z_loss: float) -> Tensor:
        """Return the gradient of the logits, in the place of the probabilities.

        d(CE)/d(logits) = p - onehot and d(log²Z)/d(logits) = 2 log Z · p.
        """
        scale_m = (1 + 2 * z_loss * self.log_normalizer_m) * importance_m
        gradient_mU = self.probabilities_mU.mul_(scale_m[:, None])
        return gradient_mU.scatter_add_(1, self.places_m[:, None], -(importance_m * self.owned_m)[:, None])


def vocabulary_parallel_loss(
    hidden_ME: Tensor,
    weight_VE: Tensor,
    targets_M: Tensor,
    *,
    z_loss: float,
    importance_M: Tensor | None = None,
    chunk_size: int | None = None,
) -> TargetLoss:
    """Return what ``target_loss`` does, of a weight whose rows are divided evenly among ranks.

    The other tensors are the same on each rank, and so is what is returned. Each rank computes the logits of its own
    ids, a chunk of positions at a time; the ranks exchange two numbers for each position and the gradient of
    ``hidden_ME``.
    """
    compute_dtype = product_dtype(hidden_ME)
    divided_VE: DTensor = weight_VE  # type: ignore[assignment]
    weight_UE = divided_VE.to_local()
    if not torch.is_grad_enabled():
        # Within a Function gradients are always disabled, so it couldn't see that none are needed.
        hidden_ME, weight_UE = hidden_ME.detach(), weight_UE.detach()
    mesh = divided_VE.device_mesh
    rows = _Rows(mesh.get_local_rank() * len(weight_UE), mesh.get_group())
    importance_M = importances(importance_M, targets_M, compute_dtype)
    size = chunk_size or chunk_size_of(len(weight_UE), compute_dtype, hidden_ME.device)
    # What is computed below has its dtype already.
    with torch.autocast(hidden_ME.device.type, enabled=False):
        return TargetLoss(
            *_VocabularyParallelLoss.apply(  # type: ignore[no-untyped-call]
                hidden_ME, weight_UE, targets_M, importance_M, z_loss, size, compute_dtype, rows
            )
        )


class _VocabularyParallelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: Tensor,
        weight_UE: Tensor,
        targets_M: Tensor,
        importance_M: Tensor,
        z_loss: float,
        chunk_size: int,
        compute_dtype: torch.dtype,
        rows: _Rows,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtypes = hidden_ME.dtype, weight_UE.dtype
        needs_gradients = any(ctx.needs_input_grad[:2])
        hidden_ME, weight_UE = hidden_ME.to(compute_dtype), weight_UE.to(compute_dtype)
        cross_entropy_M, log_normalizer_M = torch.empty_like(importance_M), torch.empty_like(importance_M)
        gradients: tuple[Tensor | None, Tensor | None] = (None, None)
        if needs_gradients:
            # Summed over ranks and chunks, so in float32 whatever the type of the products.
            hidden_gradient_ME, weight_gradient_UE = (
                torch.zeros_like(each, dtype=importance_M.dtype) for each in (hidden_ME, weight_UE)
            )
            gradients = hidden_gradient_ME, weight_gradient_UE
        for start in range(0, len(targets_M), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits_mU = (hidden_ME[chunk] @ weight_UE.T).to(importance_M.dtype)
            found = _Chunk.of(logits_mU, targets_M[chunk], rows)
            cross_entropy_M[chunk], log_normalizer_M[chunk] = found.cross_entropy_m, found.log_normalizer_m
            if needs_gradients:
                gradient_mU = found.gradient(importance_M[chunk], z_loss).to(compute_dtype)
                hidden_gradient_ME[chunk] = gradient_mU @ weight_UE
                weight_gradient_UE += gradient_mU.T @ hidden_ME[chunk]
        if needs_gradients:
            dist.all_reduce(hidden_gradient_ME, group=rows.group)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(cross_entropy_M, log_normalizer_M)
        total = (importance_M * (cross_entropy_M + z_loss * log_normalizer_M.square())).sum()
        return total, cross_entropy_M, log_normalizer_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (
            None if gradient is None or not needed else (gradient * scale).to(dtype)
            for gradient, dtype, needed in zip(ctx.saved_tensors, ctx.dtypes, ctx.needs_input_grad, strict=False)
        )
        return (*gradients, None, None, None, None, None, None)
