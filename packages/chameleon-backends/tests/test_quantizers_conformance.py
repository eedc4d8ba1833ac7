"""The built-in quantizers pass the conformance suite; wrong quantizers and weakened suites don't."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

import chameleon_backends.testing.weight_quantizers
from chameleon_backends import (
    LinearSpec,
    PreparedWeight,
    TensorLayout,
    UnsupportedWeightError,
    WeightQuantizer,
    WeightQuantizerSpec,
)
from chameleon_backends.quantizers.int4 import Int4Quantizer
from chameleon_backends.quantizers.int8 import Int8Quantizer
from chameleon_backends.testing import WeightQuantizerConformance

Stored = Mapping[str, Tensor]


class TestInt8(WeightQuantizerConformance):
    quantizer_name = "int8"
    relative_error = 0.01


class TestInt4(WeightQuantizerConformance):
    quantizer_name = "int4"
    relative_error = 0.13


class TestInt4OfSmallGroups(WeightQuantizerConformance):
    quantizer_name = "int4"
    options = {"group_size": 32}
    relative_error = 0.10


class Wrong(Int8Quantizer):
    """``int8`` with some methods replaced; a replacement gets the right answer as its first argument."""

    def __init__(
        self,
        *,
        quantize: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]] = lambda stored, weight: stored,
        dequantize: Callable[[Tensor, Stored], Tensor] = lambda weight, stored: weight,
        multiply: Callable[[Tensor, Tensor], Tensor] = lambda out, values: out,
        restore: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda stored: stored,
        layout: Mapping[str, TensorLayout] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        functions = {"quantize": quantize, "dequantize": dequantize, "multiply": multiply, "restore": restore}
        self.__dict__.update(wrong=functions, wrong_layout=layout, wrong_options=options)

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        return self.wrong["quantize"](super().quantize(weight_OI), weight_OI)

    def dequantize(self, stored: Stored) -> Tensor:
        return self.wrong["dequantize"](super().dequantize(stored), stored)

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        return dict(self.wrong_layout or super().layout(in_features, out_features))

    def options(self) -> dict[str, Any]:
        return dict(self.wrong_options or {})

    def prepare(self, stored: Stored, spec: LinearSpec) -> PreparedWeight:
        return WrongWeight(self.wrong, super().prepare(stored, spec))


class WrongWeight:
    def __init__(self, wrong: Mapping[str, Any], right: PreparedWeight) -> None:
        self.wrong, self.right = wrong, right

    def multiply(self, input_NI: Tensor) -> Tensor:
        return self.wrong["multiply"](self.right.multiply(input_NI), input_NI)

    def stored(self) -> dict[str, Tensor]:
        return self.wrong["restore"](self.right.stored())


class Refusing(Int8Quantizer):
    """Refuses with a reason, announced by ``unsupported`` or not."""

    def __init__(self, reason: str | None, *, when_asked: bool = True) -> None:
        self.__dict__.update(reason=reason, when_asked=when_asked)

    def unsupported(self, spec: LinearSpec) -> str | None:
        return self.reason if self.when_asked else None

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        if self.reason is not None:
            raise UnsupportedWeightError(self.reason)
        return super().quantize(weight_OI)


class WithoutCare(Int8Quantizer):
    """Neither checks for infinite values nor keeps the scale of zeros above zero."""

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        scale_O = (weight_OI.abs().amax(dim=1) / 127).bfloat16()
        return {"weight": (weight_OI / scale_O[:, None]).to(torch.int8), "weight_scale": scale_O}

    def dequantize(self, stored: Stored) -> Tensor:
        return stored["weight"].float() * stored["weight_scale"][:, None] / stored["weight_scale"].sign()[:, None]


class Forgetful(Int8Quantizer):
    """Remembers the scales of tensors that it made, and stores others."""

    def __init__(self) -> None:
        self.__dict__.update(scales={})

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        stored = super().quantize(weight_OI)
        self.scales[stored["weight"].data_ptr()] = stored["weight_scale"]
        return {"weight": stored["weight"], "weight_scale": torch.ones_like(stored["weight_scale"])}

    def dequantize(self, stored: Stored) -> Tensor:
        scale_O = self.scales.get(stored["weight"].data_ptr(), stored["weight_scale"])
        return super().dequantize({"weight": stored["weight"], "weight_scale": scale_O})

    def prepare(self, stored: Stored, spec: LinearSpec) -> PreparedWeight:
        return WeightQuantizer.prepare(self, stored, spec)


def growing(stored: dict[str, Tensor], weight_OI: Tensor) -> dict[str, Tensor]:
    """A scale that is always a little too large."""
    scale_O = (stored["weight_scale"].float() * 1.01).bfloat16()
    codes_OI = (weight_OI / scale_O.float()[:, None]).round().to(torch.int8)
    return {"weight": codes_OI, "weight_scale": scale_O}


def drawn(stored: dict[str, Tensor], weight_OI: Tensor) -> dict[str, Tensor]:
    """Stochastic rounding."""
    codes_OI = (weight_OI / stored["weight_scale"].float()[:, None] + torch.rand(weight_OI.shape)).floor()
    return {**stored, "weight": codes_OI.clamp(-127, 127).to(torch.int8)}


def in_place(stored: dict[str, Tensor], weight_OI: Tensor) -> dict[str, Tensor]:
    weight_OI.mul_(0.5)
    return stored


def running_in_place(out_NO: Tensor, input_NI: Tensor) -> Tensor:
    input_NI.mul_(0.5)
    return out_NO


FLIPPED = Wrong(multiply=lambda out, values: out.flip(-1))
TWICE = Wrong(dequantize=lambda weight, stored: 2 * weight)

WRONG: dict[str, dict[str, Any]] = {
    "test_the_plugin_gives_a_light_spec_and_a_quantizer": {"no quantizer": object()},
    "test_it_serves_the_plainest_layers": {"refuses everything": Refusing("it can't")},
    "test_what_it_refuses_it_refuses_by_a_sentence": {
        "without a reason": Refusing(" "),
        "without having said so": Refusing("it can't", when_asked=False),
    },
    "test_its_options_make_the_same_quantizer_again": {
        "a tuple": Wrong(options={"sizes": (1, 2)}),
        "a dtype": Wrong(options={"dtype": torch.float32}),
    },
    "test_stored_tensors_are_those_of_the_layout": {
        "another name": Wrong(layout={"codes": TensorLayout(torch.int8, (None, None))}),
        "another type": Wrong(quantize=lambda stored, weight: {**stored, "weight": stored["weight"].short()}),
        "another shape": Wrong(quantize=lambda stored, weight: {**stored, "weight": stored["weight"].flatten()}),
        "not contiguous": Wrong(
            quantize=lambda stored, weight: {**stored, "weight": stored["weight"].T.contiguous().T}
        ),
    },
    "test_quantizing_changes_no_input_and_draws_nothing": {
        "halves the weight": Wrong(quantize=in_place),
        "rounds by chance": Wrong(quantize=drawn),
        "keeps the weight": Wrong(quantize=lambda stored, weight: {**stored, "weight": weight.view(torch.int8)}),
    },
    "test_it_takes_less_than_half_precision": {
        "stores the weight too": Wrong(quantize=lambda stored, weight: {**stored, "float": weight.clone()}),
    },
    "test_a_file_gives_the_same_bits": {"keeps the scales": Forgetful()},
    "test_the_dequantized_weight_is_near": {
        "twice as large": TWICE,
        "rows in another order": Wrong(dequantize=lambda weight, stored: weight.flip(0)),
        "no sign": Wrong(dequantize=lambda weight, stored: weight.abs()),
        "one bit less": Wrong(quantize=lambda stored, weight: {**stored, "weight": stored["weight"] // 8 * 8}),
        "in another type": Wrong(dequantize=lambda weight, stored: weight.bfloat16()),
    },
    "test_quantizing_what_was_dequantized_changes_nothing": {"a growing scale": Wrong(quantize=growing)},
    "test_zeros_stay_zeros": {
        "NaN": WithoutCare(),
        "a zero point of its own": Wrong(dequantize=lambda weight, stored: weight + 1e-4),
    },
    "test_values_that_are_not_finite_are_refused": {"doesn't look": WithoutCare()},
    "test_products_equal_those_of_the_dequantized_weight": {
        "twice as large": Wrong(multiply=lambda out, values: 2 * out),
        "outputs in another order": FLIPPED,
        "in another type": Wrong(multiply=lambda out, values: out.double()),
        "rounded on the way": Wrong(multiply=lambda out, values: out.to(torch.float8_e5m2).to(out.dtype)),
        "only a few rows": Wrong(multiply=lambda out, values: torch.cat((out[:64], 0 * out[64:]))),
        "as if rows followed each other": Wrong(
            multiply=lambda out, values: out * 0 if values.data_ptr() % 64 else out
        ),
    },
    "test_what_a_kernel_wants_is_undone": {
        "left packed": Wrong(restore=lambda stored: {**stored, "weight": stored["weight"].flip(0)}),
        "scales in another type": Wrong(
            restore=lambda stored: {**stored, "weight_scale": stored["weight_scale"].float()}
        ),
    },
    "test_running_changes_no_input": {"in place": Wrong(multiply=running_in_place)},
}
CASES = [pytest.param(law, wrong, id=f"{law}-{what}") for law, cases in WRONG.items() for what, wrong in cases.items()]


@pytest.fixture
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip shrinking: a failure is expected, and its smallest example isn't needed."""
    suite = chameleon_backends.testing.weight_quantizers
    monkeypatch.setattr(suite, "LAWS", settings(suite.LAWS, phases=[Phase.generate]))


class OfInt8(WeightQuantizerConformance):
    relative_error = 0.01


def run_law(law: str, quantizer: Any, suite: type[WeightQuantizerConformance] = OfInt8) -> None:
    arguments = {"value": math.nan} if "not_finite" in law else {}
    getattr(suite(), law)(quantizer, **arguments)


@pytest.mark.parametrize("law", WRONG)
def test_the_right_quantizer_passes_as_the_wrong_ones_do_not(law: str) -> None:
    """So wrong quantizers fail because of their mistake, not because of how they are made."""
    with contextlib.suppress(pytest.skip.Exception):  # the law of options needs a registered name
        run_law(law, Wrong())


@pytest.mark.parametrize(("law", "quantizer"), CASES)
def test_a_wrong_quantizer_fails_the_law_that_it_breaks(law: str, quantizer: Any, no_shrinking: None) -> None:
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception)):
        run_law(law, quantizer)


def test_every_law_has_a_wrong_quantizer_that_fails_it() -> None:
    assert {name for name in dir(WeightQuantizerConformance) if name.startswith("test_")} == WRONG.keys()


@pytest.mark.parametrize("stated", [math.nan, 0.0, 0.3])
def test_a_suite_must_say_how_exact_the_quantizer_is(stated: float, no_shrinking: None) -> None:
    class Lax(WeightQuantizerConformance):
        relative_error = stated

    with pytest.raises(AssertionError, match="state how exact the quantizer is"):
        run_law("test_the_dequantized_weight_is_near", Int8Quantizer(), Lax)


def test_a_law_whose_every_layer_is_refused_is_skipped_with_the_reason(no_shrinking: None) -> None:
    with pytest.raises(pytest.skip.Exception, match="refuses every layer of this law: it can't"):
        run_law("test_running_changes_no_input", Refusing("it can't"))


def test_options_that_are_lost_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def registered(*, factory: Callable[..., WeightQuantizer] = Int4Quantizer, **changes: Any) -> None:
        spec = WeightQuantizerSpec(name="acme", factory=factory, api_version=2, **changes)
        registry = type("Registry", (), {"get": lambda self, hook, name: spec})()
        monkeypatch.setattr(chameleon_backends.testing.weight_quantizers, "REGISTRY", registry)

    class Named(WeightQuantizerConformance):
        quantizer_name = "acme"

    law, quantizer = Named().test_its_options_make_the_same_quantizer_again, Int4Quantizer(64)
    registered()
    law(quantizer)
    registered(from_record=lambda record: {})
    with pytest.raises(AssertionError, match="the options don't survive the record"):
        law(quantizer)
    registered(factory=lambda group_size: Int4Quantizer(128))
    with pytest.raises(AssertionError, match=r"weight_packed has other bits|weight_scale is"):
        law(quantizer)


def test_a_suite_without_a_quantizer_says_what_to_set() -> None:
    class Nameless(WeightQuantizerConformance):
        pass

    fixture = Nameless.quantizer._get_wrapped_function()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Nameless must set quantizer_name, or override the fixture 'quantizer'"):
        fixture(Nameless())


def test_a_standard_test_is_not_lost_without_a_reason() -> None:
    with pytest.raises(TypeError, match="replaces test_running_changes_no_input"):

        class Weak(WeightQuantizerConformance):
            test_running_changes_no_input = None
