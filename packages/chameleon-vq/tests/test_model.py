"""The network: names, shapes, cases computed by hand, and the effect of each argument."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer, MissingDecoderError
from chameleon_vq.blocks import AttentionBlock, Downsample, GroupNorm, ResnetBlock, Upsample
from chameleon_vq.testing import configs

GOLDEN = Path(__file__).with_name("golden_state_dict.txt")


def small(**fields: object) -> ChameleonVQVAEConfig:
    """8×8 pixels, 4×4 positions."""
    defaults: dict[str, object] = {
        "resolution": 8,
        "base_channels": 32,
        "channel_multiplier": (1, 2),
        "num_res_blocks": 1,
        "latent_channels": 6,
        "embed_dim": 4,
        "num_embeddings": 16,
        "initializer_range": 0.1,
    }
    return ChameleonVQVAEConfig(**{**defaults, **fields})  # type: ignore[arg-type]


def test_the_full_size_state_dict_has_upstream_s_names_and_shapes() -> None:
    with torch.device("meta"):
        state = ChameleonVQVAE(ChameleonVQVAEConfig()).state_dict()
    found = [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in sorted(state.items())]
    assert found == GOLDEN.read_text().splitlines()


def test_the_full_size_encoder_side_has_29_4_million_parameters() -> None:
    with torch.device("meta"):
        model = ChameleonVQVAE(ChameleonVQVAEConfig(), with_decoder=False)
    parameters = sum(each.numel() for each in model.parameters())
    assert parameters - sum(each.numel() for each in model.post_quant_conv.parameters()) == 29_357_824


@settings(max_examples=25)
@given(configs())
def test_a_picture_becomes_a_grid_of_codes_and_a_picture_again(config: ChameleonVQVAEConfig) -> None:
    model = ChameleonVQVAE(config).eval()
    pixels_BCHW = torch.rand(2, config.in_channels, config.resolution, config.resolution) * 2 - 1
    encoding = model.encode(pixels_BCHW)
    side = config.resolution // config.stride
    assert encoding.codes_Bhw.shape == (2, side, side)
    assert encoding.latents_BDhw.shape == (2, config.embed_dim, side, side)
    assert encoding.quantized_BDhw.shape == encoding.latents_BDhw.shape
    assert encoding.usage.sum() == 2 * side * side
    assert model.decode(encoding.codes_Bhw).shape == pixels_BCHW.shape


@pytest.mark.parametrize("quantizer", ["codebook", "ema", "fsq", "lfq", "residual"])
@pytest.mark.parametrize("returned", ["pixels", "latents", "quantized", "loss"])
def test_gradients_flow_to_the_encoder_through_everything_that_is_returned(quantizer: str, returned: str) -> None:
    options: dict[str, object] = {"fsq": {"levels": (2, 2, 2, 2)}, "residual": {"num_quantizers": 2}}.get(quantizer, {})
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(quantizer=quantizer, quantizer_options=options))
    result = model(torch.rand(2, 3, 8, 8) * 2 - 1)
    encoding = result.encoding
    value = {
        "pixels": result.pixels_BCHW,
        "latents": encoding.latents_BDhw,
        "quantized": encoding.quantized_BDhw,
        "loss": encoding.loss,
    }[returned]
    if quantizer == "fsq" and returned == "loss":
        assert value == 0, "there is nothing to learn"
        return
    weight = model.encoder.conv_in.weight
    (gradient,) = torch.autograd.grad((value * torch.arange(1.0, value.numel() + 1).view_as(value)).sum(), weight)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_the_gradient_of_quantized_latents_passes_straight_through() -> None:
    torch.manual_seed(0)
    encoding = ChameleonVQVAE(small()).encode(torch.rand(1, 3, 8, 8) * 2 - 1)
    weights_BDhw = torch.randn_like(encoding.quantized_BDhw)
    (gradient_BDhw,) = torch.autograd.grad((encoding.quantized_BDhw * weights_BDhw).sum(), encoding.latents_BDhw)
    torch.testing.assert_close(gradient_BDhw, weights_BDhw)


def test_decoding_codes_is_decoding_what_they_stand_for() -> None:
    model = ChameleonVQVAE(small()).eval()
    reconstruction = model(torch.rand(1, 3, 8, 8) * 2 - 1)
    torch.testing.assert_close(model.decode(reconstruction.encoding.codes_Bhw), reconstruction.pixels_BCHW)


def test_downsampling_pads_right_and_below() -> None:
    layer = Downsample(1)
    torch.nn.init.ones_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]
    pixels_BCHW = torch.arange(16.0).view(1, 1, 4, 4)
    # Sums of 3×3 windows whose top left corners are (0, 0), (0, 2), (2, 0), (2, 2); outside is zero.
    expected = torch.tensor([[[[45.0, 39.0], [66.0, 50.0]]]])
    assert torch.equal(layer(pixels_BCHW), expected)


def test_upsampling_repeats_each_pixel() -> None:
    layer = Upsample(1)
    torch.nn.init.dirac_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]
    pixels_BCHW = torch.tensor([[[[1.0, 2.0]]]])
    assert torch.equal(layer(pixels_BCHW), torch.tensor([[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]))


def test_a_block_whose_last_convolution_is_zero_is_its_shortcut() -> None:
    hidden_BCHW = torch.randn(1, 32, 3, 3)
    for out_channels in (32, 64):
        block = ResnetBlock(32, out_channels, dropout=0.0)
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
        shortcut = hidden_BCHW if block.nin_shortcut is None else block.nin_shortcut(hidden_BCHW)
        assert torch.equal(block(hidden_BCHW), shortcut)
        assert (block.nin_shortcut is None) == (out_channels == 32)


def test_attention_is_the_softmax_of_the_products_over_the_root_of_the_width() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(32)
    hidden_BCHW = torch.randn(2, 32, 3, 2)
    normed = block.norm(hidden_BCHW)
    query, key, value = (layer(normed).flatten(2) for layer in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bcp,bcs->bps", query, key) / 32**0.5, dim=2)
    attended = torch.einsum("bps,bcs->bcp", weights, value).view_as(hidden_BCHW)
    torch.testing.assert_close(block(hidden_BCHW), hidden_BCHW + block.proj_out(attended))


@pytest.mark.parametrize("groups", [8, 32])
def test_the_norm_is_as_exact_channels_last_as_in_float64(groups: int) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(64, groups=groups)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    hidden_BCHW = (torch.randn(2, 64, 48, 40) * 3 + 5).contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(hidden_BCHW.double(), groups, norm.weight.double(), norm.bias.double(), 1e-6)
    with torch.no_grad():
        # A few roundings of values up to about 15 (2⁻²⁴ each).
        torch.testing.assert_close(norm(hidden_BCHW), exact.float(), rtol=1e-6, atol=3e-6)


def test_the_norm_of_a_flat_picture_is_its_bias_channels_last() -> None:
    norm = GroupNorm(32)
    torch.nn.init.ones_(norm.bias)
    flat_BCHW = torch.linspace(-9, 9, 32).view(1, 32, 1, 1).expand(1, 32, 40, 40)
    flat_BCHW = flat_BCHW.contiguous(memory_format=torch.channels_last)
    # The deviation is that of eps, 1e-3: it multiplies the rounding of values up to 9.
    torch.testing.assert_close(norm(flat_BCHW), torch.ones_like(flat_BCHW), rtol=0, atol=2e-3)


def test_every_norm_has_as_many_groups_as_the_config_says() -> None:
    config = ChameleonVQVAEConfig(
        base_channels=8, channel_multiplier=(1, 2), resolution=8, attn_resolutions=(4,), latent_channels=4, embed_dim=4,
        num_embeddings=8, norm_num_groups=4,
    )  # fmt: skip
    norms = [module for module in ChameleonVQVAE(config).modules() if isinstance(module, torch.nn.GroupNorm)]
    assert norms
    assert {norm.num_groups for norm in norms} == {4}
    assert ChameleonVQVAEConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("record_gradient", [True, False])
def test_both_memory_layouts_give_the_same_latents_and_pixels(record_gradient: bool) -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small()).eval()
    pixels_BCHW = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.set_grad_enabled(record_gradient):
        expected = model(pixels_BCHW)
        found = model(pixels_BCHW.contiguous(memory_format=torch.channels_last))
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.encoding.latents_BDhw, expected.encoding.latents_BDhw, **close)
    torch.testing.assert_close(found.pixels_BCHW, expected.pixels_BCHW, **close)


@pytest.mark.parametrize(
    ("dtype", "channels", "layout"),
    [
        (torch.float32, 144, torch.contiguous_format),
        (torch.float32, 32, torch.channels_last),
        (torch.bfloat16, 144, torch.channels_last),
        (torch.float16, 32, torch.channels_last),
    ],
)
def test_encoding_chooses_the_layout_whatever_the_pixels_have(
    dtype: torch.dtype, channels: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(base_channels=channels, norm_num_groups=8)).eval().to(dtype)
    given: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    pixels_BCHW = (torch.rand(2, 3, 8, 8) * 2 - 1).to(dtype)
    with torch.no_grad():
        first = model.encode(pixels_BCHW)
        last = model.encode(pixels_BCHW.contiguous(memory_format=torch.channels_last))
    codes_BN = ImageTokenizer(model).encode_pixels(pixels_BCHW)
    assert len(given) == 3
    assert all(each.is_contiguous(memory_format=layout) for each in given)
    assert first.latents_BDhw.is_contiguous()
    assert torch.equal(first.latents_BDhw, last.latents_BDhw)
    assert torch.equal(first.codes_Bhw, last.codes_Bhw)
    assert torch.equal(first.codes_Bhw.flatten(1), codes_BN)


def test_latents_are_as_near_to_float64_as_their_layout_promises() -> None:
    """Relative to the latents; a rounding is 6e-8, and there are some thirty layers with up to 2304 products each."""
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(base_channels=128, channel_multiplier=(1, 2), norm_num_groups=32)).eval()
    pixels_BCHW = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        found = {
            "chosen": model.encode(pixels_BCHW).hidden_BDhw,
            "first": model.encoder(pixels_BCHW),
            "last": model.encoder(pixels_BCHW.contiguous(memory_format=torch.channels_last)),
        }
        exact_BDhw = model.double().encoder(pixels_BCHW.double())
    errors = {name: float((each.double() - exact_BDhw).norm() / exact_BDhw.norm()) for name, each in found.items()}
    assert errors["chosen"] == errors["first"]
    assert errors["first"] < 3e-6
    assert errors["last"] < 1e-5


def test_the_norm_s_gradient_is_the_same_channels_last() -> None:
    torch.manual_seed(0)
    norm = GroupNorm(64)
    hidden_BCHW = torch.randn(2, 64, 6, 5)
    weights_BCHW = torch.randn(2, 64, 6, 5)

    def gradients(layout: torch.memory_format) -> tuple[torch.Tensor, ...]:
        leaf_BCHW = hidden_BCHW.contiguous(memory_format=layout).requires_grad_()
        return torch.autograd.grad((norm(leaf_BCHW) * weights_BCHW).sum(), [leaf_BCHW, norm.weight, norm.bias])

    for found, expected in zip(gradients(torch.channels_last), gradients(torch.contiguous_format), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_double_latent_s_first_half_is_quantized() -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(double_latent=True)).eval()
    pixels_BCHW = torch.rand(1, 3, 8, 8)
    before = model.encode(pixels_BCHW)
    assert model.encoder(pixels_BCHW).shape[1] == 2 * 6
    with torch.no_grad():
        model.encoder.conv_out.weight[6:] += 1  # the log-variances
    assert torch.equal(model.encode(pixels_BCHW).latents_BDhw, before.latents_BDhw)
    with torch.no_grad():
        model.encoder.conv_out.weight[:6] += 1  # the means
    assert not torch.equal(model.encode(pixels_BCHW).latents_BDhw, before.latents_BDhw)


@pytest.mark.parametrize("attn_type", ["none", None])
def test_without_attention_no_layer_attends(attn_type: str | None) -> None:
    model = ChameleonVQVAE(small(attn_type=attn_type, attn_resolutions=(8, 4)))
    assert not any("attn" in name for name in model.state_dict())


def test_attention_sits_at_the_resolutions_asked_for() -> None:
    names = ChameleonVQVAE(small(attn_resolutions=(4,), num_res_blocks=2)).state_dict()
    attending = {name.split(".attn")[0] + ".attn" for name in names if ".attn." in name}
    assert attending == {"encoder.down.1.attn", "decoder.up.1.attn"}
    assert "encoder.down.1.attn.1.q.weight" in names
    assert "decoder.up.1.attn.2.q.weight" in names  # one block more than the encoder
    assert {"encoder.mid.attn_1.q.weight", "decoder.mid.attn_1.q.weight"} <= set(names)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(dropout=0.5))
    pixels_BCHW = torch.rand(1, 3, 8, 8)
    assert not torch.equal(model.encode(pixels_BCHW).latents_BDhw, model.encode(pixels_BCHW).latents_BDhw)
    model.eval()
    assert torch.equal(model.encode(pixels_BCHW).latents_BDhw, model.encode(pixels_BCHW).latents_BDhw)


def test_a_training_step_lowers_the_loss_of_both_terms() -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(base_channels=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels_BCHW = torch.rand(4, 3, 8, 8) * 2 - 1
    losses = []
    for _ in range(20):
        reconstruction = model(pixels_BCHW)
        loss = F.mse_loss(reconstruction.pixels_BCHW, pixels_BCHW) + reconstruction.encoding.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < losses[0] / 1.5


def test_fresh_weights_have_the_deviation_asked_for() -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(small(initializer_range=0.5, embed_dim=64, num_embeddings=512))
    for weight in (model.encoder.mid.block_1.conv1.weight, model.state_dict()["quantize.embedding.weight"]):
        assert weight.std().item() == pytest.approx(0.5, rel=0.02)
    assert not model.encoder.conv_in.bias.any()  # type: ignore[union-attr]


def test_a_model_without_a_decoder_says_so_when_it_should_draw() -> None:
    model = ChameleonVQVAE(small(), with_decoder=False)
    codes_Bhw = model.encode(torch.rand(1, 3, 8, 8)).codes_Bhw
    assert not any(name.startswith("decoder") for name in model.state_dict())
    with pytest.raises(MissingDecoderError, match=r"no decoder.*transformers layout.*'decoder\.\*'"):
        model.decode(codes_Bhw)


def test_a_seed_gives_the_same_encoder_with_and_without_a_decoder() -> None:
    torch.manual_seed(3)
    with_decoder = ChameleonVQVAE(small()).state_dict()
    torch.manual_seed(3)
    without = ChameleonVQVAE(small(), with_decoder=False).state_dict()
    assert all(torch.equal(with_decoder[name], tensor) for name, tensor in without.items())


def test_out_channels_may_differ_from_in_channels() -> None:
    model = ChameleonVQVAE(small(out_channels=1))
    assert model(torch.rand(1, 3, 8, 8)).pixels_BCHW.shape == (1, 1, 8, 8)
