"""The attention contract on tensors small enough to compute by hand.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional as F

from chameleon_backends import (
    AttentionSpec,
    AttentionWeightsBackend,
    ConfigError,
    UnsupportedAttentionError,
    get_attention_backend,
    visible_keys,
    visible_ranges,
)
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.backends.sdpa import SDPAAttention
from chameleon_backends.testing import attention_specs

BACKENDS = pytest.mark.parametrize("name", ["eager", "sdpa", "flash", "flex"])


def spec(query_length: int = 3, key_length: int = 3, **fields: Any) -> AttentionSpec:
    plain: dict[str, Any] = {
        "batch_size": 1,
        "num_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    return AttentionSpec(query_length=query_length, key_length=key_length, **(plain | fields))


def seen(request: AttentionSpec, row: int = 0) -> list[str]:
    """Return the mask as text: a line for each query, a 1 for each key that it sees."""
    return ["".join(str(int(key)) for key in query) for query in visible_keys(request)[row]]


def attend_to_numbers(name: str, request: AttentionSpec) -> list[list[float]]:
    """Return each query's mean of the numbers 1, 2, 3, … of its visible keys: queries of zeros weight them equally."""
    backend = get_attention_backend(name)
    query_BTHD = torch.zeros(request.batch_size, request.query_length, 1, 2)
    key_BSKD = torch.randn(request.batch_size, request.key_length, 1, 2)
    value_BSKD = torch.arange(1.0, request.key_length + 1)[None, :, None, None].expand_as(key_BSKD).contiguous()
    out_BTHD = backend.attend(query_BTHD, key_BSKD, value_BSKD, backend.plan(request), scale=1.0)
    return out_BTHD[:, :, 0, 0].tolist()


class TestVisibleKeys:
    def test_without_rules_every_query_sees_every_key(self) -> None:
        assert seen(spec(2, 3, causal=False)) == ["111", "111"]

    def test_causal_sees_itself_and_what_is_before(self) -> None:
        assert seen(spec(3, 3)) == ["100", "110", "111"]

    def test_causal_is_aligned_to_the_last_key(self) -> None:
        assert seen(spec(2, 4)) == ["1110", "1111"]
        assert seen(spec(1, 4)) == ["1111"]

    def test_the_first_of_more_queries_than_keys_see_nothing(self) -> None:
        assert seen(spec(4, 2)) == ["00", "00", "10", "11"]

    def test_padding_is_an_interval_of_each_row(self) -> None:
        request = spec(
            2, 4, batch_size=2, causal=False, key_start_B=torch.tensor([1, 0]), key_end_B=torch.tensor([4, 2])
        )
        assert seen(request, row=0) == ["0111", "0111"]
        assert seen(request, row=1) == ["1100", "1100"]

    def test_a_query_that_is_padding_on_the_left_sees_nothing(self) -> None:
        assert seen(spec(3, 3, key_start_B=torch.tensor([1]))) == ["000", "010", "011"]

    def test_a_row_may_be_all_padding(self) -> None:
        assert seen(spec(2, 2, key_end_B=torch.tensor([0]))) == ["00", "00"]

    def test_documents_are_apart(self) -> None:
        documents = torch.tensor([[7, 7, 3, 3, 3]])
        assert seen(spec(5, 5, document_ids_BS=documents)) == ["10000", "11000", "00100", "00110", "00111"]
        assert seen(spec(2, 5, document_ids_BS=documents, causal=False)) == ["00111", "00111"]

    def test_the_window_counts_the_query_itself(self) -> None:
        assert seen(spec(4, 4, sliding_window=1)) == ["1000", "0100", "0010", "0001"]
        assert seen(spec(4, 4, sliding_window=2)) == ["1000", "1100", "0110", "0011"]

    def test_the_window_has_two_sides_where_attention_is_not_causal(self) -> None:
        assert seen(spec(4, 4, sliding_window=2, causal=False)) == ["1100", "1110", "0111", "0011"]

    def test_rows_that_are_alike_share_one_mask(self) -> None:
        assert visible_keys(spec(batch_size=3)).shape == (1, 3, 3)
        assert visible_keys(spec(batch_size=3, key_start_B=torch.tensor([0, 1, 2]))).shape == (3, 3, 3)


class TestVisibleRanges:
    @given(attention_specs())
    @settings(max_examples=200, derandomize=True, deadline=None, database=None)
    def test_they_are_the_visible_keys(self, request_: AttentionSpec) -> None:
        ranges, key_S = visible_ranges(request_), torch.arange(request_.key_length)
        seen_BTS = (ranges.first_BT[..., None] <= key_S) & (key_S < ranges.end_BT[..., None])
        assert torch.equal(seen_BTS, visible_keys(request_).expand_as(seen_BTS))

    def test_a_documents_range_is_its_own(self) -> None:
        request = spec(3, 5, document_ids_BS=torch.tensor([[7, 7, 3, 3, 9]]), causal=False)
        ranges = visible_ranges(request)
        assert ranges.first_BT.tolist() == [[2, 2, 4]]
        assert ranges.end_BT.tolist() == [[4, 4, 5]]


@BACKENDS
@pytest.mark.usefixtures("untraced_flex")
class TestAttend:
    def test_equal_scores_give_the_mean_of_what_is_seen(self, name: str) -> None:
        assert attend_to_numbers(name, spec(3, 3)) == [[1.0, 1.5, 2.0]]
        assert attend_to_numbers(name, spec(2, 4)) == [[2.0, 2.5]]
        assert attend_to_numbers(name, spec(1, 4)) == [[2.5]]

    def test_padding_on_either_side_is_left_out(self, name: str) -> None:
        request = spec(3, 3, batch_size=2, key_start_B=torch.tensor([1, 0]), key_end_B=torch.tensor([3, 2]))
        assert attend_to_numbers(name, request) == [[0.0, 2.0, 2.5], [1.0, 1.5, 1.5]]

    def test_one_new_token_leaves_the_padding_out(self, name: str) -> None:
        request = spec(1, 4, batch_size=2, key_start_B=torch.tensor([2, 0]))
        assert attend_to_numbers(name, request) == [[3.5], [2.5]]

    def test_packed_documents_are_apart(self, name: str) -> None:
        request = spec(4, 4, document_ids_BS=torch.tensor([[0, 0, 1, 1]]))
        assert attend_to_numbers(name, request) == [[1.0, 1.5, 3.0, 3.5]]

    def test_a_window_slides(self, name: str) -> None:
        assert attend_to_numbers(name, spec(1, 4, sliding_window=2)) == [[3.5]]
        request = spec(4, 4, sliding_window=2)
        if name == "flash":  # torch's kernel, which runs here, has none
            with pytest.raises(UnsupportedAttentionError, match="no sliding window"):
                attend_to_numbers(name, request)
        else:
            assert attend_to_numbers(name, request) == [[1.0, 1.5, 2.5, 3.5]]

    def test_a_row_without_keys_gives_zeros(self, name: str) -> None:
        assert attend_to_numbers(name, spec(2, 2, key_start_B=torch.tensor([2]))) == [[0.0, 0.0]]
        assert attend_to_numbers(name, spec(3, 1)) == [[0.0, 0.0, 1.0]]

    def test_weights_are_the_softmax_of_the_scaled_products(self, name: str) -> None:
        # Scores 0 and 0.5 * 2 log 3 = log 3, so weights 1/4 and 3/4.
        backend = get_attention_backend(name)
        query_BTHD = torch.tensor([[[[1.0, 0.0]]]])
        key_BSKD = torch.tensor([[[[0.0, 5.0]], [[2 * math.log(3), 9.0]]]])
        value_BSKD = torch.tensor([[[[4.0, 0.0]], [[0.0, 4.0]]]])
        out_BTHD = backend.attend(query_BTHD, key_BSKD, value_BSKD, backend.plan(spec(1, 2)), scale=0.5)
        torch.testing.assert_close(out_BTHD, torch.tensor([[[[1.0, 3.0]]]]))

    @pytest.mark.parametrize("query_length", [1, 2])
    def test_query_heads_share_key_value_heads_in_order(self, name: str, query_length: int) -> None:
        backend = get_attention_backend(name)
        request = spec(query_length, 2, num_heads=4, num_key_value_heads=2)
        value_BSKD = torch.tensor([10.0, 20.0])[None, None, :, None].expand(1, 2, 2, 2).contiguous()
        out_BTHD = backend.attend(
            torch.randn(1, query_length, 4, 2), torch.randn(1, 2, 2, 2), value_BSKD, backend.plan(request), scale=1.0
        )
        torch.testing.assert_close(out_BTHD[0, :, :, 0], torch.tensor([[10.0, 10.0, 20.0, 20.0]] * query_length))


class TestEagerWeights:
    def test_weights_are_returned_before_dropout(self) -> None:
        backend = EagerAttention()
        assert isinstance(backend, AttentionWeightsBackend)
        zeros_BTHD = torch.zeros(1, 3, 1, 2)
        weights_BHTS = backend.attention_weights(zeros_BTHD, zeros_BTHD, backend.plan(spec(dropout=True)), scale=1.0)
        third = 1 / 3
        expected = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [third, third, third]]]])
        torch.testing.assert_close(weights_BHTS, expected)

    def test_weights_of_bfloat16_are_float32(self) -> None:
        backend = EagerAttention()
        tensor_BTHD = torch.randn(1, 3, 1, 2, dtype=torch.bfloat16)
        weights_BHTS = backend.attention_weights(tensor_BTHD, tensor_BTHD, backend.plan(spec()), scale=1.0)
        assert weights_BHTS.dtype == torch.float32

    def test_sdpa_has_no_weights_to_return(self) -> None:
        assert not isinstance(SDPAAttention(), AttentionWeightsBackend)


class TestSDPAPlan:
    """Masks cost time: none is made where the kernel needs none."""

    @pytest.mark.parametrize(
        ("request_", "is_causal"),
        [
            pytest.param(spec(3, 3), True, id="prompt"),
            pytest.param(spec(1, 9), False, id="one new token"),
            pytest.param(spec(1, 1), False, id="first token"),
            pytest.param(spec(2, 9, causal=False), False, id="not causal"),
            pytest.param(spec(3, 3, sliding_window=3), True, id="window as long as the keys"),
        ],
    )
    def test_no_mask_is_made_where_the_kernel_needs_none(self, request_: AttentionSpec, is_causal: bool) -> None:
        plan = SDPAAttention().plan(request_)
        assert plan.mask_B1TS is None
        assert plan.empty_BT11 is None
        assert plan.is_causal is is_causal

    def test_a_mask_broadcasts_over_heads_and_over_rows_that_are_alike(self) -> None:
        def shape(request: AttentionSpec) -> tuple[int, ...]:
            mask = SDPAAttention().plan(request).mask_B1TS
            assert mask is not None
            return tuple(mask.shape)

        assert shape(spec(2, 4, batch_size=3, num_heads=8)) == (1, 1, 2, 4)
        assert shape(spec(1, 4, batch_size=3, num_heads=8, key_start_B=torch.tensor([0, 1, 2]))) == (3, 1, 1, 4)

    def test_grouped_heads_are_never_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen_shapes: list[tuple[int, ...]] = []
        kernel = F.scaled_dot_product_attention

        def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
            seen_shapes.append(tuple(key.shape))
            return kernel(query, key, value, **options)

        monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
        for query_length in (1, 4):
            backend = SDPAAttention()
            request = spec(query_length, 4, num_heads=6, num_key_value_heads=2)
            key_BSKD = torch.randn(1, 4, 2, 2)
            query_BTHD = torch.randn(1, query_length, 6, 2)
            backend.attend(query_BTHD, key_BSKD, key_BSKD, backend.plan(request), scale=1.0)
        assert seen_shapes == [(1, 2, 4, 2), (1, 2, 4, 2)]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_single_query_of_any_dtype_gives_one_answer(self, dtype: torch.dtype) -> None:
        backend = SDPAAttention()
        request = spec(1, 5, num_heads=2, num_key_value_heads=2, dtype=dtype)
        query_BTHD, key_BSKD = torch.randn(1, 1, 2, 2, dtype=dtype), torch.randn(1, 5, 2, 2, dtype=dtype)
        assert backend.attend(query_BTHD, key_BSKD, key_BSKD, backend.plan(request), scale=1.0).shape == (1, 1, 2, 2)


class TestSpec:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"query_length": 0}, "query_length is 0; it must be an integer ≥ 1"),
            ({"head_dim": -1}, "head_dim is -1"),
            ({"num_heads": 6, "num_key_value_heads": 4}, r"num_heads \(6\) must be a multiple of .* \(4\)"),
            ({"sliding_window": 0}, "sliding_window is 0; it must be an integer ≥ 1, or None for all keys"),
            ({"key_start_B": torch.zeros(2, dtype=torch.int64)}, r"key_start_B .* shape \(2,\); .* shape \(1,\)"),
            ({"key_end_B": torch.zeros(1)}, "key_end_B is torch.float32 .* must be int64"),
            ({"document_ids_BS": torch.zeros(1, 4, dtype=torch.int64)}, "document_ids_BS"),
            (
                {"query_length": 4, "document_ids_BS": torch.zeros(1, 3, dtype=torch.int64)},
                r"query_length \(4\) is above key_length \(3\)",
            ),
        ],
    )
    def test_an_impossible_request_is_an_error_that_names_the_field(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            spec(**fields)

    def test_a_spec_can_not_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            spec().causal = False  # type: ignore[misc]
