"""A training run: it learns, logs, and ends with the same weights if it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, Codebook, ConfigError, FileFormatError, ImageError
from chameleon_vq.training import (
    DivergenceError,
    TensorPictures,
    TrainingOptions,
    VQTrainer,
    initialize,
    measure,
    plot_curves,
    read_log,
    with_plain_codebook,
)
from chameleon_vq.training.codebooks import has_codebooks, restart

CONFIG = ChameleonVQVAEConfig(
    resolution=16,
    base_channels=32,
    channel_multiplier=(1, 1, 1),
    num_res_blocks=1,
    latent_channels=8,
    embed_dim=4,
    num_embeddings=32,
    attn_type="none",
    quantizer="ema",
)
OPTIONS = TrainingOptions(
    steps=12,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=2,
    continuous_steps=2,
    kmeans_pictures=8,
    revive_every=3,
    log_every=1,
    validate_every=6,
    checkpoint_every=5,
)


def make_model(**changes: Any) -> ChameleonVQVAE:
    torch.manual_seed(0)
    model = ChameleonVQVAE(CONFIG.replace(**changes))
    initialize(model)
    return model


@pytest.fixture
def pixels_BCHW() -> Tensor:
    """Ten pictures of two colours each, split at a random column."""
    random = np.random.default_rng(0)
    pictures_BHWC = np.empty((10, 16, 16, 3), np.float32)
    for picture_HWC in pictures_BHWC:
        picture_HWC[:] = random.uniform(-1, 1, 3)
        picture_HWC[:, random.integers(4, 12) :] = random.uniform(-1, 1, 3)
    return torch.from_numpy(pictures_BHWC).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def pictures(pixels_BCHW: Tensor) -> TensorPictures:
    return TensorPictures(pixels_BCHW, mirror=True)


class KilledError(Exception):
    """Stands for anything that ends a process."""


class Killing:
    """Pictures whose source fails after a number of batches."""

    def __init__(self, pictures: TensorPictures, at: int) -> None:
        self._pictures = pictures
        self._batches_left = at

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        if not self._batches_left:
            raise KilledError
        self._batches_left -= 1
        return self._pictures.pixels(indices, random)


RUNS = {
    "ema": ({}, {}),
    "gradient": ({"quantizer": "codebook"}, {}),
    "residual": (
        {"quantizer": "residual", "quantizer_options": {"num_quantizers": 3, "quantizer_dropout": 0.5}},
        {},
    ),
    "dropout": ({"dropout": 0.2}, {}),
    "discriminator": (
        {},
        {"discriminator_weight": 0.5, "discriminator_start": 4, "discriminator_channels": 8, "discriminator_layers": 1},
    ),
}


@pytest.mark.parametrize(("config", "options"), RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("killed_after", [6, 11])
def test_a_run_that_was_killed_ends_with_the_same_weights(
    config: dict[str, Any], options: dict[str, Any], killed_after: int, pictures: TensorPictures, tmp_path: Path
) -> None:
    settings = OPTIONS.replace(**options)
    whole = make_model(**config)
    VQTrainer(whole, settings, folder=tmp_path / "whole").fit(pictures)

    batches_for_kmeans = 2 if has_codebooks(whole.quantize) else 0
    with pytest.raises(KilledError):
        VQTrainer(make_model(**config), settings, folder=tmp_path / "killed").fit(
            Killing(pictures, killed_after + batches_for_kmeans)
        )
    resumed = make_model(**config)
    with torch.no_grad():
        resumed.quant_conv.weight.zero_()  # what it starts from must not matter
    VQTrainer(resumed, settings, folder=tmp_path / "killed").fit(pictures)

    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "killed")]
    for record in logs[0] + logs[1]:
        record.pop("seconds")
    assert logs[0] == logs[1]


def test_a_run_that_is_over_is_not_run_again(pictures: TensorPictures, tmp_path: Path) -> None:
    records = VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures)
    model = make_model()
    assert VQTrainer(model, OPTIONS, folder=tmp_path).fit(Killing(pictures, 0)) == records
    assert not torch.equal(model.quant_conv.weight, make_model().quant_conv.weight)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="ema"),
        pytest.param({"quantizer": "fsq", "quantizer_options": {"levels": [4, 2, 2, 2]}}, id="fsq"),
        pytest.param({"quantizer": "lfq", "embed_dim": 5}, id="lfq"),
        pytest.param({"quantizer": "residual", "quantizer_options": {"num_quantizers": 2}}, id="residual"),
    ],
)
def test_training_makes_the_pictures_more_alike(
    config: dict[str, Any], pictures: TensorPictures, pixels_BCHW: Tensor
) -> None:
    model = make_model(**config)
    before = measure(model, pixels_BCHW)
    VQTrainer(model, OPTIONS.replace(steps=40, learning_rate=3e-3)).fit(pictures)
    after = measure(model, pixels_BCHW)
    assert after.psnr > before.psnr + 3
    assert after.ssim > before.ssim


def test_the_log_has_the_figures(pictures: TensorPictures, pixels_BCHW: Tensor, tmp_path: Path) -> None:
    records = VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures, validation_BCHW=pixels_BCHW)
    assert records == [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert all({"l1", "l2", "psnr", "learning_rate", "gradient_norm", "seconds"} <= set(record) for record in steps)
    assert [record["step"] for record in records if "perplexity" in record] == [3, 6, 9, 12]
    validated = [record for record in records if "validation" in record]
    assert [record["step"] for record in validated] == [6, 12]
    assert set(validated[0]["validation"]) == {"psnr", "ssim", "codebook_usage", "perplexity"}


def test_the_curves_are_a_png(pictures: TensorPictures, pixels_BCHW: Tensor, tmp_path: Path) -> None:
    records = VQTrainer(make_model(), OPTIONS).fit(pictures, validation_BCHW=pixels_BCHW)
    plot_curves(records, tmp_path / "curves.png", title="A run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no entries to plot"):
        plot_curves([], tmp_path / "curves.png")


def test_the_schedule_warms_up_and_ends_low(pictures: TensorPictures) -> None:
    options = OPTIONS.replace(steps=10, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=4)
    records = VQTrainer(make_model(), options).fit(pictures)
    rates = [record["learning_rate"] for record in records]
    cosine = [(1e-4 + 9e-4 * (1 + np.cos(np.pi * step / 10)) / 2) for step in range(10)]
    assert rates == pytest.approx([cosine[0] / 4, cosine[1] / 2, cosine[2] * 3 / 4, *cosine[3:]])


def test_a_run_ends_when_its_time_is_over(pictures: TensorPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 15))
    monkeypatch.setattr("chameleon_vq.training.trainer.time.monotonic", lambda: next(clock))
    records = VQTrainer(make_model(), OPTIONS.replace(steps=1000, minutes=1.0, warmup_steps=0)).fit(pictures)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["learning_rate"] / 1e-3 for record in records] == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)


def test_the_gradient_is_clipped(pictures: TensorPictures) -> None:
    model = make_model()
    trainer = VQTrainer(model, OPTIONS.replace(steps=1, warmup_steps=1, clip_norm=0.01, continuous_steps=0))
    [record] = trainer.fit(pictures)
    assert record["gradient_norm"] > 0.01
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_codes_that_nothing_chooses_are_revived(pictures: TensorPictures) -> None:
    model = make_model()
    trainer = VQTrainer(model, OPTIONS.replace(steps=4, continuous_steps=0, kmeans_pictures=0, revive_every=4))
    model.quantize.restart(torch.arange(31), torch.full((31, 4), 1e6))  # type: ignore[attr-defined]
    [*_, last] = trainer.fit(pictures)
    assert last["codebook_usage"] == 1 / 32
    assert model.quantize.embedding.weight.abs().max() < 1e3  # type: ignore[attr-defined]
    assert not trainer.codebook.usage_QZ.any()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_each_level_starts_at_what_the_ones_before_leave_and_is_revived(update: str, pictures: TensorPictures) -> None:
    options = {"num_quantizers": 3, "update": update}
    model = make_model(quantizer="residual", quantizer_options=options)
    levels = model.quantize.levels  # type: ignore[attr-defined]
    trainer = VQTrainer(model, OPTIONS.replace(steps=1, warmup_steps=0, continuous_steps=0, revive_every=0))
    trainer.fit(pictures)
    # K-means at each level: the residual gets shorter from level to level.
    seen = [latents_BDhw for _, latents_BDhw in model.quantize.codebooks_for(encode(model, pictures))]  # type: ignore[attr-defined]
    lengths = [latents_BDhw.square().mean().item() for latents_BDhw in seen]
    assert lengths[0] > 2 * lengths[1] > 4 * lengths[2]

    with torch.no_grad():
        for codebook in levels:
            restart(codebook, torch.arange(31), torch.full((31, 4), 1e6))
    options = OPTIONS.replace(steps=4, continuous_steps=0, kmeans_pictures=0, revive_every=4)
    trainer = VQTrainer(model, options)
    [*_, last] = trainer.fit(pictures)
    assert last["codebook_usage"] == 1 / 32
    assert last["perplexity"] == 1
    assert all(codebook.embedding.weight.abs().max() < 1e3 for codebook in levels)
    assert not trainer.codebook.usage_QZ.any()


@pytest.mark.parametrize(("codes_per_position", "expected"), [(1, True), (2, False)])
def test_one_codebook_for_several_places_is_not_placed(codes_per_position: int, expected: bool) -> None:
    quantizer = Codebook(4, 2)
    quantizer.codes_per_position = codes_per_position
    assert has_codebooks(quantizer) is expected


def encode(model: ChameleonVQVAE, pictures: TensorPictures) -> Tensor:
    pixels_BCHW = pictures.pixels(range(len(pictures)), np.random.default_rng(0))
    return model.eval().encode(pixels_BCHW).latents_BDhw.detach()


def test_no_code_is_revived_late_in_the_run(pictures: TensorPictures) -> None:
    model = make_model()
    options = OPTIONS.replace(steps=4, continuous_steps=0, kmeans_pictures=0, revive_every=4, revive_until=0.5)
    model.quantize.restart(torch.arange(31), torch.full((31, 4), 1e6))  # type: ignore[attr-defined]
    VQTrainer(model, options).fit(pictures)
    assert model.quantize.embedding.weight.abs().max() > 1e3  # type: ignore[attr-defined]


def test_while_latents_are_continuous_the_codebook_stays(pictures: TensorPictures) -> None:
    model = make_model()
    before = model.quantize.embedding.weight.clone()  # type: ignore[attr-defined]
    records = VQTrainer(model, OPTIONS.replace(steps=2)).fit(pictures)
    assert torch.equal(model.quantize.embedding.weight, before)  # type: ignore[attr-defined]
    assert not any("quantizer" in record for record in records)


def test_bfloat16_leaves_the_weights_in_float32(pictures: TensorPictures) -> None:
    model = make_model()
    options = OPTIONS.replace(steps=3, continuous_steps=1, precision="bfloat16", discriminator_weight=1.0)
    records = VQTrainer(model, options.replace(discriminator_channels=8, discriminator_layers=1)).fit(pictures)
    assert all(np.isfinite(record["loss"]) for record in records)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Brightness(nn.Module):
    """A perceptual loss: the difference of the mean, per picture."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, drawn_BCHW: Tensor, real_BCHW: Tensor) -> Tensor:
        return self.scale * (drawn_BCHW.mean(dim=(1, 2, 3)) - real_BCHW.mean(dim=(1, 2, 3))).abs()


def test_a_perceptual_loss_is_added_and_not_trained(pictures: TensorPictures) -> None:
    perceptual = Brightness()
    options = OPTIONS.replace(steps=1, warmup_steps=1, continuous_steps=1, perceptual_weight=3.0)
    [record] = VQTrainer(make_model(), options, perceptual=perceptual).fit(pictures)
    assert record["perceptual"] > 0
    assert record["loss"] == pytest.approx(record["l1"] + record["l2"] + 3 * record["perceptual"], rel=1e-5)
    assert perceptual.scale.item() == 1.0


def test_the_plain_codebook_gives_the_same_pictures(pictures: TensorPictures, pixels_BCHW: Tensor) -> None:
    model = make_model()
    VQTrainer(model, OPTIONS).fit(pictures)
    plain = with_plain_codebook(model)
    assert plain.config.quantizer == "codebook"
    assert "quantize.count_N" not in plain.state_dict()
    with torch.no_grad():
        assert torch.equal(plain(pixels_BCHW).pixels_BCHW, model(pixels_BCHW).pixels_BCHW)


def test_a_perfect_copy_counts_as_a_hundred_decibels() -> None:
    class Mirror(ChameleonVQVAE):
        def decode_latents(self, quantized_BDhw: Tensor) -> Tensor:
            return torch.zeros(2, 3, 16, 16)

    quality = measure(Mirror(CONFIG), torch.zeros(2, 3, 16, 16))
    assert (quality.psnr, quality.ssim) == (100.0, 1.0)
    assert quality.codebook_usage >= 1 / 32


def test_other_options_than_the_checkpoint_s_are_refused(pictures: TensorPictures, tmp_path: Path) -> None:
    VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures)
    with pytest.raises(ConfigError, match=r"other options: steps 12, now 20, l1_weight 1.0, now 2.0\. Continue"):
        VQTrainer(make_model(), OPTIONS.replace(steps=20, l1_weight=2.0), folder=tmp_path).fit(pictures)
    # The interval of the log doesn't change the weights.
    VQTrainer(make_model(), OPTIONS.replace(log_every=7), folder=tmp_path).fit(pictures)


def test_a_checkpoint_that_is_cut_short_is_named(pictures: TensorPictures, tmp_path: Path) -> None:
    VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match=r"checkpoint\.pt is not the state of a training run"):
        VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures)
    torch.save([1, 2], checkpoint)
    with pytest.raises(FileFormatError, match="Delete it to start over"):
        VQTrainer(make_model(), OPTIONS, folder=tmp_path).fit(pictures)


def test_a_log_that_is_cut_short_gives_its_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(FileFormatError, match=r"line 2 of .*log\.jsonl is not valid JSON"):
        read_log(path)


def test_a_run_that_diverges_stops(pixels_BCHW: Tensor) -> None:
    model = make_model()
    with torch.no_grad():
        model.quant_conv.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="the loss of step 0 is nan"):
        VQTrainer(model, OPTIONS.replace(kmeans_pictures=0)).fit(TensorPictures(pixels_BCHW))


def test_a_model_without_a_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="without a decoder"):
        VQTrainer(ChameleonVQVAE(CONFIG, with_decoder=False), OPTIONS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"l1_weight": 0, "l2_weight": 0}, "nothing compares pictures"),
        ({"learning_rate": 1e-4, "final_learning_rate": 1e-3}, "final_learning_rate 0.001 is above"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps 11 is more than steps 10"),
        ({"betas": (0.9, 1.0)}, "expected both to be below 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "float16"}, r"allowed: \['float32', 'bfloat16'\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**fields)


def test_pictures_of_other_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"got shape \[3, 16, 16\]"):
        TensorPictures(torch.zeros(3, 16, 16))
    with pytest.raises(ImageError, match="no pictures to measure"):
        measure(make_model(), torch.zeros(0, 3, 16, 16))


def test_bytes_are_levels_of_pixels() -> None:
    bytes_BCHW = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    pixels_BCHW = TensorPictures(bytes_BCHW).pixels([0], np.random.default_rng(0))
    torch.testing.assert_close(pixels_BCHW.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_pictures_too_small_for_the_discriminator_are_refused_in_the_first_step(layers: int) -> None:
    least = 3 * 2**layers
    options = TrainingOptions(steps=200, discriminator_weight=0.5, discriminator_start=100, discriminator_layers=layers)
    trainer = VQTrainer(make_model(), options.replace(discriminator_channels=4))
    assert trainer.adversary is not None
    assert trainer.adversary.discriminator(torch.zeros(1, 3, least, least)).shape == (1, 1, 1, 1)
    stride = trainer.model.config.stride
    side = (least - 1) // stride * stride
    with pytest.raises(ImageError, match=f"at least {least} pixels a side for a discriminator of {layers} layers"):
        trainer.fit(TensorPictures(torch.zeros(2, 3, side, least // stride * stride + stride)))
    assert trainer.step == 0
