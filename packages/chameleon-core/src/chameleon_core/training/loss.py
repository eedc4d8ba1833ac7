"""The loss of training: cross-entropy and z-loss over the same targets.

Shapes: M positions that have a target, m positions of a chunk of them, V vocabulary, E hidden width.
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
    """Scalar: the weighted sum over all targets of cross-entropy + z_loss · log²Z. Only this has gradients."""
    cross_entropy_M: Tensor
    """In nats, unweighted."""
    log_normalizer_M: Tensor
    """log Z: the logarithm of the sum of the exponentials of a position's logits."""


def target_loss(
    hidden_ME: Tensor,
    weight_VE: Tensor,
    targets_M: Tensor,
    *,
    z_loss: float,
    importance_M: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> TargetLoss:
    """Return the cross-entropy and z-loss (Chameleon paper, section 2.3) of an output layer without bias.

    ``hidden_ME`` are the normed hidden states before each of ``targets_M`` (int64); ``importance_M`` weights both terms
    of each target (None: all by 1). Logits are computed ``chunk_size`` positions at a time, in autocast's dtype if it
    is enabled, and their statistics in float32 (float64 for float64 input), so that M × V logits never exist together.
    Their gradients are computed in the forward pass, which saves the backward pass a second product.
    """
    compute_dtype = hidden_ME.dtype
    device_type = hidden_ME.device.type
    if torch.is_autocast_enabled(device_type):
        compute_dtype = torch.get_autocast_dtype(device_type)
    hidden_ME, weight_VE = hidden_ME.to(compute_dtype), weight_VE.to(compute_dtype)
    if not torch.is_grad_enabled():
        # Within a Function gradients are always disabled, so it couldn't see that none are needed.
        hidden_ME, weight_VE = hidden_ME.detach(), weight_VE.detach()
    if importance_M is None:
        importance_M = torch.ones_like(targets_M, dtype=torch.float32)
    return TargetLoss(
        *_TargetLoss.apply(hidden_ME, weight_VE, targets_M, importance_M, z_loss, chunk_size)  # type: ignore[no-untyped-call]
    )


class _TargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: Tensor,
        weight_VE: Tensor,
        targets_M: Tensor,
        importance_M: Tensor,
        z_loss: float,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        statistics_dtype = torch.promote_types(hidden_ME.dtype, torch.float32)
        importance_M = importance_M.to(statistics_dtype)
        cross_entropy_M = hidden_ME.new_empty(len(targets_M), dtype=statistics_dtype)
        log_normalizer_M = torch.empty_like(cross_entropy_M)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_gradient_ME = torch.empty_like(hidden_ME) if needs_hidden else None
        # Summed over many chunks, so in float32 whatever the type of the products.
        weight_gradient_VE = torch.zeros_like(weight_VE, dtype=statistics_dtype) if needs_weight else None
        for start in range(0, len(targets_M), chunk_size):
            chunk = slice(start, start + chunk_size)
            targets_m1 = targets_M[chunk, None]
            logits_mV = F.linear(hidden_ME[chunk], weight_VE).to(statistics_dtype)
            log_normalizer_m1 = logits_mV.logsumexp(dim=-1, keepdim=True)
            log_normalizer_M[chunk] = log_normalizer_m1[:, 0]
            cross_entropy_M[chunk] = (log_normalizer_m1 - logits_mV.gather(1, targets_m1))[:, 0]
            if not (needs_hidden or needs_weight):
                continue
            # d(CE)/d(logits) = p - onehot and d(log²Z)/d(logits) = 2 log Z · p; both reuse the memory of the logits.
            gradient_mV = logits_mV.sub_(log_normalizer_m1).exp_()
            gradient_mV.mul_(1 + 2 * z_loss * log_normalizer_m1)
            gradient_mV.scatter_add_(1, targets_m1, gradient_mV.new_full((len(targets_m1), 1), -1.0))
            gradient_mV = gradient_mV.mul_(importance_M[chunk, None]).to(hidden_ME.dtype)
            if hidden_gradient_ME is not None:
                hidden_gradient_ME[chunk] = gradient_mV @ weight_VE
            if weight_gradient_VE is not None:
                weight_gradient_VE += gradient_mV.T @ hidden_ME[chunk]
        if weight_gradient_VE is not None:
            weight_gradient_VE = weight_gradient_VE.to(weight_VE.dtype)
        ctx.save_for_backward(hidden_gradient_ME, weight_gradient_VE)
        ctx.mark_non_differentiable(cross_entropy_M, log_normalizer_M)
        total = (importance_M * (cross_entropy_M + z_loss * log_normalizer_M.square())).sum()
        return total, cross_entropy_M, log_normalizer_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden_gradient_ME, weight_gradient_VE = ctx.saved_tensors
        return (
            None if hidden_gradient_ME is None else hidden_gradient_ME * scale,
            None if weight_gradient_VE is None else weight_gradient_VE * scale,
            None,
            None,
            None,
            None,
        )
