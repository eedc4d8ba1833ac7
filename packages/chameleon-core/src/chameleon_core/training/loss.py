"""The loss of training: cross-entropy and z-loss over the same targets.

Shapes: M positions that have a target, m positions of a chunk of them, b positions of a block of a chunk, V vocabulary,
E hidden width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# The logits of a chunk: on a CPU 512 positions × 65,536 ids in float32, or 1,024 in bfloat16. Each chunk adds to the
# gradient of the whole weight, which takes the larger share of the time the faster the products are.
CHUNK_BYTES = 2**27
CHUNK_BYTES_OF_ACCELERATORS = 2**29
# The statistics of a block are computed in a processor's cache, but in few calls: each waits for all threads.
BLOCK_ELEMENTS = 2**22
BLOCK_ELEMENTS_OF_ACCELERATORS = 2**27


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
    chunk_size: int | None = None,
) -> TargetLoss:
    """Return the cross-entropy and z-loss (Chameleon paper, section 2.3) of an output layer without bias.

    ``hidden_ME`` are the normed hidden states before each of ``targets_M`` (int64); ``importance_M`` weights both terms
    of each target (None: all by 1). Logits are computed ``chunk_size`` positions at a time (None: as many as take 128
    MiB, or 512 MiB on a GPU), in autocast's dtype if it is enabled, and their statistics in float32 (float64 for
    float64 input), so that M × V logits never exist together. Their gradients are computed in the forward pass, which
    saves the backward pass a second product.
    """
    compute_dtype = product_dtype(hidden_ME)
    if not torch.is_grad_enabled():
        # Within a Function gradients are always disabled, so it couldn't see that none are needed.
        hidden_ME, weight_VE = hidden_ME.detach(), weight_VE.detach()
    importance_M = importances(importance_M, targets_M, compute_dtype)
    size = chunk_size or chunk_size_of(len(weight_VE), compute_dtype, hidden_ME.device)
    # What is computed below has its dtype already.
    with torch.autocast(hidden_ME.device.type, enabled=False):
        return TargetLoss(
            *_TargetLoss.apply(  # type: ignore[no-untyped-call]
                hidden_ME, weight_VE, targets_M, importance_M, z_loss, size, compute_dtype
            )
        )


def layer_loss(
    hidden_ME: Tensor,
    layer: nn.Module,
    targets_M: Tensor,
    *,
    z_loss: float,
    importance_M: Tensor | None = None,
    chunk_size: int | None = None,
) -> TargetLoss:
    """Return what ``target_loss`` does, of an output layer that is more than a weight: wrapped, adapted or quantized.

    The layer is called with ``chunk_size`` positions at a time, and again in the backward pass, so that M × V logits
    never exist together.
    """
    compute_dtype = product_dtype(hidden_ME)
    importance_M = importances(importance_M, targets_M, compute_dtype)
    parts = []
    for start in range(0, max(1, len(targets_M)), chunk_size or 512):
        chunk = slice(start, start + (chunk_size or 512))
        arguments = (layer, hidden_ME[chunk], targets_M[chunk], importance_M[chunk], z_loss)
        parts.append(checkpoint(_called, *arguments, use_reentrant=False))
    totals, cross_entropies, log_normalizers = zip(*parts, strict=True)
    return TargetLoss(
        torch.stack(totals).sum(), torch.cat(cross_entropies).detach(), torch.cat(log_normalizers).detach()
    )


def _called(layer: nn.Module, hidden_mE: Tensor, targets_m: Tensor, importance_m: Tensor, z_loss: float) -> TargetLoss:
    logits_mV = layer(hidden_mE).to(importance_m.dtype)
    log_normalizer_m = logits_mV.logsumexp(dim=-1)
    cross_entropy_m = log_normalizer_m - logits_mV.gather(1, targets_m[:, None])[:, 0]
    total = (importance_m * (cross_entropy_m + z_loss * log_normalizer_m.square())).sum()
    return TargetLoss(total, cross_entropy_m, log_normalizer_m)


def product_dtype(hidden_ME: Tensor) -> torch.dtype:
    device_type = hidden_ME.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_ME.dtype


def importances(importance_M: Tensor | None, targets_M: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """Return the weight of each target, in the dtype of the statistics."""
    given_M = torch.ones_like(targets_M) if importance_M is None else importance_M
    return given_M.to(torch.promote_types(compute_dtype, torch.float32))


def chunk_size_of(vocab_size: int, dtype: torch.dtype, device: torch.device) -> int:
    size = CHUNK_BYTES if device.type == "cpu" else CHUNK_BYTES_OF_ACCELERATORS
    return max(1, size // (vocab_size * dtype.itemsize))


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
        compute_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtypes = hidden_ME.dtype, weight_VE.dtype
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_ME, weight_VE = hidden_ME.to(compute_dtype), weight_VE.to(compute_dtype)
        cross_entropy_M, log_normalizer_M = torch.empty_like(importance_M), torch.empty_like(importance_M)
        hidden_gradient_ME = torch.empty_like(hidden_ME) if needs_hidden else None
        # Summed over many chunks, so in float32 whatever the type of the products.
        weight_gradient_VE = torch.zeros_like(weight_VE, dtype=importance_M.dtype) if needs_weight else None
        # One buffer for the logits of all chunks: fresh memory costs more than the arithmetic.
        logits_MV = hidden_ME.new_empty(min(chunk_size, len(targets_M)), len(weight_VE))
        for start in range(0, len(targets_M), chunk_size):
            chunk = slice(start, start + chunk_size)
            hidden_mE = hidden_ME[chunk]
            logits_mV = torch.mm(hidden_mE, weight_VE.T, out=logits_MV[: len(hidden_mE)])
            # From here on the buffer holds the gradients of the logits.
            _replace_logits(
                logits_mV,
                targets_M[chunk, None],
                importance_M[chunk, None],
                z_loss,
                cross_entropy_m1=cross_entropy_M[chunk, None],
                log_normalizer_m1=log_normalizer_M[chunk, None],
                with_gradients=needs_hidden or needs_weight,
            )
            if hidden_gradient_ME is not None:
                torch.mm(logits_mV, weight_VE, out=hidden_gradient_ME[chunk])
            if weight_gradient_VE is not None and compute_dtype == weight_gradient_VE.dtype:
                weight_gradient_VE.addmm_(logits_mV.T, hidden_mE)
            elif weight_gradient_VE is not None:
                weight_gradient_VE += logits_mV.T @ hidden_mE
        ctx.save_for_backward(hidden_gradient_ME, weight_gradient_VE)
        ctx.mark_non_differentiable(cross_entropy_M, log_normalizer_M)
        total = (importance_M * (cross_entropy_M + z_loss * log_normalizer_M.square())).sum()
        return total, cross_entropy_M, log_normalizer_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*gradients, None, None, None, None, None)


def _replace_logits(
    logits_mV: Tensor,
    targets_m1: Tensor,
    importance_m1: Tensor,
    z_loss: float,
    *,
    cross_entropy_m1: Tensor,
    log_normalizer_m1: Tensor,
    with_gradients: bool,
) -> None:
    """Fill in the statistics of logits and replace the logits by their gradients, a block of positions at a time.

    d(CE)/d(logits) = p - onehot and d(log²Z)/d(logits) = 2 log Z · p.
    """
    of_accelerator = logits_mV.device.type != "cpu"
    elements = BLOCK_ELEMENTS_OF_ACCELERATORS if of_accelerator else BLOCK_ELEMENTS
    size = max(1, elements // logits_mV.shape[1])
    statistics_dtype = importance_m1.dtype
    scratch_bV = None
    if logits_mV.dtype != statistics_dtype:
        scratch_bV = torch.empty_like(logits_mV[:size], dtype=statistics_dtype)
    for start in range(0, len(logits_mV), size):
        block = slice(start, start + size)
        logits_bV, targets_b1 = logits_mV[block], targets_m1[block]
        values_bV = logits_bV if scratch_bV is None else scratch_bV[: len(logits_bV)].copy_(logits_bV)
        target_logits_b1 = values_bV.gather(1, targets_b1)
        torch.log_softmax(values_bV, -1, out=values_bV)
        log_probabilities_b1 = values_bV.gather(1, targets_b1)
        cross_entropy_m1[block] = -log_probabilities_b1
        log_normalizer_m1[block] = target_logits_b1 - log_probabilities_b1
        if with_gradients:
            values_bV.exp_().mul_((1 + 2 * z_loss * log_normalizer_m1[block]) * importance_m1[block])
            values_bV.scatter_add_(1, targets_b1, -importance_m1[block])
            if scratch_bV is not None:
                logits_bV.copy_(values_bV)
