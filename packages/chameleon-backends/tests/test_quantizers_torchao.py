"""``torchao``, where it is installed.

Shapes: O output features, I input features.
"""

from __future__ import annotations

import pytest
import torch

from chameleon_backends import (
    ConfigError,
    QuantizedLinear,
    UnsupportedWeightError,
    WeightQuantizer,
    get_weight_quantizer,
)
from chameleon_backends.testing import WeightQuantizerConformance

torchao = pytest.importorskip("torchao")


class TestInt8WeightOnly(WeightQuantizerConformance):
    quantizer_name = "torchao"
    relative_error = 0.01

    not_applicable = {
        "test_quantizing_what_was_dequantized_changes_nothing": (
            "its scales are 1/127.5 of the largest value, which the codes don't reach"
        )
    }

    def test_quantizing_again_shrinks_the_largest_value_by_a_step_at_most(self, quantizer: WeightQuantizer) -> None:
        weight_OI = 0.05 * torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
        once_OI = quantizer.dequantize(quantizer.quantize(weight_OI))
        twice_OI = quantizer.dequantize(quantizer.quantize(once_OI))
        assert (twice_OI - once_OI).abs().max() <= once_OI.abs().max() / 127


def test_a_config_is_an_object_or_a_name_or_its_dict_form() -> None:
    from torchao.quantization import Float8WeightOnlyConfig

    named = get_weight_quantizer("torchao", config="Float8WeightOnlyConfig")
    given = get_weight_quantizer("torchao", config=Float8WeightOnlyConfig())
    read = get_weight_quantizer("torchao", **named.options())
    assert named == given == read
    linear = torch.nn.Linear(64, 48)
    layer = QuantizedLinear.from_linear(linear, named)
    assert layer.stored()["weight_qdata"].dtype == torch.float8_e4m3fn
    torch.testing.assert_close(layer(torch.ones(2, 64)), layer.dequantize().sum(1).expand(2, -1) + linear.bias)


@pytest.mark.parametrize("config", ["NoSuchConfig", {"_type": "os", "_data": {}}, 3])
def test_what_is_not_a_config_is_refused(config: object) -> None:
    with pytest.raises(ConfigError, match=r"is not a config of torchao\.quantization"):
        get_weight_quantizer("torchao", config=config)


def test_the_packages_reasons_are_given() -> None:
    linear = torch.nn.Linear(64, 48)
    with torch.no_grad():
        linear.weight[3] = 0
    with pytest.raises(UnsupportedWeightError, match="Float8WeightOnlyConfig makes NaN of the weight"):
        QuantizedLinear.from_linear(linear, get_weight_quantizer("torchao", config="Float8WeightOnlyConfig"))
    with pytest.raises(UnsupportedWeightError, match="Int4WeightOnlyConfig leaves the weight as it is"):
        # Its groups of 128 don't fill the rows.
        QuantizedLinear.from_linear(linear, get_weight_quantizer("torchao", config="Int4WeightOnlyConfig"))
    with pytest.raises(UnsupportedWeightError, match="Int8StaticActivationInt8WeightConfig refuses the weight"):
        # It needs a calibration.
        get_weight_quantizer("torchao", config="Int8StaticActivationInt8WeightConfig").quantize(linear.weight)


def test_a_shape_that_does_not_fit_its_tensors_is_refused() -> None:
    quantizer = get_weight_quantizer("torchao")
    stored = quantizer.quantize(torch.randn(48, 64))
    layer = QuantizedLinear(quantizer, 64, 48, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"are those of a weight \[64, 48\], expected"):
        layer.load({**stored, "weight_shape": torch.tensor([64, 48])})
    with pytest.raises(ConfigError, match=r"aren't those of a weight \[64, 48\]"):
        quantizer.dequantize({**stored, "weight_shape": torch.tensor([64, 48])})
