"""The conformance suite for attention backends: the contract of ``AttentionBackend`` as laws.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ..attention import AttentionBackend, AttentionBackendSpec, AttentionSpec
from ..backends.eager import EagerAttention
from ..errors import UnsupportedAttentionError
from ..masks import visible_keys
from ..registry import ATTENTION_BACKENDS_HOOK, REGISTRY
from .conformance import Conformance
from .oracle import Answer, answer, assert_equals_oracle
from .strategies import DTYPES, LAWS, QUERIES, AttentionProblem, attention_problems, make_problem
from .tolerances import TOLERANCES, assert_close

MIN_EXAMPLES = 20
"""The fewest examples that still fail the wrong backends that this suite is tested with."""
# What replaces keys and values that must have no influence: finite in each dtype, and so is its square.
GARBAGE = 200.0


def for_all(
    *problems: st.SearchStrategy[AttentionProblem], examples: int = 25
) -> Callable[[Callable[[Any, AttentionBackend, AttentionProblem], None]], Callable[[Any, AttentionBackend], None]]:
    """Turn a law about one problem into a test of drawn problems, as many of each strategy.

    Requests that the backend refuses are passed over; where it refuses all, the test is skipped with its reason.
    """

    def decorate(
        law: Callable[[Any, AttentionBackend, AttentionProblem], None],
    ) -> Callable[[Any, AttentionBackend], None]:
        def test(self: Any, backend: AttentionBackend) -> None:
            refusals: list[str] = []
            served = 0

            def holds(problem: AttentionProblem) -> None:
                nonlocal served
                try:
                    law(self, backend, problem.to(self.device))
                    served += 1
                except UnsupportedAttentionError as refusal:
                    refusals.append(str(refusal))

            share = -(-min(examples, self.max_examples) // len(problems))
            for strategy in problems:
                settings(LAWS, max_examples=share)(given(strategy)(holds))()
            if not served:
                pytest.skip(f"the backend refuses every request of this law: {refusals[0]}")

        test.__name__, test.__qualname__, test.__doc__ = law.__name__, law.__qualname__, law.__doc__
        return test

    return decorate


class AttentionBackendConformance(Conformance):
    """The contract of ``AttentionBackend`` as tests. Derive from it and name the backend::

        class TestAcme(AttentionBackendConformance):
            backend_name = "acme"

    The backend is looked up by its name, so its plugin must be installed. To test one that isn't registered, override
    the fixture ``backend``. A law is skipped, with the backend's reason, where it refuses all of the law's requests;
    refusing even the plainest ones is a failure.
    """

    backend_name: ClassVar[str] = ""
    device: ClassVar[str] = "cpu"
    max_examples: ClassVar[int] = 100
    """The most requests that a law draws: fewer for a backend that compiles for each shape, ≥ ``MIN_EXAMPLES``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.max_examples < MIN_EXAMPLES:
            raise ValueError(f"{cls.__name__}.max_examples is {cls.max_examples}; it must be ≥ {MIN_EXAMPLES}.")

    @pytest.fixture
    def backend(self) -> AttentionBackend:
        """The backend under test."""
        if not self.backend_name:
            raise ValueError(f"{type(self).__name__} must set backend_name, or override the fixture 'backend'.")
        spec = REGISTRY.get(ATTENTION_BACKENDS_HOOK, self.backend_name)
        reason = spec.why_unavailable()
        if reason is not None:
            pytest.fail(f"{self.backend_name!r} can't run here, so nothing was tested: {reason}")
        backend: AttentionBackend = spec.make()
        return backend

    # How it is registered, and what it refuses.

    def test_the_plugin_gives_a_light_spec_and_a_backend(self, backend: AttentionBackend) -> None:
        """The spec is an ``AttentionBackendSpec`` with a summary, the backend has the contract's two methods."""
        assert isinstance(backend, AttentionBackend), "a backend has the methods plan and attend"
        if self.backend_name:
            spec = REGISTRY.get(ATTENTION_BACKENDS_HOOK, self.backend_name)
            assert isinstance(spec, AttentionBackendSpec), f"the hook returned {type(spec).__name__}"
            assert spec.summary, "the spec has no summary for the listing"

    def test_it_serves_the_plainest_requests(self, backend: AttentionBackend) -> None:
        """A short causal prompt without padding, in at least one of the usual dtypes."""
        reasons = []
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            problem = make_problem(_spec(dtype=dtype, device=self.device), torch.Generator().manual_seed(0))
            try:
                assert_equals_oracle(answer(backend, problem), problem)
            except UnsupportedAttentionError as refusal:
                reasons.append(str(refusal))
        assert len(reasons) < 3, f"the backend refuses even the plainest requests: {reasons}"

    @for_all(attention_problems(), attention_problems(requires_grad=True))
    def test_what_it_refuses_it_refuses_by_a_sentence_and_in_plan(
        self, backend: AttentionBackend, problem: AttentionProblem
    ) -> None:
        """``unsupported`` and ``plan`` agree, so that a listing and a run say the same."""
        if not self.backend_name:
            pytest.skip("a backend that isn't registered has no unsupported() to compare with")
        reason = REGISTRY.get(ATTENTION_BACKENDS_HOOK, self.backend_name).why_unsupported(problem.spec)
        if reason is not None:
            assert reason.strip(), "a refusal without a reason"
            with pytest.raises(UnsupportedAttentionError, match=re.escape(reason)):
                backend.plan(problem.spec)
            raise UnsupportedAttentionError(reason)
        try:
            backend.plan(problem.spec)
        except UnsupportedAttentionError as refusal:
            raise AssertionError("plan refuses what unsupported() allows") from refusal

    # What it computes.

    @for_all(*(attention_problems(queries=queries) for queries in QUERIES), examples=100)
    def test_outputs_equal_those_of_float64_eager(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Any mix of grouped heads, lengths, padding, documents, windows, widths, layouts and dtypes."""
        assert_equals_oracle(answer(backend, problem), problem)

    @for_all(*(attention_problems(queries=queries, requires_grad=True) for queries in QUERIES), examples=50)
    def test_gradients_equal_those_of_float64_eager(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Of query, key and value, for the same mix."""
        assert_equals_oracle(answer(backend, problem), problem)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
    def test_lengths_over_several_kernel_blocks_equal_float64_eager(
        self, backend: AttentionBackend, dtype: torch.dtype, padded: bool
    ) -> None:
        """260 queries on 1,030 keys: more than one block of each in every known kernel."""
        starts = torch.tensor([0, 900], device=self.device) if padded else None
        spec = _spec(
            dtype=dtype, device=self.device, query_length=260, key_length=1030, head_dim=16, key_start_B=starts
        )
        problem = make_problem(_served(backend, spec, (dtype,)), torch.Generator().manual_seed(0))
        assert_equals_oracle(answer(backend, problem), problem)

    def test_a_query_head_reads_the_key_value_head_of_its_group(self, backend: AttentionBackend) -> None:
        """With values that are all k + 1 in key/value head k, query head h returns h // (H / K) + 1."""
        for query_length in (1, 5):
            spec = _spec(
                device=self.device, query_length=query_length, key_length=5, num_heads=6, num_key_value_heads=3
            )
            problem = make_problem(_served(backend, spec), torch.Generator().manual_seed(0))
            numbers_K1 = torch.arange(1, 4, device=self.device, dtype=problem.spec.dtype)[:, None]
            problem = replace(problem, value_BSKD=numbers_K1.expand_as(problem.value_BSKD).contiguous())
            out_BTHD = answer(backend, problem).out_BTHD
            expected_H = torch.tensor([1, 1, 2, 2, 3, 3], device=self.device, dtype=torch.float64)
            expected_BTHD = expected_H[:, None].expand_as(out_BTHD)
            assert_close("out_BTHD", out_BTHD, expected_BTHD, expected_BTHD, problem.spec.dtype)

    @for_all(attention_problems())
    def test_the_scale_is_honoured(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """A quarter of the scale equals a quarter of the query: the backend doesn't use a scale of its own."""
        scaled = replace(problem, scale=problem.scale / 4)
        moved = replace(problem, query_BTHD=problem.query_BTHD / 4)  # exact: only exponents change
        assert_equals_oracle(answer(backend, moved), scaled)
        assert_equals_oracle(answer(backend, scaled), moved)

    def test_statistics_of_bfloat16_are_kept_in_float32(self, backend: AttentionBackend) -> None:
        """Scores up to 30, where the next bfloat16 is 0.125 away: rounded to that, weights would be 6 % off."""
        half_dtypes = (torch.bfloat16, torch.float16)
        spec = _served(backend, _spec(device=self.device, query_length=32, key_length=32), half_dtypes)
        problem = make_problem(spec, torch.Generator().manual_seed(0), scale=1.0)
        assert_equals_oracle(answer(backend, problem), problem)

    # What must have no influence.

    @for_all(attention_problems(causal=True, padding=False, documents=False, window=False))
    def test_future_keys_never_change_past_outputs(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Causal, aligned to the last key, also where there are more keys than queries or fewer."""
        _hidden_keys_have_no_influence(backend, problem)

    @for_all(attention_problems(padding=True))
    def test_padding_never_leaks(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Whatever finite numbers padding holds, on either side."""
        _hidden_keys_have_no_influence(backend, problem)

    @for_all(attention_problems(documents=True))
    def test_documents_never_see_each_other(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Packed rows behave as if each document were alone."""
        _hidden_keys_have_no_influence(backend, problem)

    @for_all(attention_problems(window=True))
    def test_keys_outside_the_window_have_no_influence(
        self, backend: AttentionBackend, problem: AttentionProblem
    ) -> None:
        """On the left, and on the right too where attention isn't causal."""
        _hidden_keys_have_no_influence(backend, problem)

    @for_all(attention_problems(padding=True, requires_grad=True))
    def test_padding_gets_no_gradient_and_gives_none(
        self, backend: AttentionBackend, problem: AttentionProblem
    ) -> None:
        """Keys that no query sees get a gradient of exactly 0, whatever they hold."""
        unseen_BS = ~visible_keys(problem.spec).any(dim=1).expand(problem.spec.batch_size, -1)
        problem = _with_garbage(problem, unseen_BS)
        actual = answer(backend, problem)
        assert_equals_oracle(actual, problem)
        for gradient in (actual.key_grad_BSKD, actual.value_grad_BSKD):
            assert gradient is not None
            assert not gradient[unseen_BS].any(), "a key that no query sees got a gradient"

    @for_all(attention_problems(padding=True), attention_problems(padding=True, requires_grad=True))
    def test_queries_that_see_nothing_give_zeros(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Exactly 0, and so is what they pass back; never NaN."""
        empty_B = torch.zeros(problem.spec.batch_size, dtype=torch.int64, device=problem.spec.device)
        empty_B[1:] = problem.spec.key_length
        problem = replace(problem, spec=replace(problem.spec, key_end_B=empty_B))
        actual = answer(backend, problem)
        assert_equals_oracle(actual, problem)
        sees_nothing_BT = ~visible_keys(problem.spec).any(dim=2)
        assert sees_nothing_BT[0].all()
        assert not actual.out_BTHD[sees_nothing_BT].any(), "a query that sees no key returned other values than zeros"
        if actual.query_grad_BTHD is not None:
            assert not actual.query_grad_BTHD[sees_nothing_BT].any(), "a query that sees no key passed a gradient back"

    # How it behaves.

    @for_all(attention_problems())
    def test_without_dropout_the_same_request_gives_the_same_bits(
        self, backend: AttentionBackend, problem: AttentionProblem
    ) -> None:
        """Nothing is drawn, and one plan serves every layer of its forward pass."""
        state = torch.get_rng_state()
        prepared = backend.plan(problem.spec)
        inputs = (problem.query_BTHD, problem.key_BSKD, problem.value_BSKD)
        first_BTHD = backend.attend(*inputs, prepared, scale=problem.scale)
        backend.attend(problem.query_BTHD * 2, *inputs[1:], prepared, scale=problem.scale)
        again_BTHD = backend.attend(*inputs, prepared, scale=problem.scale)
        assert torch.equal(first_BTHD, again_BTHD), "the second of two equal calls returned something else"
        assert torch.equal(state, torch.get_rng_state()), "random numbers were drawn without dropout"

    @for_all(attention_problems())
    def test_a_plan_is_kept_while_others_are_made(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """Two forward passes may take turns, as the branches of guidance do."""
        prepared = backend.plan(problem.spec)
        backend.plan(replace(problem.spec, query_length=1, causal=not problem.spec.causal))
        out_BTHD = backend.attend(
            problem.query_BTHD, problem.key_BSKD, problem.value_BSKD, prepared, scale=problem.scale
        )
        assert_equals_oracle(Answer(out_BTHD), problem)

    @for_all(attention_problems())
    def test_inputs_are_not_changed(self, backend: AttentionBackend, problem: AttentionProblem) -> None:
        """The cache belongs to the model."""
        inputs = (problem.query_BTHD, problem.key_BSKD, problem.value_BSKD)
        before = [tensor.clone() for tensor in inputs]
        answer(backend, problem)
        assert all(map(torch.equal, inputs, before)), "an input was changed in place"

    def test_dropout_drops_weights_and_scales_up_the_rest(self, backend: AttentionBackend) -> None:
        """With equal weights and values of 1, n kept keys of S result in n / (S (1 - dropout)); the mean stays 1."""
        spec = _spec(
            device=self.device, batch_size=4, query_length=64, key_length=64, num_heads=8, causal=False, dropout=True
        )
        spec = _served(backend, spec)
        problem = make_problem(spec, torch.Generator().manual_seed(0))
        inputs = (problem.query_BTHD * 0, problem.key_BSKD, torch.ones_like(problem.value_BSKD))
        prepared = backend.plan(spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out_BTHD = backend.attend(*inputs, prepared, scale=1.0, dropout=0.25).double()
        kept_BTHD = out_BTHD * 64 * 0.75
        torch.testing.assert_close(kept_BTHD, kept_BTHD.round(), atol=64 * TOLERANCES[spec.dtype], rtol=0)
        torch.testing.assert_close(out_BTHD[..., :1].expand_as(out_BTHD), out_BTHD)
        # 4 * 64 * 8 * 64 draws with a standard deviation of sqrt(1/3): the mean is within 0.01 by 6 of its own.
        assert abs(out_BTHD.mean().item() - 1) < 0.01
        assert out_BTHD.std().item() > 0.01, "nothing was dropped"

    @for_all(attention_problems())
    def test_weights_that_it_shows_are_those_that_it_uses(
        self, backend: AttentionBackend, problem: AttentionProblem
    ) -> None:
        """For an ``AttentionWeightsBackend``: rows sum to 1, or are 0, and are within tolerance of float64 eager."""
        weights = getattr(backend, "attention_weights", None)
        if weights is None:
            pytest.skip("the backend doesn't show its weights")
        actual_BHTS = weights(problem.query_BTHD, problem.key_BSKD, backend.plan(problem.spec), scale=problem.scale)
        oracle = EagerAttention()
        expected_BHTS = oracle.attention_weights(
            problem.query_BTHD.double(), problem.key_BSKD.double(), oracle.plan(problem.spec), scale=problem.scale
        )
        better = torch.promote_types(problem.spec.dtype, torch.float32)
        assert_close("weights_BHTS", actual_BHTS, expected_BHTS, expected_BHTS, better)
        sees_any_BT = visible_keys(problem.spec).any(dim=2)
        sums_BHT = actual_BHTS.double().sum(dim=-1)
        expected_BHT = sees_any_BT[:, None].double().expand_as(sums_BHT)
        torch.testing.assert_close(sums_BHT, expected_BHT, atol=TOLERANCES[better], rtol=0)


def _spec(
    *,
    device: str,
    batch_size: int = 2,
    query_length: int = 8,
    key_length: int = 8,
    num_heads: int = 2,
    num_key_value_heads: int | None = None,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    causal: bool = True,
    dropout: bool = False,
    key_start_B: torch.Tensor | None = None,
) -> AttentionSpec:
    """Return a plain request, except for the fields that are given."""
    return AttentionSpec(
        batch_size=batch_size,
        query_length=query_length,
        key_length=key_length,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads or num_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=torch.device(device),
        causal=causal,
        dropout=dropout,
        key_start_B=key_start_B,
    )


def _served(
    backend: AttentionBackend, spec: AttentionSpec, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)
) -> AttentionSpec:
    """Return the request in the first of these dtypes that the backend serves; skip the test where it serves none."""
    for dtype in dtypes:
        request = replace(spec, dtype=dtype)
        try:
            backend.plan(request)
        except UnsupportedAttentionError as refusal:
            reason = str(refusal)
        else:
            return request
    pytest.skip(f"the backend refuses this law's request: {reason}")


def _hidden_keys_have_no_influence(backend: AttentionBackend, problem: AttentionProblem) -> None:
    """Check the first, the middle and the last query: changing all that it doesn't see doesn't change its output."""
    spec = problem.spec
    before_BTHD = answer(backend, problem).out_BTHD.double()
    largest_B111 = problem.value_BSKD.double().abs().amax(dim=(1, 2, 3), keepdim=True)
    visible_BTS = visible_keys(spec).expand(spec.batch_size, -1, -1)
    for query in {0, spec.query_length // 2, spec.query_length - 1}:
        after_BTHD = answer(backend, _with_garbage(problem, ~visible_BTS[:, query])).out_BTHD
        here_BTHD, expected_BTHD = after_BTHD[:, query : query + 1], before_BTHD[:, query : query + 1]
        terms_BTHD = largest_B111.expand_as(expected_BTHD)
        assert_close(f"out_BTHD[:, {query}]", here_BTHD, expected_BTHD, terms_BTHD, spec.dtype)


def _with_garbage(problem: AttentionProblem, where_BS: torch.Tensor) -> AttentionProblem:
    """Return the problem with large numbers in some keys and values."""
    where_BSKD = where_BS[:, :, None, None]
    return replace(
        problem,
        key_BSKD=problem.key_BSKD.masked_fill(where_BSKD, GARBAGE),
        value_BSKD=problem.value_BSKD.masked_fill(where_BSKD, GARBAGE),
    )
