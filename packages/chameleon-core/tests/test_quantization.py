"""Quantized models: loaded, saved and loaded again, refused, reported on.

Shapes: B batch, T positions of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, UnknownPluginError
from chameleon_core import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ConfigError,
    Quantization,
    WeightsError,
    load_checkpoint,
    pool_checkpoint,
    quantization_report,
    quantize_model,
    read_checkpoint,
)
from chameleon_core.testing import configs, make_config, make_model
from chameleon_core.training import Objective, TrainingOptions, train_picture_rows

INT4 = Quantization("int4", {"group_size": 32})
BOTH = pytest.mark.parametrize("quantization", ["int8", INT4], ids=["int8", "int4"])


def wide_config(**changes: Any) -> ChameleonConfig:
    """Widths that groups of 32 fill, and some that larger ones don't."""
    return make_config(hidden_size=64, intermediate_size=96, **changes)


@pytest.fixture
def float_model() -> ChameleonForConditionalGeneration:
    return make_model(wide_config()).bfloat16()


@pytest.fixture
def folder(float_model: ChameleonForConditionalGeneration, tmp_path: Path) -> Path:
    """A model in bfloat16, in several shards."""
    path = tmp_path / "float"
    float_model.save_pretrained(path, max_shard_size="50KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    return path


def load(folder: Path, **options: Any) -> ChameleonForConditionalGeneration:
    return ChameleonForConditionalGeneration.from_pretrained(folder, **options)


def text(rows: int = 2, length: int = 12) -> Tensor:
    """Ids [B, T] of words."""
    return torch.randint(40, 60, (rows, length), generator=torch.Generator().manual_seed(0))


def quantized_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in safetensors.torch.load_file(path).items()
    }


class TestLoading:
    """From shards of floats."""

    @BOTH
    def test_the_weights_are_those_of_quantizing_each_layer(
        self, folder: Path, float_model: ChameleonForConditionalGeneration, quantization: str | Quantization
    ) -> None:
        model = load(folder, quantization=quantization)
        assert len(quantized_names(model)) == 7 * model.config.num_hidden_layers
        assert type(model.lm_head) is nn.Linear
        for name in quantized_names(model):
            layer = model.get_submodule(name)
            assert isinstance(layer, QuantizedLinear)
            expected = layer.quantizer.quantize(float_model.get_submodule(name).weight)
            assert all(torch.equal(tensor, expected[part]) for part, tensor in layer.stored().items())
        floats = dict(float_model.named_parameters())
        assert all(torch.equal(parameter, floats[name]) for name, parameter in model.named_parameters())

    @BOTH
    def test_in_memory_and_on_load_give_the_same_model(
        self, folder: Path, float_model: ChameleonForConditionalGeneration, quantization: str | Quantization
    ) -> None:
        loaded = load(folder, quantization=quantization)
        quantize_model(float_model, quantization)
        assert loaded.config.extras["quantization_config"] == float_model.config.extras["quantization_config"]
        assert float_model.model.config is float_model.config
        assert torch.equal(loaded(text()).logits, float_model(text()).logits)

    @pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, "auto"], ids=str)
    def test_dtype_is_that_of_what_is_not_quantized(self, folder: Path, dtype: Any) -> None:
        """And of the activations; what is quantized stays the same to the bit."""
        model = load(folder, quantization=INT4, dtype=dtype)
        expected = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert model.dtype == expected
        assert model(text()).logits.dtype == expected
        plain = load(folder, quantization=INT4)
        for name in quantized_names(model):
            layers = [each.get_submodule(name) for each in (model, plain)]
            left, right = (layer.stored() for layer in layers if isinstance(layer, QuantizedLinear))
            assert all(torch.equal(left[part], right[part]) for part in left)

    @settings(derandomize=True, deadline=None, database=None, max_examples=15)
    @given(configs())
    def test_a_model_of_any_kind_is_quantized(self, config: ChameleonConfig) -> None:
        """Grouped heads, biases, tied embeddings, the norm after the branch."""
        model = make_model(config)
        with torch.no_grad():
            before = model(text()).logits
            quantize_model(model, "int8")
            after = model(text()).logits
        assert (after - before).norm() < 0.1 * before.norm()

    def test_checkpoints_of_any_model_are_quantized(self, folder: Path) -> None:
        loaded = load_checkpoint(folder, build=ChameleonForConditionalGeneration, quantization="int8")
        assert loaded.config.extras["quantization_config"]["quant_method"] == "int8"
        assert quantized_names(loaded.model)


class TestSkipping:
    """Which layers stay as they are."""

    @pytest.mark.parametrize(
        ("skip", "stay"),
        [
            (("lm_head",), {"lm_head"}),
            ((), set()),
            (("lm_head", "*.down_proj"), {"lm_head", "down_proj"}),
            (("model.layers.1", "lm_head"), {"lm_head", "layers.1."}),
            (("lm_head", "model.layers.*.mlp"), {"lm_head", "mlp"}),
            (("lm_head", "model.embed_tokens", "*norm*"), {"lm_head"}),
        ],
    )
    def test_what_patterns_name_stays_a_float(self, folder: Path, skip: tuple[str, ...], stay: set[str]) -> None:
        model = load(folder, quantization=Quantization("int8", skip=skip))
        linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        assert all(any(part in name for part in stay) for name in linears)
        assert not any(part in name for name in quantized_names(model) for part in stay)
        assert model.config.extras["quantization_config"]["modules_to_not_convert"] == linears

    def test_an_output_layer_that_is_quantized_writes_text_and_pictures(self, folder: Path) -> None:
        model = load(folder, quantization=Quantization("int8", skip=()))
        assert isinstance(model.lm_head, QuantizedLinear)
        for modality in ("text", "image"):
            prompt = torch.tensor([[0, 50, 51]])
            ids = model.generate(prompt, max_new_tokens=8, modality=modality, do_sample=True, seed=1)
            assert ids.shape[1] > 3
        with pytest.raises(ConfigError, match="the output layer is quantized and can't be resized"):
            model.resize_token_embeddings(80)

    def test_a_pattern_that_fits_nothing_is_an_error(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"'lm_heed', which matches no module.* Did you mean 'lm_head'"):
            load(folder, quantization=Quantization("int8", skip=["lm_heed"]))

    def test_nothing_left_is_an_error(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="no linear layer is left to quantize"):
            load(folder, quantization=Quantization("int8", skip=["*"]))

    def test_a_text_is_no_list(self) -> None:
        with pytest.raises(ConfigError, match=r"Quantization.skip must be a list .*; got the str 'lm_head'"):
            Quantization("int8", skip="lm_head")

    def test_tied_embeddings_stay_floats_or_are_refused(self, tmp_path: Path) -> None:
        model = make_model(wide_config(tie_word_embeddings=True))
        model.save_pretrained(tmp_path)
        loaded = load(tmp_path, quantization="int8")
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        loaded.save_pretrained(tmp_path / "quantized")
        again = load(tmp_path / "quantized")
        assert again.lm_head.weight is again.model.embed_tokens.weight
        with pytest.raises(ConfigError, match="lm_head shares its weight with another layer"):
            load(tmp_path, quantization=Quantization("int8", skip=()))


class TestSaving:
    """A quantized folder loads without arguments."""

    @BOTH
    def test_a_quantized_folder_loads_bit_for_bit(
        self, folder: Path, tmp_path: Path, quantization: str | Quantization
    ) -> None:
        model = load(folder, quantization=quantization)
        model.save_pretrained(tmp_path / "first", max_shard_size="20KB")
        again = load(tmp_path / "first")
        assert again.config == model.config
        assert torch.equal(again(text()).logits, model(text()).logits)
        assert torch.equal(again.generate(text(), max_new_tokens=6), model.generate(text(), max_new_tokens=6))
        again.save_pretrained(tmp_path / "second")
        first, second = stored_tensors(tmp_path / "first"), stored_tensors(tmp_path / "second")
        assert first.keys() == second.keys() == again.state_dict().keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_config_records_it_in_the_ecosystems_place(self, folder: Path, tmp_path: Path) -> None:
        load(folder, quantization=INT4).save_pretrained(tmp_path / "quantized")
        written = json.loads((tmp_path / "quantized" / "config.json").read_text())
        assert written["quantization_config"] == {
            "quant_method": "int4",
            "group_size": 32,
            "modules_to_not_convert": ["lm_head"],
        }
        assert written["dtype"] == "bfloat16"

    def test_it_takes_the_bytes_that_it_should(self, folder: Path, tmp_path: Path) -> None:
        """Half a byte and a share of a scale for each weight of a linear layer."""
        load(folder, quantization=INT4).save_pretrained(tmp_path / "quantized")
        before, after = stored_tensors(folder), stored_tensors(tmp_path / "quantized")
        linears = sum(tensor.numel() for name, tensor in before.items() if "proj" in name)
        saved = sum(tensor.nbytes for tensor in before.values()) - sum(tensor.nbytes for tensor in after.values())
        assert saved == 2 * linears - (linears // 2 + 2 * linears // 32)

    @BOTH
    def test_a_quantized_folder_loads_in_another_dtype(
        self, folder: Path, tmp_path: Path, quantization: str | Quantization
    ) -> None:
        load(folder, quantization=quantization).save_pretrained(tmp_path / "quantized")
        model = load(tmp_path / "quantized", dtype=torch.float32)
        expected = load(folder, quantization=quantization, dtype=torch.float32)
        assert model.dtype == torch.float32
        assert torch.equal(model(text()).logits, expected(text()).logits)

    def test_the_same_quantization_may_be_asked_for_again_and_no_other(self, folder: Path, tmp_path: Path) -> None:
        load(folder, quantization=INT4).save_pretrained(tmp_path / "quantized")
        for same in ("int4", INT4):
            assert quantized_names(load(tmp_path / "quantized", quantization=same))
        for other in ("int8", Quantization("int4", {"group_size": 64})):
            with pytest.raises(ConfigError, match=r"is quantized already, as its config records: .*int4"):
                load(tmp_path / "quantized", quantization=other)

    def test_what_was_quantized_is_not_quantized_again(self, float_model: ChameleonForConditionalGeneration) -> None:
        quantize_model(float_model, "int8")
        with pytest.raises(ConfigError, match=r"the model is quantized already: .*int8"):
            quantize_model(float_model, "int4")


class TestRefusals:
    """Each says what is wrong."""

    def test_what_is_no_configuration_is_refused(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="quantization_config is a object; expected a BitsAndBytesConfig"):
            load(folder, quantization_config=object())

    @pytest.mark.parametrize(
        ("quantization", "error", "message"),
        [
            ("int5", UnknownPluginError, "no weight quantizer named 'int5'"),
            ({"load_in_4bit": True}, ConfigError, "must be the name of a weight quantizer or a Quantization; got"),
            (Quantization("int4", {"bits": 4}), ValueError, "has no option 'bits'; its options are: group_size"),
            ("int4", ConfigError, r"'int4' can't quantize 14 of 14 layers. .*q_proj, .* and 9 more: 64 input features"),
        ],
    )
    def test_a_quantization_that_can_not_be_had_is_refused(
        self, folder: Path, quantization: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            load(folder, quantization=quantization)

    def test_layers_of_several_widths_are_refused_for_their_own_reasons(self) -> None:
        model = make_model(make_config(hidden_size=48, intermediate_size=40))
        with pytest.raises(ConfigError) as caught:
            quantize_model(model, Quantization("int4", {"group_size": 64}))
        assert "48 input features aren't a multiple of the group size 64; int8 takes any width" in str(caught.value)
        assert "down_proj, model.layers.1.mlp.down_proj: 40 input features" in str(caught.value)
        assert not quantized_names(model)

    def test_a_weight_that_is_not_finite_is_named(self, folder: Path) -> None:
        path = next(
            path for path in folder.glob("model-*") if "model.layers.1.mlp.up_proj.weight" in stored_names(path)
        )
        tensors = safetensors.torch.load_file(path)
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(
            WeightsError, match=r"model.layers.1.mlp.up_proj can't run quantized: .*infinite or NaN values"
        ):
            load(folder, quantization="int8")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(
                lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight_scale"),
                r"Missing: model.layers.0.mlp.up_proj.weight_scale\.",
                id="missing",
            ),
            pytest.param(
                lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight_zero": torch.zeros(1)}),
                r"Unexpected: model.layers.0.mlp.up_proj.weight_zero\.",
                id="unexpected",
            ),
            pytest.param(
                lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight_scale": torch.zeros(3).bfloat16()}),
                r"Of another shape: model.layers.0.mlp.up_proj.weight_scale \(stored \[3\], the config says \[96\]\)",
                id="shape",
            ),
            pytest.param(
                lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight_scale": torch.zeros(96)}),
                r"Of another type: .*weight_scale \(stored torch.float32, expected torch.bfloat16\)",
                id="type",
            ),
        ],
    )
    def test_a_damaged_quantized_folder_is_refused_with_all_that_is_wrong(
        self, folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
    ) -> None:
        load(folder, quantization="int8").save_pretrained(tmp_path / "quantized")
        path = tmp_path / "quantized" / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=message):
            load(tmp_path / "quantized")

    def test_codes_without_a_record_are_not_taken_for_weights(self, folder: Path, tmp_path: Path) -> None:
        load(folder, quantization="int8").save_pretrained(tmp_path / "quantized")
        path = tmp_path / "quantized" / "config.json"
        config = json.loads(path.read_text())
        del config["quantization_config"]
        path.write_text(json.dumps(config))
        with pytest.raises(
            WeightsError, match=r"of another type: .*q_proj.weight \(stored torch.int8, expected floats"
        ):
            load(tmp_path / "quantized")

    def test_a_record_of_a_quantizer_that_is_not_installed_is_named(self, folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "eetq"}}))
        with pytest.raises(UnknownPluginError, match=r"no weight quantizer named 'eetq'. Installed: int8, int4"):
            load(folder)

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            (["int8"], "must be a mapping with a string 'quant_method'"),
            ({"quant_method": "int8", "name": "x"}, "'int8' has no option 'name'; its options are: none"),
            ({"quant_method": "int4", "group_size": "x"}, "group_size is 'x'; it must be one of"),
        ],
    )
    def test_a_damaged_record_is_an_error_with_the_folder(self, folder: Path, record: object, message: str) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": record}))
        with pytest.raises(ConfigError, match=f"float has a quantization_config that can't be used: .*{message}"):
            load(folder)

    def test_heads_of_a_quantized_checkpoint_are_not_pooled(self, folder: Path, tmp_path: Path) -> None:
        load(folder, quantization="int8").save_pretrained(tmp_path / "quantized")
        with pytest.raises(ConfigError, match="heads of a quantized checkpoint can't be pooled"):
            pool_checkpoint(read_checkpoint(tmp_path / "quantized"), 2)


def stored_names(path: Path) -> set[str]:
    return set(safetensors.torch.load_file(path))


class TestReport:
    """Bytes, errors of weights, divergence and agreement."""

    def test_its_numbers_are_those_of_the_two_models(
        self, folder: Path, float_model: ChameleonForConditionalGeneration
    ) -> None:
        model = load(folder, quantization=INT4)
        mask = torch.ones(2, 12, dtype=torch.int64)
        mask[0, :4] = 0
        report = quantization_report(float_model, model, text(), mask)
        expected, actual = (
            each(text(), attention_mask=mask).logits[mask.bool()].float() for each in (float_model, model)
        )
        divergence = nn.functional.kl_div(
            actual.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        assert report.num_positions == 20
        torch.testing.assert_close(report.mean_divergence, divergence.mean().item(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(report.largest_divergence, divergence.max().item(), rtol=1e-3, atol=1e-6)
        assert report.top1_agreement == (expected.argmax(-1) == actual.argmax(-1)).double().mean().item()
        assert report.float_bytes == sum(tensor.nbytes for tensor in float_model.state_dict().values())
        assert report.quantized_bytes == sum(tensor.nbytes for tensor in model.state_dict().values())
        assert [layer.name for layer in report.layers] == quantized_names(model)
        layer = model.model.layers[1].mlp.down_proj
        error = layer.dequantize() - float_model.model.layers[1].mlp.down_proj.weight.float()
        reported = report.layers[-1]
        assert reported.name == "model.layers.1.mlp.down_proj"
        assert reported.num_bytes == sum(tensor.nbytes for tensor in layer.stored().values())
        assert reported.relative_error == pytest.approx(
            (error.norm() / float_model.model.layers[1].mlp.down_proj.weight.float().norm()).item()
        )
        assert reported.largest_error == error.abs().max().item()

    def test_it_reads_well(self, float_model: ChameleonForConditionalGeneration, folder: Path) -> None:
        report = quantization_report(float_model, load(folder, quantization="int8"), text())
        lines = str(report).splitlines()
        assert lines[0] == "quant_method=int8, modules_to_not_convert=['lm_head']"
        assert lines[1] == "89.7 kB; the float model has 157 kB (57.0%)"
        assert lines[2] == f"the likeliest id is the same at {report.top1_agreement:.2%} of 24 positions"
        assert lines[3].startswith(f"KL divergence: mean {report.mean_divergence:.2e} nats, ")
        assert lines[-1].split() == [
            "model.layers.1.mlp.down_proj",
            "6.27",
            "kB",
            f"{report.layers[-1].relative_error:.3%},",
            f"{report.layers[-1].largest_error:.2e}",
        ]

    def test_models_that_do_not_belong_together_are_refused(
        self, float_model: ChameleonForConditionalGeneration, folder: Path
    ) -> None:
        quantized = load(folder, quantization="int8")
        with pytest.raises(ConfigError, match="there are no ids to compare the models on"):
            quantization_report(float_model, quantized, text(), torch.zeros(2, 12, dtype=torch.int64))
        with pytest.raises(ConfigError, match="the second model isn't quantized"):
            quantization_report(quantized, float_model, text())
        with pytest.raises(ConfigError, match=r"'model.layers.0.self_attn.q_proj' of the first model isn't the float"):
            quantization_report(quantized, quantized, text())
        with pytest.raises(ConfigError, match=r"the first model has no linear layer 'model.layers.1"):
            quantization_report(make_model(wide_config(num_hidden_layers=1)), quantized, text())


class TestTraining:
    """What stays float trains; what is quantized lets gradients through."""

    @BOTH
    def test_gradients_are_those_of_the_dequantized_model(self, quantization: str | Quantization) -> None:
        quantized, plain = make_model(wide_config()), make_model(wide_config())
        quantize_model(quantized, quantization)
        with torch.no_grad():
            for name in quantized_names(quantized):
                layer = quantized.get_submodule(name)
                assert isinstance(layer, QuantizedLinear)
                plain.get_submodule(name).weight.copy_(layer.dequantize())
        for model in (quantized, plain):
            model(text(), labels=text()).loss.backward()
        of_plain = dict(plain.named_parameters())
        for name, parameter in quantized.named_parameters():
            torch.testing.assert_close(parameter.grad, of_plain[name].grad, rtol=1e-4, atol=1e-6)

    def test_a_quantized_model_is_not_trained_as_a_whole(self) -> None:
        model = make_model(wide_config())
        quantize_model(model, "int8")
        options = TrainingOptions(steps=1, warmup_steps=1, batch_size=1, sequence_length=8)
        with pytest.raises(ConfigError, match=r"the model's linear layers are quantized and can't train. Add adapters"):
            Objective(model, options)
        model.requires_grad_(False)
        assert Objective(model, options).model is model

    def test_the_picture_rows_of_a_float_output_layer_train(self) -> None:
        model = make_model(wide_config())
        quantize_model(model, "int8")
        train_picture_rows(model)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained == ["lm_head.parametrizations.weight.0.rows_NE"]
        model(text(), labels=text()).loss.backward()
        assert model.get_parameter(trained[0]).grad is not None

        whole = make_model(wide_config())
        quantize_model(whole, Quantization("int8", skip=()))
        with pytest.raises(ConfigError, match="the output layer is quantized and can't train"):
            train_picture_rows(whole)
