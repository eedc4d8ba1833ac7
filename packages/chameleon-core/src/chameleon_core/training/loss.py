"""The loss of ids: cross-entropy and z-loss, both over the same targets.

Shapes: P positions that have a target, V vocabulary, E hidden width, c positions of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# 1,024 positions × 65,536 ids in float32 are 256 MiB; small vocabularies stay within a processor's cache.
CHUNK_SIZE = 1024


class TargetLoss(NamedTuple):
    """The loss of each target."""

    total: Tensor
    """Scalar: the weighed sum over all targets of cross-entropy + z_loss · log²Z. Only this passes gradients back."""
    cross_entropy_P: Tensor
    log_normalizer_P: Tensor
    """log Z: the logarithm of the sum of the exponentials of a position's logits."""


def target_loss(
    hidden_PE: Tensor,
    weight_VE: Tensor,
    targets_P: Tensor,
    *,
    z_loss: float,
    importance_P: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> TargetLoss:
    """Cross-entropy and z-loss (Chameleon, section 2.3) of an output layer without bias.

    ``hidden_PE`` are the normed hidden states before each of ``targets_P`` (int64); ``importance_P`` weighs both terms
    of each target, None: all alike. Logits are computed ``chunk_size`` positions at a time, in autocast's dtype where
    that is on, and their statistics in float32 (float64 for float64 input), so that P × V logits are never held at
    once. Their gradients are taken on the spot, which spares the backward pass a second product.
    """
    compute_dtype = hidden_PE.dtype
    device_type = hidden_PE.device.type
    if torch.is_autocast_enabled(device_type):
        compute_dtype = torch.get_autocast_dtype(device_type)
    hidden_PE, weight_VE = hidden_PE.to(compute_dtype), weight_VE.to(compute_dtype)
    if not torch.is_grad_enabled():
        # Inside of a Function gradients are always off, so it couldn't tell that nobody wants its own.
        hidden_PE, weight_VE = hidden_PE.detach(), weight_VE.detach()
    if importance_P is None:
        importance_P = torch.ones_like(targets_P, dtype=torch.float32)
    return TargetLoss(
        *_TargetLoss.apply(hidden_PE, weight_VE, targets_P, importance_P, z_loss, chunk_size)  # type: ignore[no-untyped-call]
    )


class _TargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_PE: Tensor,
        weight_VE: Tensor,
        targets_P: Tensor,
        importance_P: Tensor,
        z_loss: float,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        statistics_dtype = torch.promote_types(hidden_PE.dtype, torch.float32)
        importance_P = importance_P.to(statistics_dtype)
        cross_entropy_P = hidden_PE.new_empty(len(targets_P), dtype=statistics_dtype)
        log_normalizer_P = torch.empty_like(cross_entropy_P)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_gradient_PE = torch.empty_like(hidden_PE) if needs_hidden else None
        # Sums over many chunks: in float32 whatever the products are in.
        weight_gradient_VE = torch.zeros_like(weight_VE, dtype=statistics_dtype) if needs_weight else None
        for start in range(0, len(targets_P), chunk_size):
            chunk = slice(start, start + chunk_size)
            targets_c1 = targets_P[chunk, None]
            logits_cV = F.linear(hidden_PE[chunk], weight_VE).to(statistics_dtype)
            log_normalizer_c1 = logits_cV.logsumexp(dim=-1, keepdim=True)
            log_normalizer_P[chunk] = log_normalizer_c1[:, 0]
            cross_entropy_P[chunk] = (log_normalizer_c1 - logits_cV.gather(1, targets_c1))[:, 0]
            if not (needs_hidden or needs_weight):
                continue
            # d(CE)/d(logits) = p - onehot and d(log²Z)/d(logits) = 2 log Z · p; the logits make room for both.
            gradient_cV = logits_cV.sub_(log_normalizer_c1).exp_()
            gradient_cV.mul_(1 + 2 * z_loss * log_normalizer_c1)
            gradient_cV.scatter_add_(1, targets_c1, gradient_cV.new_full((len(targets_c1), 1), -1.0))
            gradient_cV = gradient_cV.mul_(importance_P[chunk, None]).to(hidden_PE.dtype)
            if hidden_gradient_PE is not None:
                hidden_gradient_PE[chunk] = gradient_cV @ weight_VE
            if weight_gradient_VE is not None:
                weight_gradient_VE += gradient_cV.T @ hidden_PE[chunk]
        if weight_gradient_VE is not None:
            weight_gradient_VE = weight_gradient_VE.to(weight_VE.dtype)
        ctx.save_for_backward(hidden_gradient_PE, weight_gradient_VE)
        ctx.mark_non_differentiable(cross_entropy_P, log_normalizer_P)
        total = (importance_P * (cross_entropy_P + z_loss * log_normalizer_P.square())).sum()
        return total, cross_entropy_P, log_normalizer_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden_gradient_PE, weight_gradient_VE = ctx.saved_tensors
        return (
            None if hidden_gradient_PE is None else hidden_gradient_PE * scale,
            None if weight_gradient_VE is None else weight_gradient_VE * scale,
            None,
            None,
            None,
            None,
        )
