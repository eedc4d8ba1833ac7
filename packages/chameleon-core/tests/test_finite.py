"""Numbers that aren't finite: weights on load, logits before a choice; and output layers that do more than multiply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chameleon_core import (
    ChameleonForConditionalGeneration,
    ConfigError,
    GenerationError,
    GenerationOptions,
    WeightsError,
)
from chameleon_core.checkpoints.assign import is_finite
from chameleon_core.testing import make_model
from chameleon_core.training import Objective, TokenDocument, TrainingOptions, collate

PROMPT = torch.tensor([[0, 25, 26], [0, 27, 28]])
BAD = [float("nan"), float("inf"), float("-inf")]


def spoil(folder: Path, value: float, *names: str, dtype: torch.dtype = torch.float32) -> Path:
    make_model().to(dtype).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in names:
        weights[name].view(-1)[1] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", BAD)
def test_weights_that_are_not_finite_are_named_on_load(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    names = ("model.layers.1.self_attn.q_norm.weight", "model.norm.weight")
    folder = spoil(tmp_path, value, *names, dtype=dtype)
    for options in ({}, {"dtype": torch.float32}, {"dtype": torch.bfloat16}):
        with pytest.raises(WeightsError) as raised:
            ChameleonForConditionalGeneration.from_pretrained(folder, **options)  # type: ignore[arg-type]
        assert all(name in str(raised.value) for name in names)
        assert "lm_head" not in str(raised.value)
    model = ChameleonForConditionalGeneration.from_pretrained(folder, check_finite=False)
    assert not is_finite(model.model.norm.weight)


@pytest.mark.parametrize("value", BAD)
def test_weights_that_would_not_load_are_not_saved_unless_asked(tmp_path: Path, value: float) -> None:
    model = make_model()
    model.model.norm.weight.data[1] = value
    for each in (model, model.model):
        with pytest.raises(WeightsError, match=r"weights to save hold NaN or infinity.*norm\.weight"):
            each.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        make_model().save_pretrained(tmp_path, state_dict={**make_model().state_dict(), "lm_head.weight": PROMPT / 0})
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path, check_finite=False)
    with pytest.raises(WeightsError, match="hold NaN or infinity"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", BAD)
def test_a_weight_that_is_quantized_on_load_is_checked_before(tmp_path: Path, value: float) -> None:
    folder = spoil(tmp_path, value, "model.layers.0.mlp.up_proj.weight")
    with pytest.raises(WeightsError, match=r"model\.layers\.0\.mlp\.up_proj"):
        ChameleonForConditionalGeneration.from_pretrained(folder, quantization="int8")


def test_a_cast_that_overflows_is_said(tmp_path: Path) -> None:
    folder = spoil(tmp_path, 1e6, "lm_head.weight")
    with pytest.raises(WeightsError, match=r"lm_head.weight \(finite as torch.float32, beyond"):
        ChameleonForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    ChameleonForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_largest_numbers_of_a_type_are_finite(dtype: torch.dtype) -> None:
    assert is_finite(torch.full((3, 3), torch.finfo(dtype).max).to(dtype))
    assert not is_finite(torch.tensor([1.0, float("nan"), 2.0]).to(dtype))
    assert is_finite(torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("modality", ["text", "image", "interleaved"])
@pytest.mark.parametrize("value", BAD)
def test_no_id_is_chosen_from_logits_that_are_not_finite(value: float, modality: Any, do_sample: bool) -> None:
    model = make_model()
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = value
    with pytest.raises(GenerationError, match=r"row 0, step \d+: \d+ of \d+ logits .*mlp\.down_proj\.weight"):
        model.generate(PROMPT, modality=modality, do_sample=do_sample)


@pytest.mark.parametrize("options", [{}, {"guidance_text": 2.0}, {"do_sample": True, "guidance_image": 0.5}], ids=str)
def test_pictures_are_checked_by_their_own_rows(options: dict[str, Any]) -> None:
    model = make_model()
    model.lm_head.weight.data[model.layout.code_to_id_Z[2]] = float("inf")
    model.generate(PROMPT, max_new_tokens=3)  # text doesn't read those
    with pytest.raises(GenerationError, match=r"row 0, step 1: .*lm_head\.weight"):
        model.generate(PROMPT, modality="image", **options)


def test_the_row_and_the_step_are_those_that_fail() -> None:
    model = make_model()
    free = model.generate(PROMPT, max_new_tokens=6)
    poison = int(free[1, 4])
    assert poison not in free[0].tolist()
    model.model.embed_tokens.weight.data[poison] = float("nan")
    with pytest.raises(GenerationError, match=r"row 1, step 2: .*embed_tokens"):
        model.generate(PROMPT, max_new_tokens=6)


def test_an_overflow_of_float16_is_the_cause_that_is_named() -> None:
    model = make_model().half()
    model.lm_head.weight.data.fill_(6e4)
    model.model.norm.weight.data.fill_(6e4)
    with pytest.raises(GenerationError, match=r"float16 overflows.*bfloat16"):
        model.generate(PROMPT, max_new_tokens=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 1e-40),
        ("temperature", 1e38),
        ("temperature", float("nan")),
        ("image_temperature", 1e-40),
        ("guidance_text", 1e38),
        ("guidance_image", -1e38),
        ("guidance_image", float("nan")),
        ("repetition_penalty", 1e38),
        ("repetition_penalty", 1e-38),
    ],
)
def test_options_that_overflow_are_refused_with_their_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"GenerationOptions\.{name}: Expected `float` [<>]= -?[\d.e-]+"):
        GenerationOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [1e-6, 1e6])
def test_the_bounds_of_the_temperature_sample(bound: float) -> None:
    make_model().generate(PROMPT, do_sample=True, temperature=bound, max_new_tokens=3, repetition_penalty=1e3)
    make_model().generate(PROMPT, do_sample=True, temperature=bound, modality="image", guidance_text=1e4, seed=0)


class Steered(nn.Module):
    """An adapter: the layer and something more."""

    def __init__(self, base: nn.Linear, more_VE: Tensor) -> None:
        super().__init__()
        self.base, self.more_VE = base, more_VE

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return self.base(hidden) + hidden @ self.more_VE.T


class SteeredLinear(nn.Linear):
    """The same as a subclass."""

    more_VE: Tensor

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + hidden @ self.more_VE.T


def steer(model: ChameleonForConditionalGeneration, how: str, more_VE: Tensor) -> None:
    head = model.lm_head
    if how == "wrapper":
        model.lm_head = Steered(head, more_VE)  # type: ignore[assignment]
    elif how == "subclass":
        head.__class__ = SteeredLinear
        head.more_VE = more_VE  # type: ignore[assignment]
    elif how == "hook":
        head.register_forward_hook(lambda _, given, out: out + given[0] @ more_VE.T)
    elif how == "forward":
        before = head.forward
        head.forward = lambda hidden: before(hidden) + hidden @ more_VE.T  # type: ignore[method-assign]
    else:
        head.bias = nn.Parameter(more_VE[:, 0])


@pytest.mark.parametrize("how", ["wrapper", "subclass", "hook", "forward", "bias"])
def test_pictures_are_drawn_by_the_whole_output_layer(how: str) -> None:
    more_VE = 3 * torch.randn(64, make_model().config.hidden_size, generator=torch.Generator().manual_seed(0))
    model = make_model()
    before = model.generate(PROMPT[:1], modality="image")[0]
    steer(model, how, more_VE)
    drawn = model.generate(PROMPT[:1], modality="image")[0]
    codes_Z = model.layout.code_to_id_Z
    logits_TV = model(drawn[None]).logits[0]
    places = range(4, 4 + model.layout.tokens_per_image)
    assert [int(drawn[place]) for place in places] == [
        int(codes_Z[logits_TV[place - 1][codes_Z].argmax()]) for place in places
    ]
    assert not torch.equal(drawn, before)
    batch = collate([TokenDocument.of("drawn", drawn.tolist())], 32)
    sums = Objective(model, TrainingOptions(steps=1, warmup_steps=0))(batch)
    expected = nn.functional.cross_entropy(logits_TV[:-1], drawn[1:], reduction="sum")
    torch.testing.assert_close(sums.cross_entropy_J.sum(), expected)


def test_a_wrapped_output_layer_is_not_resized() -> None:
    model = make_model()
    steer(model, "wrapper", torch.zeros(64, model.config.hidden_size))
    with pytest.raises(ConfigError, match="wrapped in a Steered"):
        model.resize_token_embeddings(70)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "warp", "", "cpu:x", "xpu"])
def test_a_device_that_is_not_there_is_said(tmp_path: Path, device: str) -> None:
    if device.partition(":")[0] in ("cuda", "mps", "xpu") and torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"can't use the device '{device}' here"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, device=device)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", torch.float8_e5m2, torch.int8, "int32", "float128", "", 7])
def test_a_type_that_does_not_compute_is_refused(tmp_path: Path, dtype: Any) -> None:
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="dtype must be"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)


def test_weights_of_a_type_that_does_not_compute_need_one_to_cast_to(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"model\.norm\.weight \(stored torch\.float8_e4m3fn, expected floats that"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype=None)
    ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype="float32")(PROMPT)


def test_weights_of_both_half_types_need_one_to_cast_to(tmp_path: Path) -> None:
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].to(torch.float16)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{name} is float16, .* is bfloat16\. Pass the dtype"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype=None)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)(PROMPT)


def test_an_error_of_many_tensors_lists_the_first_and_their_number(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    others = {f"other.{number:04}": torch.zeros(1) for number in range(2000)}
    save_file({**weights, **others}, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"other\.0009 and 1,990 more\.$"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)
