"""The layer that runs with a quantized weight.

Shapes: O output features, I input features.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from chameleon_backends import ConfigError, QuantizedLinear, UnsupportedWeightError, get_weight_quantizer
from chameleon_backends.plain_weight import PlainWeight
from chameleon_backends.quantizers.int4_kernels import CPUInt4Weight
from chameleon_backends.testing import TOLERANCES

NAMES = pytest.mark.parametrize("name", ["int8", "int4"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def make_linear(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    """Return a layer from 128 to 48 features, the same each time."""
    linear = nn.Linear(128, 48, bias=bias, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear


def make_layer(name: str, dtype: torch.dtype = torch.float32, *, bias: bool = True) -> QuantizedLinear:
    return QuantizedLinear.from_linear(make_linear(dtype, bias=bias), get_weight_quantizer(name))


def stored_bits(layer: QuantizedLinear) -> dict[str, list[int]]:
    return {name: tensor.flatten().view(torch.uint8).tolist() for name, tensor in layer.stored().items()}


@NAMES
@DTYPES
@pytest.mark.parametrize("bias", [True, False])
def test_it_runs_as_a_linear_layer_with_the_dequantized_weight(name: str, dtype: torch.dtype, bias: bool) -> None:
    layer = make_layer(name, dtype, bias=bias)
    values = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = make_linear(dtype, bias=bias).double()
    plain.weight.data = layer.dequantize().double()
    out = layer(values)
    assert (out.dtype, out.shape) == (dtype, (2, 3, 48))
    torch.testing.assert_close(out.double(), plain(values.double()), atol=128 * TOLERANCES[dtype], rtol=0)


@NAMES
@DTYPES
def test_gradients_flow_to_the_input_and_the_bias_and_not_to_the_weight(name: str, dtype: torch.dtype) -> None:
    layer = make_layer(name, dtype)
    values = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    grad = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(2)).to(dtype)
    layer(values).backward(grad)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert values.grad is not None
    assert layer.bias is not None
    expected = grad.double() @ layer.dequantize().double()
    torch.testing.assert_close(values.grad.double(), expected, atol=48 * TOLERANCES[dtype], rtol=0)
    torch.testing.assert_close(layer.bias.grad, grad.sum((0, 1)))


@NAMES
def test_without_a_need_for_gradients_there_is_no_graph(name: str) -> None:
    layer, values = make_layer(name, bias=False), torch.randn(3, 128)
    assert not layer(values).requires_grad
    with torch.no_grad():
        assert not layer(values.requires_grad_()).requires_grad


@NAMES
def test_another_dtype_leaves_the_stored_bits_alone(name: str) -> None:
    """Converted scales would lose small ones in float16."""
    layer = make_layer(name, bias=False)
    layer.load({**layer.stored(), "weight_scale": layer.stored()["weight_scale"] * 2.0**-30})
    before, out = stored_bits(layer), layer(torch.ones(1, 128))
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32):
        layer.to(dtype)
        assert stored_bits(layer) == before
        assert layer(torch.ones(1, 128, dtype=dtype)).dtype == dtype
    assert torch.equal(layer(torch.ones(1, 128)), out)


def test_the_weight_is_prepared_anew_for_another_dtype() -> None:
    layer = make_layer("int4", torch.bfloat16)
    assert isinstance(layer.prepared, CPUInt4Weight)
    assert isinstance(layer.float().prepared, PlainWeight)
    assert isinstance(layer.bfloat16().prepared, CPUInt4Weight)
    kept = layer.prepared
    assert layer.to("cpu", torch.bfloat16).prepared is kept


@NAMES
@DTYPES
def test_a_state_dict_gives_the_same_layer(name: str, dtype: torch.dtype) -> None:
    layer = make_layer(name, dtype)
    state = layer.state_dict()
    assert state.keys() == {*layer.layout(), "bias"}
    other = QuantizedLinear(layer.quantizer, 128, 48, dtype=dtype, bias=nn.Parameter(torch.zeros(48, dtype=dtype)))
    other.load_state_dict(state)
    values = torch.randn(2, 128).to(dtype)
    assert torch.equal(other(values), layer(values))
    assert stored_bits(other) == stored_bits(layer)


def test_a_state_dict_that_does_not_fit_is_refused_with_what_is_wrong() -> None:
    model = nn.Sequential(make_layer("int8"))
    state = model.state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "0.weight_scale"}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.weight_scale"'):
        model.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "0.weight_zero"'):
        model.load_state_dict({**state, "0.weight_zero": torch.zeros(48)})
    with pytest.raises(RuntimeError, match=r"0: the stored tensors are .*float32.*; the quantizer expects"):
        model.load_state_dict({**state, "0.weight": torch.zeros(48, 128)})


def test_a_layer_without_a_weight_says_so() -> None:
    layer = QuantizedLinear(get_weight_quantizer("int8"), 128, 48, dtype=torch.float32)
    for use in (lambda: layer(torch.ones(1, 128)), layer.state_dict, layer.dequantize):
        with pytest.raises(RuntimeError, match=r"no weight yet; call load\(\) first"):
            use()
    assert layer.to(torch.bfloat16).dtype == torch.bfloat16


def test_another_width_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the input has shape \[2, 64\]; its last size must be 128"):
        make_layer("int8")(torch.ones(2, 64))


def test_tensors_of_another_layout_are_an_error() -> None:
    layer = make_layer("int8")
    with pytest.raises(ConfigError, match="the quantizer expects"):
        layer.load({"weight": layer.stored()["weight"]})


def test_a_layer_that_the_quantizer_refuses_is_refused() -> None:
    with pytest.raises(UnsupportedWeightError, match="96 input features aren't a multiple of the group size 128"):
        QuantizedLinear.from_linear(nn.Linear(96, 16), get_weight_quantizer("int4"))


@NAMES
def test_a_copy_is_independent(name: str) -> None:
    layer = make_layer(name, torch.bfloat16)
    other = copy.deepcopy(layer)
    for tensor in other.stored().values():
        assert not any(tensor.data_ptr() == mine.data_ptr() for mine in layer.stored().values())
    assert torch.equal(other(torch.ones(2, 128).bfloat16()), layer(torch.ones(2, 128).bfloat16()))


def test_it_prints_what_it_is() -> None:
    shown = "QuantizedLinear(in_features=128, out_features=48, bias=True, Int4Quantizer(group_size=128))"
    assert repr(make_layer("int4")) == shown
