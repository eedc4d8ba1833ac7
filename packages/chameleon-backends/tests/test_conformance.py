"""The built-in backends pass the conformance suite; wrong backends and weakened suites don't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

import chameleon_backends.testing.attention
from chameleon_backends import (
    AttentionBackendSpec,
    AttentionSpec,
    BrokenPluginError,
    UnsupportedAttentionError,
    visible_keys,
)
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.testing import AttentionBackendConformance
from chameleon_backends.testing.attention import MIN_EXAMPLES


class TestEager(AttentionBackendConformance):
    backend_name = "eager"
    max_examples = 20  # it is compared with itself in float64; test_attention.py computes by hand


class TestSDPA(AttentionBackendConformance):
    backend_name = "sdpa"


class Call(NamedTuple):
    """One call of ``attend``, whose plan is the visible keys [B, T, S]."""

    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    scale: float
    dropout: float = 0.0

    def right(self, **changes: Any) -> Tensor:
        """Return the right answer to the call with these changes."""
        call = self._replace(**changes)
        return EagerAttention().attend(*call[:4], scale=call.scale, dropout=call.dropout)


class WrongPlan(EagerAttention):
    """Sees the keys of another mask."""

    def __init__(self, mask: Callable[[AttentionSpec], Tensor]) -> None:
        self.mask = mask

    def plan(self, spec: AttentionSpec) -> Tensor:
        return self.mask(spec)


class WrongAttend(EagerAttention):
    """Returns another answer."""

    def __init__(self, wrong: Callable[[Call], Tensor]) -> None:
        self.wrong = wrong

    def attend(self, *inputs: Any, scale: float, dropout: float = 0.0) -> Tensor:
        return self.wrong(Call(*inputs, scale=scale, dropout=dropout))


class Forgetful(EagerAttention):
    """Attends by its latest plan, whatever it is given."""

    def plan(self, spec: AttentionSpec) -> None:
        self.last = super().plan(spec)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, prepared: None, **options: Any) -> Tensor:
        return super().attend(query, key, value, self.last, **options)


class Refusing(EagerAttention):
    """Refuses what a check refuses, with a given error."""

    def __init__(
        self, check: Callable[[AttentionSpec], bool], error: type[Exception] = UnsupportedAttentionError
    ) -> None:
        self.check, self.error = check, error

    def plan(self, spec: AttentionSpec) -> Tensor:
        if self.check(spec):
            raise self.error("this can't be done")
        return super().plan(spec)


def without(**rules: None) -> WrongPlan:
    """A backend that ignores these rules of the request."""
    return WrongPlan(lambda spec: visible_keys(replace(spec, **rules)))


def below_diagonal(spec: AttentionSpec, diagonal: int) -> Tensor:
    """The request's keys, but causal from another diagonal."""
    causal_TS = torch.ones(spec.query_length, spec.key_length).tril(diagonal).bool()
    return visible_keys(replace(spec, causal=False)) & causal_TS if spec.causal else visible_keys(spec)


def window_by(spec: AttentionSpec, more: int) -> Tensor:
    """The request's keys, but with another window."""
    return visible_keys(replace(spec, sliding_window=spec.sliding_window and max(1, spec.sliding_window + more)))


def documents_of_the_first_queries(spec: AttentionSpec) -> Tensor:
    """As if the queries were at the first positions."""
    if spec.document_ids_BS is None:
        return visible_keys(spec)
    queries = spec.document_ids_BS[:, : spec.query_length, None]
    return visible_keys(replace(spec, document_ids_BS=None)) & (queries == spec.document_ids_BS[:, None])


def heads_in_another_order(call: Call) -> Tensor:
    order = torch.arange(call.query.shape[2]).reshape(call.key.shape[2], -1).T.flatten()
    return call.right(query=call.query[:, :, order])[:, :, order.argsort()]


def softly_masked(call: Call) -> Tensor:
    """As with an additive mask whose value isn't low enough."""
    group = call.query.shape[2] // call.key.shape[2]
    key, value = (tensor.repeat_interleave(group, dim=2) for tensor in (call.key, call.value))
    scores = call.scale * torch.einsum("bthd,bshd->bhts", call.query, key) - 30.0 * ~call.visible[:, None]
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1).to(value.dtype), value)


def in_low_precision(call: Call) -> Tensor:
    """Scores and weights in the dtype of the query, as in a kernel without float32 statistics."""
    group = call.query.shape[2] // call.key.shape[2]
    key, value = (tensor.repeat_interleave(group, dim=2) for tensor in (call.key, call.value))
    hidden = ~call.visible[:, None]
    scores = call.scale * torch.einsum("bthd,bshd->bhts", call.query, key)
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1).masked_fill(hidden, 0.0), value)


def with_gradient_of(name: str) -> WrongAttend:
    """The right answer, with another gradient of 1 for each element of this input."""

    def wrong(call: Call) -> Tensor:
        total = getattr(call, name).sum()
        return call.right() + total - total.detach()

    return WrongAttend(wrong)


def nan_where_nothing_is_seen(call: Call) -> Tensor:
    return call.right().masked_fill(~call.visible.any(-1)[..., None, None], float("nan"))


def mean_where_nothing_is_seen(call: Call) -> Tensor:
    return call.right(visible=call.visible | ~call.visible.any(-1, keepdim=True))


INVERTED = WrongPlan(lambda spec: ~visible_keys(spec))
OWN_SCALE = WrongAttend(lambda call: call.right(scale=call.query.shape[-1] ** -0.5))
CAUSAL_BY_ONE_TOO_MANY = WrongPlan(lambda spec: below_diagonal(spec, spec.key_length - spec.query_length + 1))
SOFTLY_MASKED = WrongAttend(softly_masked)

WRONG: dict[str, dict[str, object]] = {
    "test_outputs_equal_those_of_float64_eager": {
        "inverted mask": INVERTED,
        "causal by one too many": CAUSAL_BY_ONE_TOO_MANY,
        "causal by one too few": WrongPlan(lambda spec: below_diagonal(spec, spec.key_length - spec.query_length - 1)),
        "causal from the first key": WrongPlan(lambda spec: below_diagonal(spec, 0)),
        "window by one too many": WrongPlan(lambda spec: window_by(spec, 1)),
        "padding ignored": without(key_start_B=None, key_end_B=None),
        "heads in another order": WrongAttend(heads_in_another_order),
        "a scale of its own": OWN_SCALE,
        "heads first": WrongAttend(lambda call: call.right().transpose(1, 2)),
        "float32 whatever comes": WrongAttend(lambda call: call.right(query=call.query.float())),
        "window by one too few": WrongPlan(lambda spec: window_by(spec, -1)),
        "a bare error": Refusing(lambda spec: spec.sliding_window is not None, RuntimeError),
    },
    "test_gradients_equal_those_of_float64_eager": {
        "twice the gradient": WrongAttend(lambda call: call.right(query=2 * call.query - call.query.detach())),
        "no gradient": WrongAttend(lambda call: call.right().detach() + 0 * sum(x.sum() for x in call[:3])),
        "none of the key": WrongAttend(lambda call: call.right(key=call.key.detach()) + 0 * call.key.sum()),
    },
    "test_lengths_over_several_kernel_blocks_equal_float64_eager": {
        "only whole blocks of keys": WrongPlan(
            lambda spec: visible_keys(spec) & (torch.arange(spec.key_length) < spec.key_length // 64 * 64)
        ),
    },
    "test_a_query_head_reads_the_key_value_head_of_its_group": {
        "heads in another order": WrongAttend(heads_in_another_order),
    },
    "test_the_scale_is_honoured": {
        "a scale of its own": OWN_SCALE,
        "scaled twice": WrongAttend(lambda call: call.right(scale=call.scale * call.query.shape[-1] ** -0.5)),
    },
    "test_statistics_of_bfloat16_are_kept_in_float32": {"scores in bfloat16": WrongAttend(in_low_precision)},
    "test_future_keys_never_change_past_outputs": {
        "not causal": WrongPlan(lambda spec: visible_keys(replace(spec, causal=False))),
        "causal by one too many": CAUSAL_BY_ONE_TOO_MANY,
        "inverted mask": INVERTED,
        "softly masked": SOFTLY_MASKED,
    },
    "test_padding_never_leaks": {
        "padding on the left ignored": without(key_start_B=None),
        "padding on the right ignored": without(key_end_B=None),
        "softly masked": SOFTLY_MASKED,
    },
    "test_documents_never_see_each_other": {
        "documents ignored": without(document_ids_BS=None),
        "documents of the first queries": WrongPlan(documents_of_the_first_queries),
    },
    "test_keys_outside_the_window_have_no_influence": {
        "window ignored": without(sliding_window=None),
        "window by one too many": WrongPlan(lambda spec: window_by(spec, 1)),
    },
    "test_padding_gets_no_gradient_and_gives_none": {
        "padding ignored": without(key_start_B=None, key_end_B=None),
        "a gradient for each key": with_gradient_of("key"),
        "a gradient for each value": with_gradient_of("value"),
    },
    "test_queries_that_see_nothing_give_zeros": {
        "NaN": WrongAttend(nan_where_nothing_is_seen),
        "their mean": WrongAttend(mean_where_nothing_is_seen),
        "a gradient for each query": with_gradient_of("query"),
    },
    "test_without_dropout_the_same_request_gives_the_same_bits": {
        "always drops": WrongAttend(lambda call: call.right(dropout=0.1)),
        "draws in vain": WrongAttend(lambda call: call.right(scale=call.scale + 0 * torch.rand(()).item())),
    },
    "test_a_plan_is_kept_while_others_are_made": {"attends as its last plan says": Forgetful()},
    "test_inputs_are_not_changed": {
        "scales in place": WrongAttend(lambda call: call.right(query=call.query.mul_(call.scale), scale=1.0)),
    },
    "test_dropout_drops_weights_and_scales_up_the_rest": {
        "never drops": WrongAttend(lambda call: call.right(dropout=0.0)),
        "drops outputs": WrongAttend(lambda call: torch.dropout(call.right(dropout=0.0), call.dropout, True)),
        "doesn't scale up": WrongAttend(lambda call: call.right() * (1 - call.dropout)),
    },
    "test_it_serves_the_plainest_requests": {"refuses everything": Refusing(lambda spec: True), "inverted": INVERTED},
    "test_the_plugin_gives_a_light_spec_and_a_backend": {"not a backend": object()},
}
CASES = [pytest.param(law, wrong, id=f"{law}-{what}") for law, cases in WRONG.items() for what, wrong in cases.items()]


@pytest.fixture
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip shrinking: a failure is expected, and its smallest example isn't needed."""
    suite = chameleon_backends.testing.attention
    monkeypatch.setattr(suite, "LAWS", settings(suite.LAWS, phases=[Phase.generate]))


class Few(AttentionBackendConformance):
    """Draws as few requests as a suite may."""

    max_examples = MIN_EXAMPLES


def run_law(law: str, backend: object) -> None:
    arguments = {"dtype": torch.float32, "padded": False} if "kernel_blocks" in law else {}
    getattr(Few(), law)(backend, **arguments)


@pytest.mark.parametrize(("law", "backend"), CASES)
def test_a_wrong_backend_fails_the_law_that_it_breaks(law: str, backend: object, no_shrinking: None) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        run_law(law, backend)


def test_every_law_has_a_wrong_backend_that_fails_it() -> None:
    laws = {name for name in dir(AttentionBackendConformance) if name.startswith("test_")}
    # The two that need more than a backend are tested below.
    own = {
        "test_what_it_refuses_it_refuses_by_a_sentence_and_in_plan",
        "test_weights_that_it_shows_are_those_that_it_uses",
    }
    assert laws == WRONG.keys() | own


def test_a_law_whose_every_request_is_refused_is_skipped_with_the_reason() -> None:
    backend = Refusing(lambda spec: spec.sliding_window is not None)
    with pytest.raises(pytest.skip.Exception, match="refuses every request of this law: this can't be done"):
        run_law("test_keys_outside_the_window_have_no_influence", backend)
    run_law("test_inputs_are_not_changed", backend)


CAUSAL_REFUSED = Refusing(lambda spec: spec.causal)


class Named(AttentionBackendConformance):
    backend_name = "acme"


@pytest.mark.parametrize(
    ("unsupported", "backend", "holds"),
    [
        pytest.param(lambda spec: "this can't be done" if spec.causal else None, CAUSAL_REFUSED, True, id="the same"),
        pytest.param(lambda spec: None, CAUSAL_REFUSED, False, id="only plan refuses"),
        pytest.param(lambda spec: "no" if spec.causal else None, EagerAttention(), False, id="only it refuses"),
        pytest.param(lambda spec: "no" if spec.causal else None, CAUSAL_REFUSED, False, id="reasons differ"),
        pytest.param(lambda spec: " " if spec.causal else None, CAUSAL_REFUSED, False, id="no reason"),
    ],
)
def test_a_refusal_must_be_the_same_in_plan_and_in_the_listing(
    monkeypatch: pytest.MonkeyPatch,
    no_shrinking: None,
    unsupported: Callable[[Any], str | None],
    backend: Any,
    holds: bool,
) -> None:
    class Registry:
        def get(self, hook: str, name: str) -> AttentionBackendSpec:
            return AttentionBackendSpec(name=name, factory=lambda: backend, api_version=2, unsupported=unsupported)

    monkeypatch.setattr(chameleon_backends.testing.attention, "REGISTRY", Registry())
    law = Named().test_what_it_refuses_it_refuses_by_a_sentence_and_in_plan
    if holds:
        law(backend)
    else:
        # A refusal without a sentence is the host's to find.
        with pytest.raises((AssertionError, pytest.fail.Exception, BrokenPluginError)):
            law(backend)


def test_weights_that_are_not_those_used_fail(no_shrinking: None) -> None:
    class Unnormalised(EagerAttention):
        def attention_weights(self, *inputs: Any, scale: float) -> Tensor:
            return 2 * super().attention_weights(*inputs, scale=scale)

    with pytest.raises(AssertionError, match="weights_BHTS"):
        run_law("test_weights_that_it_shows_are_those_that_it_uses", Unnormalised())


def test_a_suite_can_not_draw_next_to_nothing() -> None:
    with pytest.raises(ValueError, match=rf"Lazy.max_examples is 1; it must be ≥ {MIN_EXAMPLES}"):

        class Lazy(AttentionBackendConformance):
            max_examples = 1


def test_a_suite_without_a_backend_says_what_to_set() -> None:
    class Nameless(AttentionBackendConformance):
        pass

    fixture = Nameless.backend._get_wrapped_function()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Nameless must set backend_name, or override the fixture 'backend'"):
        fixture(Nameless())


@pytest.mark.parametrize("package", ["hypothesis", "pytest"])
def test_without_what_the_suite_needs_the_error_has_the_install_line(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import chameleon_backends.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    install = "pip install './packages/chameleon-backends[testing]'"
    assert f"MissingPackageError: chameleon_backends.testing needs {package}: {install}" in done.stderr


class TestWeakening:
    """A suite can't lose a test without a stated reason."""

    def test_overriding_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match=r"Weak replaces test_inputs_are_not_changed\. .* with the reason"):

            class Weak(AttentionBackendConformance):
                def test_inputs_are_not_changed(self, backend: object) -> None:
                    """Nothing."""

    def test_deleting_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="replaces"):

            class Weak(AttentionBackendConformance):
                test_inputs_are_not_changed = None

    def test_deleting_by_a_mixin_is_an_error(self) -> None:
        class Mixin:
            test_inputs_are_not_changed = None

        with pytest.raises(TypeError, match="replaces"):

            class Weak(Mixin, AttentionBackendConformance):
                pass

    def test_deleting_in_a_grandchild_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="replaces"):

            class Weak(Named):
                test_inputs_are_not_changed = None

    def test_a_stated_reason_is_accepted_and_inherited(self) -> None:
        class Excused(AttentionBackendConformance):
            not_applicable = {"test_inputs_are_not_changed": "the kernel scales the query in place"}

        class Inheriting(Excused):
            backend_name = "acme"

        assert Inheriting.not_applicable == Excused.not_applicable

    def test_a_suite_may_have_more_tests(self) -> None:
        class More(AttentionBackendConformance):
            def test_something_of_its_own(self) -> None:
                """Nothing."""

        assert issubclass(More, AttentionBackendConformance)

    def test_leaving_out_takes_a_known_name_and_a_reason(self) -> None:
        with pytest.raises(TypeError, match="leaves out what isn't a standard test: test_inputs"):
            type("Weak", (AttentionBackendConformance,), {"not_applicable": {"test_inputs": "why"}})
        with pytest.raises(TypeError, match="gives no reason to leave out test_inputs_are_not_changed"):
            type("Weak", (AttentionBackendConformance,), {"not_applicable": {"test_inputs_are_not_changed": " "}})
