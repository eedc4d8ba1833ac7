"""The conformance suite for weight quantizers: the contract of ``WeightQuantizer`` as laws.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load, save
from torch import Tensor

from ..errors import UnsupportedWeightError
from ..quantized_linear import QuantizedLinear
from ..registry import REGISTRY, WEIGHT_QUANTIZERS_HOOK, get_weight_quantizer
from ..weight_quantizer import LinearSpec, TensorLayout, WeightQuantizer, WeightQuantizerSpec
from .conformance import Conformance
from .linear_problems import LinearProblem, linear_problems, make_linear_problem
from .strategies import LAWS
from .tolerances import assert_close

WORST_ERROR = 0.25
"""Above this error a quantizer is useless: three bits are more exact."""

Law = Callable[[Any, WeightQuantizer, LinearProblem], None]


def for_all(*, examples: int = 25, **drawn: Any) -> Callable[[Law], Callable[[Any, WeightQuantizer], None]]:
    """Turn a law about one problem into a test of problems drawn by ``linear_problems(**drawn)``.

    Layers that the quantizer refuses are passed over; where it refuses all, the test is skipped with its reason.
    """

    def decorate(law: Law) -> Callable[[Any, WeightQuantizer], None]:
        def test(self: Any, quantizer: WeightQuantizer) -> None:
            refusals: list[str] = []
            served = 0

            def holds(problem: LinearProblem) -> None:
                nonlocal served
                reason = quantizer.unsupported(problem.spec)
                if reason is None:
                    law(self, quantizer, problem)
                    served += 1
                else:
                    refusals.append(reason)

            problems = linear_problems(device=self.device, **drawn)
            settings(LAWS, max_examples=examples)(given(problems)(holds))()
            if not served:
                pytest.skip(f"the quantizer refuses every layer of this law: {refusals[0]}")

        test.__name__, test.__qualname__, test.__doc__ = law.__name__, law.__qualname__, law.__doc__
        return test

    return decorate


class WeightQuantizerConformance(Conformance):
    """The contract of ``WeightQuantizer`` as tests. Derive from it, name the quantizer, and state its error::

        class TestAcme(WeightQuantizerConformance):
            quantizer_name = "acme"
            relative_error = 0.01

    ``relative_error`` is the largest ‖dequantized − weight‖ / ‖weight‖ allowed for normally distributed weights of any
    width. ``options`` are the quantizer's. It is looked up by its name, so its plugin must be installed; to test one
    that isn't registered, override the fixture ``quantizer``. A law is skipped, with the quantizer's reason, where it
    refuses all of the law's layers; refusing even the plainest ones is a failure.
    """

    quantizer_name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    relative_error: ClassVar[float] = math.nan
    device: ClassVar[str] = "cpu"

    @pytest.fixture
    def quantizer(self) -> WeightQuantizer:
        """The quantizer under test."""
        if not self.quantizer_name:
            raise ValueError(f"{type(self).__name__} must set quantizer_name, or override the fixture 'quantizer'.")
        reason = REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, self.quantizer_name).why_unavailable()
        if reason is not None:
            pytest.fail(f"{self.quantizer_name!r} can't run here, so nothing was tested: {reason}")
        return get_weight_quantizer(self.quantizer_name, **self.options)

    # How it is registered, and what it refuses.

    def test_the_plugin_gives_a_light_spec_and_a_quantizer(self, quantizer: WeightQuantizer) -> None:
        """The spec is a ``WeightQuantizerSpec`` with a summary, the quantizer a ``WeightQuantizer``."""
        assert isinstance(quantizer, WeightQuantizer), "a quantizer derives from WeightQuantizer"
        if self.quantizer_name:
            spec = REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, self.quantizer_name)
            assert isinstance(spec, WeightQuantizerSpec), f"the hook returned {type(spec).__name__}"
            assert spec.summary, "the spec has no summary for the listing"

    def test_it_serves_the_plainest_layers(self, quantizer: WeightQuantizer) -> None:
        """256 × 256, in at least one of the usual dtypes."""
        reasons = [quantizer.unsupported(_square(dtype, self.device)) for dtype in (torch.float32, torch.bfloat16)]
        assert None in reasons, f"the quantizer refuses even the plainest layers: {reasons}"

    def test_what_it_refuses_it_refuses_by_a_sentence(self, quantizer: WeightQuantizer) -> None:
        """``unsupported`` and quantizing agree, so that a plan and a run say the same."""

        @settings(LAWS, max_examples=25)
        @given(linear_problems(device=self.device, dtypes=(torch.float32, torch.bfloat16, torch.float64)))
        def holds(problem: LinearProblem) -> None:
            reason, refusal = quantizer.unsupported(problem.spec), _refusal(quantizer, problem)
            assert reason is None or reason.strip(), "a refusal without a reason"
            assert reason is not None or refusal is None, f"unsupported() allows what is refused: {refusal}"

        holds()

    def test_its_options_make_the_same_quantizer_again(self, quantizer: WeightQuantizer) -> None:
        """Through JSON, and through the record in a model's config."""
        options = json.loads(json.dumps(quantizer.options()))
        assert options == quantizer.options(), "the options don't survive JSON"
        if not self.quantizer_name:
            pytest.skip("a quantizer that isn't registered isn't made from options")
        spec = REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, self.quantizer_name)
        assert isinstance(spec, WeightQuantizerSpec)
        record = json.loads(json.dumps(spec.write_record(options, ["lm_head"])))
        assert spec.read_record(record) == options, f"the options don't survive the record {record}"
        problem = self._served(quantizer)
        _assert_equal(spec.make(**options).quantize(problem.weight_OI), quantizer.quantize(problem.weight_OI))

    # What it stores.

    @for_all()
    def test_stored_tensors_are_those_of_the_layout(self, quantizer: WeightQuantizer, problem: LinearProblem) -> None:
        """Names, types and shapes."""
        stored = quantizer.quantize(problem.weight_OI)
        layout = quantizer.layout(problem.spec.in_features, problem.spec.out_features)
        assert stored.keys() == layout.keys(), f"stored are {sorted(stored)}, the layout has {sorted(layout)}"
        for name, tensor in stored.items():
            found = TensorLayout(tensor.dtype, tuple(tensor.shape))
            assert layout[name].fits(found), f"{name} is {found}, the layout says {layout[name]}"
            assert tensor.is_contiguous(), f"{name} isn't contiguous, as files require"

    @for_all()
    def test_quantizing_changes_no_input_and_draws_nothing(
        self, quantizer: WeightQuantizer, problem: LinearProblem
    ) -> None:
        """The second time gives the same bits; the weight isn't changed, not even when the stored tensors are."""
        before, state = problem.weight_OI.clone(), torch.get_rng_state()
        stored = quantizer.quantize(problem.weight_OI)
        _assert_equal(quantizer.quantize(problem.weight_OI), stored)
        assert torch.equal(state, torch.get_rng_state()), "random numbers were drawn"
        for tensor in stored.values():
            tensor.zero_()
        assert torch.equal(before, problem.weight_OI), "the weight was changed, or shares memory with what is stored"

    def test_it_takes_less_than_half_precision(self, quantizer: WeightQuantizer) -> None:
        """All stored tensors together."""
        problem = self._served(quantizer)
        taken = sum(tensor.nbytes for tensor in quantizer.quantize(problem.weight_OI).values())
        allowed = 2 * problem.weight_OI.numel()
        assert taken < allowed, f"{taken} bytes, where bfloat16 takes {allowed}"

    @for_all()
    def test_a_file_gives_the_same_bits(self, quantizer: WeightQuantizer, problem: LinearProblem) -> None:
        """Stored tensors go through safetensors, and the product with what comes back is the same."""
        stored = quantizer.quantize(problem.weight_OI)
        loaded = {name: tensor.to(self.device) for name, tensor in load(save(stored)).items()}
        _assert_equal(loaded, stored)
        _assert_equal({"out": _run(quantizer, loaded, problem)}, {"out": _run(quantizer, stored, problem)})

    # What it stands for.

    @for_all(plain=True)
    def test_the_dequantized_weight_is_near(self, quantizer: WeightQuantizer, problem: LinearProblem) -> None:
        """As near as the suite's ``relative_error`` says."""
        assert 0 < self.relative_error < WORST_ERROR, (
            f"relative_error is {self.relative_error}; state how exact the quantizer is, between 0 and {WORST_ERROR}"
        )
        weight_OI, dequantized_OI = problem.weight_OI.double(), _dequantize(quantizer, problem).double()
        error = ((dequantized_OI - weight_OI).norm() / weight_OI.norm()).item()
        assert error <= self.relative_error, f"the error is {error:.3%}, above the stated {self.relative_error:.3%}"

    @for_all()
    def test_quantizing_what_was_dequantized_changes_nothing(
        self, quantizer: WeightQuantizer, problem: LinearProblem
    ) -> None:
        """Except for rounding in float32, so that a model doesn't drift."""
        once_OI = _dequantize(quantizer, problem)
        twice_OI = quantizer.dequantize(quantizer.quantize(once_OI))
        assert_close("the weight", twice_OI, once_OI.double(), once_OI.double().abs(), torch.float32)

    def test_zeros_stay_zeros(self, quantizer: WeightQuantizer) -> None:
        """A weight of zeros, and a row of zeros among others; never NaN."""
        problem = self._served(quantizer)
        for zeros in (slice(None), slice(1, 2)):
            weight_OI = problem.weight_OI.clone()
            weight_OI[zeros] = 0
            dequantized_OI = quantizer.dequantize(quantizer.quantize(weight_OI))
            assert not dequantized_OI[zeros].any(), "zeros became something else"
            assert dequantized_OI.isfinite().all(), "a weight with zeros became infinite or NaN"

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_values_that_are_not_finite_are_refused(self, quantizer: WeightQuantizer, value: float) -> None:
        """They would spread over their row or group."""
        weight_OI = self._served(quantizer).weight_OI.clone()
        weight_OI[3, 5] = value
        with pytest.raises(UnsupportedWeightError):
            quantizer.quantize(weight_OI)

    # How a layer runs.

    @for_all(examples=75)
    def test_products_equal_those_of_the_dequantized_weight(
        self, quantizer: WeightQuantizer, problem: LinearProblem
    ) -> None:
        """One row and many, of any strides, within the table of tolerances of float64."""
        stored = quantizer.quantize(problem.weight_OI)
        weight_OI, values = quantizer.dequantize(stored).double(), problem.input.double()
        out, expected = _run(quantizer, stored, problem), values @ weight_OI.T
        assert out.shape == expected.shape, f"out has shape {tuple(out.shape)}, expected {tuple(expected.shape)}"
        if len(out.flatten()):
            assert_close("out", out, expected, values.abs() @ weight_OI.abs().T, problem.spec.dtype)

    @for_all()
    def test_what_a_kernel_wants_is_undone(self, quantizer: WeightQuantizer, problem: LinearProblem) -> None:
        """A prepared weight gives back what it was prepared from, bit for bit."""
        stored = quantizer.quantize(problem.weight_OI)
        copy = {name: tensor.clone() for name, tensor in stored.items()}
        _assert_equal(quantizer.prepare(stored, problem.spec).stored(), copy)

    @for_all()
    def test_running_changes_no_input(self, quantizer: WeightQuantizer, problem: LinearProblem) -> None:
        """The input may be the residual stream."""
        before = problem.input.clone()
        _run(quantizer, quantizer.quantize(problem.weight_OI), problem)
        assert torch.equal(problem.input, before), "the input was changed in place"

    def _served(self, quantizer: WeightQuantizer) -> LinearProblem:
        """Return a plain problem in the first usual dtype that the quantizer serves."""
        for dtype in (torch.float32, torch.bfloat16):
            spec = _square(dtype, self.device)
            reason = quantizer.unsupported(spec)
            if reason is None:
                return make_linear_problem(spec)
        pytest.skip(f"the quantizer refuses this law's layer: {reason}")


def _square(dtype: torch.dtype, device: str) -> LinearSpec:
    return LinearSpec(in_features=256, out_features=256, dtype=dtype, device=torch.device(device))


def _refusal(quantizer: WeightQuantizer, problem: LinearProblem) -> str | None:
    """Return why the quantizer refuses to quantize and prepare the weight, None where it doesn't."""
    try:
        quantizer.prepare(quantizer.quantize(problem.weight_OI), problem.spec)
    except UnsupportedWeightError as error:
        return str(error)
    return None


def _dequantize(quantizer: WeightQuantizer, problem: LinearProblem) -> Tensor:
    weight_OI = quantizer.dequantize(quantizer.quantize(problem.weight_OI))
    expected = (torch.float32, problem.weight_OI.shape)
    assert (weight_OI.dtype, weight_OI.shape) == expected, f"dequantized is {weight_OI.dtype} {weight_OI.shape}"
    return weight_OI


def _run(quantizer: WeightQuantizer, stored: Mapping[str, Tensor], problem: LinearProblem) -> Tensor:
    """Return the output of a layer."""
    spec = problem.spec
    layer = QuantizedLinear(quantizer, spec.in_features, spec.out_features, dtype=spec.dtype)
    layer.load(stored)
    out: Tensor = layer(problem.input)
    return out


def _assert_equal(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys(), f"{sorted(actual)}, expected {sorted(expected)}"
    for name, tensor in expected.items():
        found = actual[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), f"{name} is {found.dtype} {found.shape}"
        # By their bytes, since NaN isn't equal to itself, and 0 is equal to −0.
        assert torch.equal(_bytes(found), _bytes(tensor)), f"{name} has other bits"


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
