"""Hypothesis strategies for attention: requests, and requests with tensors.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ..attention import AttentionSpec

HEAD_DIMS = (16, 32, 64, 80, 128, 256)
DTYPES = (torch.float32, torch.bfloat16)
# Mostly short, where off-by-one mistakes show best; and lengths around the block sizes of kernels.
LENGTHS = st.one_of(st.integers(2, 9), st.sampled_from((1, 16, 33, 65, 130)))

QUERIES = ("some", "all", "one")
"""How many queries: not as many as keys, as many (a prompt), or one (a new token). Backends treat these differently."""

# The same examples in each run, and no time limit: the first call of a kernel may compile it.
LAWS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True)
class AttentionProblem:
    """A request with tensors that fit it. ``out_grad_BTHD`` is the gradient of the output."""

    spec: AttentionSpec
    query_BTHD: torch.Tensor
    key_BSKD: torch.Tensor
    value_BSKD: torch.Tensor
    out_grad_BTHD: torch.Tensor
    scale: float

    def to(self, device: torch.device | str) -> AttentionProblem:
        """Return the problem on another device."""
        tensors = {
            each.name: getattr(self.spec, each.name).to(device)
            for each in fields(self.spec)
            if isinstance(getattr(self.spec, each.name), torch.Tensor)
        }
        return replace(
            self,
            spec=replace(self.spec, device=torch.device(device), **tensors),
            query_BTHD=self.query_BTHD.to(device),
            key_BSKD=self.key_BSKD.to(device),
            value_BSKD=self.value_BSKD.to(device),
            out_grad_BTHD=self.out_grad_BTHD.to(device),
        )

    def __repr__(self) -> str:
        """Return the request; the numbers would be noise."""
        return f"AttentionProblem({self.spec}, scale={self.scale})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print a failing example for hypothesis."""
        printer.text(repr(self))


@st.composite
def attention_specs(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    queries: str | None = None,
    causal: bool | None = None,
    padding: bool | None = None,
    documents: bool | None = None,
    window: bool | None = None,
    requires_grad: bool = False,
) -> AttentionSpec:
    """Draw requests on the CPU. A rule that is None is drawn, too: some requests have it, some don't.

    ``queries`` is one of ``QUERIES``, or None for any of them. Padding is on the left, on the right or on both sides,
    and may leave a row without any key.
    """

    def has(rule: bool | None) -> bool:
        return draw(st.booleans()) if rule is None else rule

    batch_size, key_length = draw(st.integers(1, 3)), draw(LENGTHS)
    with_documents = has(documents)
    if queries is None:
        queries = draw(st.sampled_from(QUERIES))
    query_length = {"all": key_length, "one": 1}.get(queries)
    if query_length is None:
        # With documents, each query is one of the keys.
        lengths = st.integers(1, key_length) if with_documents else LENGTHS.filter(lambda length: length != key_length)
        query_length = draw(lengths)
    num_key_value_heads = draw(st.integers(1, 3))
    boundaries = st.lists(st.integers(0, key_length), min_size=batch_size, max_size=batch_size)
    sides = draw(st.sampled_from(("left", "right", "both"))) if has(padding) else ""
    starts, ends = draw(boundaries), draw(boundaries)
    return AttentionSpec(
        batch_size=batch_size,
        query_length=query_length,
        key_length=key_length,
        num_heads=num_key_value_heads * draw(st.integers(1, 4)),
        num_key_value_heads=num_key_value_heads,
        head_dim=draw(st.sampled_from(HEAD_DIMS)),
        dtype=draw(st.sampled_from(dtypes)),
        device=torch.device("cpu"),
        causal=has(causal),
        requires_grad=requires_grad,
        key_start_B=torch.tensor(starts) if sides in ("left", "both") else None,
        key_end_B=torch.tensor(ends) if sides in ("right", "both") else None,
        document_ids_BS=draw(_packed_documents(batch_size, key_length)) if with_documents else None,
        sliding_window=draw(st.integers(1, key_length + 1)) if has(window) else None,
    )


@st.composite
def _packed_documents(draw: st.DrawFn, batch_size: int, key_length: int) -> torch.Tensor:
    """Draw ``document_ids_BS``: documents one after another, beginning at drawn positions."""
    begins_BS = torch.zeros(batch_size, key_length, dtype=torch.int64)
    for row in range(batch_size):
        for position in draw(st.sets(st.integers(0, key_length - 1), max_size=3)):
            begins_BS[row, position] = 1
    return begins_BS.cumsum(dim=1)


@st.composite
def attention_problems(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    queries: str | None = None,
    causal: bool | None = None,
    padding: bool | None = None,
    documents: bool | None = None,
    window: bool | None = None,
    requires_grad: bool = False,
) -> AttentionProblem:
    """Draw requests as ``attention_specs`` does, with normally distributed tensors in one of three memory layouts."""
    spec = draw(
        attention_specs(
            dtypes=dtypes,
            queries=queries,
            causal=causal,
            padding=padding,
            documents=documents,
            window=window,
            requires_grad=requires_grad,
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = draw(st.sampled_from(("token-major", "head-major", "part of a cache")))
    # The usual scale keeps scores near 1; others show whether the scale is used.
    scale = spec.head_dim**-0.5 * draw(st.sampled_from((1.0, 0.5, 2.0)))
    return make_problem(spec, generator, layout=layout, scale=scale)


def make_problem(
    spec: AttentionSpec, generator: torch.Generator, *, layout: str = "token-major", scale: float = 0.125
) -> AttentionProblem:
    """Return normally distributed tensors for a request, drawn on the CPU."""

    def normal(length: int, heads: int) -> torch.Tensor:
        shape = (spec.batch_size, length, heads, spec.head_dim)
        return torch.randn(shape, generator=generator).to(spec.dtype)

    def laid_out(tensor_BSKD: torch.Tensor) -> torch.Tensor:
        if layout == "head-major":
            return tensor_BSKD.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "part of a cache":
            longer = tensor_BSKD.new_zeros(spec.batch_size, spec.key_length + 3, *tensor_BSKD.shape[2:])
            longer[:, : spec.key_length] = tensor_BSKD
            return longer[:, : spec.key_length]
        return tensor_BSKD

    problem = AttentionProblem(
        spec=spec,
        query_BTHD=normal(spec.query_length, spec.num_heads),
        key_BSKD=laid_out(normal(spec.key_length, spec.num_key_value_heads)),
        value_BSKD=laid_out(normal(spec.key_length, spec.num_key_value_heads)),
        out_grad_BTHD=normal(spec.query_length, spec.num_heads),
        scale=scale,
    )
    return problem.to(spec.device)
