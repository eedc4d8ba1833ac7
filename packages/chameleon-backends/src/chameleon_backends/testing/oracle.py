"""The right answer to a problem, from the ``eager`` backend in float64.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..attention import AttentionBackend
from ..backends.eager import EagerAttention
from .strategies import AttentionProblem
from .tolerances import assert_close


@dataclass(frozen=True)
class Answer:
    """The output of attention for a problem, and its gradients; None where the request doesn't require them."""

    out_BTHD: torch.Tensor
    query_grad_BTHD: torch.Tensor | None = None
    key_grad_BSKD: torch.Tensor | None = None
    value_grad_BSKD: torch.Tensor | None = None


def answer(backend: AttentionBackend, problem: AttentionProblem) -> Answer:
    """Return a backend's output, and its gradients where the request says ``requires_grad``."""
    query_BTHD, key_BSKD, value_BSKD = problem.query_BTHD, problem.key_BSKD, problem.value_BSKD
    prepared = backend.plan(problem.spec)
    if not problem.spec.requires_grad:
        return Answer(backend.attend(query_BTHD, key_BSKD, value_BSKD, prepared, scale=problem.scale))
    leaves = [tensor.detach().requires_grad_() for tensor in (query_BTHD, key_BSKD, value_BSKD)]
    out_BTHD = backend.attend(leaves[0], leaves[1], leaves[2], prepared, scale=problem.scale)
    return Answer(out_BTHD.detach(), *torch.autograd.grad(out_BTHD, leaves, problem.out_grad_BTHD))


def assert_equals_oracle(actual: Answer, problem: AttentionProblem) -> None:
    """Raise ``AssertionError`` unless the output, and each gradient that isn't None, is within its tolerance."""
    exact = replace(
        problem,
        spec=replace(problem.spec, dtype=torch.float64),
        query_BTHD=problem.query_BTHD.double(),
        key_BSKD=problem.key_BSKD.double(),
        value_BSKD=problem.value_BSKD.double(),
        out_grad_BTHD=problem.out_grad_BTHD.double(),
    )
    expected, terms = answer(EagerAttention(), exact), _absolute_terms(exact)
    for name in ("out_BTHD", "query_grad_BTHD", "key_grad_BSKD", "value_grad_BSKD"):
        if getattr(actual, name) is not None:
            assert_close(name, getattr(actual, name), getattr(expected, name), getattr(terms, name), problem.spec.dtype)


def _absolute_terms(problem: AttentionProblem) -> Answer:
    """Return the sum of the absolute terms of each element of the answer, which rounding errors are relative to."""
    oracle, spec = EagerAttention(), problem.spec
    group = spec.num_heads // spec.num_key_value_heads
    plan = oracle.plan(spec)
    weights_BHTS = oracle.attention_weights(problem.query_BTHD, problem.key_BSKD, plan, scale=problem.scale)
    query_BTHD, out_grad_BTHD = problem.query_BTHD.abs(), problem.out_grad_BTHD.abs()
    key_BSHD = problem.key_BSKD.abs().repeat_interleave(group, dim=2)
    value_BSHD = problem.value_BSKD.abs().repeat_interleave(group, dim=2)
    out_BTHD = torch.einsum("bhts,bshd->bthd", weights_BHTS, value_BSHD)
    # The score's gradient is weight * (weight's gradient - out . out's gradient).
    weights_grad_BHTS = torch.einsum("bthd,bshd->bhts", out_grad_BTHD, value_BSHD)
    mean_BHT = torch.einsum("bthd,bthd->bht", out_grad_BTHD, out_BTHD)
    scores_grad_BHTS = problem.scale * weights_BHTS * (weights_grad_BHTS + mean_BHT[..., None])

    def by_group(tensor_BSHD: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(tensor_BSHD, 2, (spec.num_key_value_heads, group)).sum(dim=3)

    return Answer(
        out_BTHD,
        torch.einsum("bhts,bshd->bthd", scores_grad_BHTS, key_BSHD),
        by_group(torch.einsum("bhts,bthd->bshd", scores_grad_BHTS, query_BTHD)),
        by_group(torch.einsum("bhts,bthd->bshd", weights_BHTS, out_grad_BTHD)),
    )
