"""The backend ``flex``: conformance, its block masks, and what it refuses.

Shapes: B batch, S key length, Q blocks of queries, N blocks of keys.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from chameleon_backends import (
    AttentionBackend,
    AttentionSpec,
    get_attention_backend,
    visible_keys,
    why_attention_unsupported,
)
from chameleon_backends.backends import flex
from chameleon_backends.testing import AttentionBackendConformance, attention_specs
from chameleon_backends.testing.oracle import answer, assert_equals_oracle
from chameleon_backends.testing.strategies import make_problem


@pytest.mark.usefixtures("untraced_flex")
class TestFlex(AttentionBackendConformance):
    backend_name = "flex"
    max_examples = 20


def spec(device: str = "cpu", **fields: Any) -> AttentionSpec:
    plain: dict[str, Any] = {"batch_size": 1, "query_length": 4, "key_length": 4, "num_heads": 1}
    plain |= {"num_key_value_heads": 1, "head_dim": 16, "dtype": torch.float32, "device": torch.device(device)}
    return AttentionSpec(**(plain | fields))


@pytest.mark.parametrize("lengths", [(5, 9), (1, 9)], ids=["a few new tokens", "a new token"])
def test_as_it_runs_it_equals_float64_eager(lengths: tuple[int, int]) -> None:
    """Traced, as outside these tests: with padding, documents, a window, grouped heads, and a cache."""
    documents_BS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1]])
    request = spec(
        batch_size=2,
        query_length=lengths[0],
        key_length=lengths[1],
        num_heads=4,
        num_key_value_heads=2,
        key_start_B=torch.tensor([0, 6]),
        document_ids_BS=documents_BS,
        sliding_window=4,
    )
    problem = make_problem(request, torch.Generator().manual_seed(0))
    assert_equals_oracle(answer(get_attention_backend("flex"), problem), problem)


class TestBlockMask:
    @given(attention_specs())
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    def test_it_is_the_one_that_torch_makes_of_the_dense_mask(self, request_: AttentionSpec) -> None:
        visible_BTS = visible_keys(request_).expand(request_.batch_size, -1, -1)
        lengths = (request_.query_length, request_.key_length)
        expected = create_block_mask(
            lambda row, head, query, key: visible_BTS[row, query, key],
            request_.batch_size,
            None,
            *lengths,
            device="cpu",
        )
        actual = flex.block_mask(request_)
        assert actual.seq_lengths == expected.seq_lengths
        assert torch.equal(actual.kv_num_blocks, expected.kv_num_blocks)
        assert torch.equal(actual.full_kv_num_blocks, expected.full_kv_num_blocks)
        assert torch.equal(actual.to_dense(), expected.to_dense())

    def test_packed_pictures_see_only_their_own_blocks(self) -> None:
        """Two documents, each a picture of 1,024 codes: 8 blocks and 8 blocks, causal within each."""
        documents_BS = torch.arange(2048)[None] // 1024
        mask = flex.block_mask(spec(query_length=2048, key_length=2048, document_ids_BS=documents_BS))
        within_a_picture_QN = torch.ones(8, 8).tril()
        assert torch.equal(mask.to_dense()[0, 0], torch.block_diag(within_a_picture_QN, within_a_picture_QN).int())
        assert mask.kv_num_blocks.eq(1).all()  # the diagonal; all others are visible in full

    def test_planning_reads_nothing_back_from_the_device(self) -> None:
        """Of a tensor on "meta" there is nothing to read."""
        numbers_B = torch.zeros(1, dtype=torch.int64, device="meta")
        documents_BS = torch.zeros(1, 4, dtype=torch.int64, device="meta")
        request = spec("meta", key_start_B=numbers_B, key_end_B=numbers_B, document_ids_BS=documents_BS)
        assert flex.block_mask(request).kv_num_blocks.device.type == "meta"


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Pretend that Triton is installed, or isn't."""
    return lambda there: monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(spec(requires_grad=True), "no gradients on a CPU: call it under torch.no_grad()", id="gradients"),
        pytest.param(spec("cuda", requires_grad=True), None, id="gradients on CUDA"),
        pytest.param(spec(dropout=True), "no dropout", id="dropout"),
        pytest.param(spec("cuda", head_dim=8), "widths ≥ 16, not torch.float32 of width 8", id="width"),
        pytest.param(spec("cuda", dtype=torch.float64), "not torch.float64", id="dtype"),
        pytest.param(spec("meta"), "not on 'meta'", id="device"),
    ],
)
def test_it_says_what_it_cannot_do(request_: AttentionSpec, reason: str | None, triton: Callable[[bool], None]) -> None:
    triton(True)
    found = why_attention_unsupported("flex", request_)
    assert found is None if reason is None else reason in str(found)


def test_on_cuda_it_needs_triton(triton: Callable[[bool], None]) -> None:
    triton(False)
    assert "isn't installed: pip install triton" in str(why_attention_unsupported("flex", spec("cuda")))
    assert why_attention_unsupported("flex", spec()) is None


class TestCompiling:
    @pytest.fixture
    def compiled(self, monkeypatch: pytest.MonkeyPatch, untraced_flex: None) -> Iterator[list[Callable[..., Tensor]]]:
        """Record what is compiled, by a compiler that changes nothing; on a CPU too."""
        functions: list[Callable[..., Tensor]] = []

        def compiler(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            functions.append(function)
            return flex._uncompiled

        monkeypatch.setattr(torch, "compile", compiler)
        flex._compiled.cache_clear()
        yield functions
        flex._compiled.cache_clear()

    @staticmethod
    def attend(backend: AttentionBackend) -> None:
        tensor_BTHD = torch.zeros(1, 4, 1, 16)
        backend.attend(tensor_BTHD, tensor_BTHD, tensor_BTHD, backend.plan(spec()), scale=1.0)

    def test_the_kernel_is_compiled_once_where_it_is_compiled(
        self, compiled: list[Callable[..., Tensor]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flex, "COMPILED_ON", ("cpu",))
        for backend in (get_attention_backend("flex"), get_attention_backend("flex")):
            self.attend(backend)
            self.attend(backend)
        assert compiled == [flex.flex_attention]

    def test_nothing_is_compiled_on_a_cpu(self, compiled: list[Callable[..., Tensor]]) -> None:
        self.attend(get_attention_backend("flex"))
        assert compiled == []
