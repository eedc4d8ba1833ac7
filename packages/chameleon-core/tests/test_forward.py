"""Logits, loss and pictures of ``ChameleonForConditionalGeneration``.

Shapes: B batch, T length, N tokens (codes) of a picture, P pictures, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, ConfigError
from chameleon_core.testing import make_config, make_model

PLACEHOLDER = 22
PROMPT = torch.tensor([[40, 41, 42, 43], [44, 45, 46, 47]])


class StubImageTokenizer:
    """Codes are the pixels of the first channel."""

    num_codes = 16
    tokens_per_image = 4

    def encode_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        return pixels_BCHW[:, 0].flatten(1).long()

    def decode(self, codes_BN: Tensor) -> Any:
        raise AssertionError("a forward pass draws nothing")

    def preview(self, codes_n: Tensor) -> Any:
        raise AssertionError("a forward pass draws nothing")

    def state_dict(self) -> Mapping[str, Tensor]:
        return {}

    def config_dict(self) -> Mapping[str, Any]:
        return {}


def pixels(*pictures: list[int]) -> Tensor:
    """Pictures of 2 × 2 pixels, [P, 3, 2, 2]."""
    return torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 2, 2).expand(-1, 3, -1, -1)


@pytest.fixture
def model() -> ChameleonForConditionalGeneration:
    model = make_model()
    assert model.layout.placeholder_id == PLACEHOLDER
    model.image_tokenizer = StubImageTokenizer()
    return model


@torch.no_grad()
def logits(model: ChameleonForConditionalGeneration, *arguments: Any, **options: Any) -> Tensor:
    return model(*arguments, **options).logits


def test_logits_are_raw_so_that_pictures_can_be_generated(model: ChameleonForConditionalGeneration) -> None:
    with torch.no_grad():
        hidden = model.model(PROMPT).last_hidden_state
    assert torch.equal(logits(model, PROMPT), hidden @ model.lm_head.weight.T)
    assert torch.isfinite(logits(model, PROMPT)[:, :, model.layout.code_to_id_Z]).all()
    assert logits(model, PROMPT)[:, :, model.layout.code_to_id_Z].std() > 0.1


@pytest.mark.parametrize(
    ("kept", "positions"), [(0, [0, 1, 2, 3]), (1, [3]), (3, [1, 2, 3]), (torch.tensor([2, 0]), [2, 0])]
)
def test_logits_to_keep_picks_positions(
    model: ChameleonForConditionalGeneration, kept: int | Tensor, positions: list[int]
) -> None:
    torch.testing.assert_close(logits(model, PROMPT, logits_to_keep=kept), logits(model, PROMPT)[:, positions])


def test_a_negative_number_of_logits_to_keep_is_refused(model: ChameleonForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"logits_to_keep.*-1"):
        model(PROMPT, logits_to_keep=-1)


def test_embeddings_in_the_place_of_ids_give_the_same_logits(model: ChameleonForConditionalGeneration) -> None:
    assert torch.equal(logits(model, inputs_embeds=model.get_input_embeddings()(PROMPT)), logits(model, PROMPT))


def test_loss_is_the_mean_surprise_of_each_next_label(model: ChameleonForConditionalGeneration) -> None:
    out = model(PROMPT, labels=PROMPT)
    probabilities = out.logits.detach().softmax(dim=-1)
    surprises = [
        -math.log(float(probabilities[row, place, PROMPT[row, place + 1]])) for row in range(2) for place in range(3)
    ]
    assert out.loss.item() == pytest.approx(sum(surprises) / 6, rel=1e-5)


def test_labels_of_minus_100_have_no_loss(model: ChameleonForConditionalGeneration) -> None:
    labels = PROMPT.clone()
    labels[0] = -100
    labels[1, :2] = -100
    probabilities = model(PROMPT).logits.detach().softmax(dim=-1)
    expected = -(probabilities[1, 1, labels[1, 2]].log() + probabilities[1, 2, labels[1, 3]].log()) / 2
    torch.testing.assert_close(model(PROMPT, labels=labels).loss.detach(), expected)


def test_loss_counts_picture_ids_like_any_other(model: ChameleonForConditionalGeneration) -> None:
    picture = model.layout.code_to_id_Z[:4][None]
    out = model(picture, labels=picture)
    assert 0 < out.loss.item() < 20


def test_loss_is_float32_in_half_precision(model: ChameleonForConditionalGeneration) -> None:
    assert model.bfloat16()(PROMPT, labels=PROMPT).loss.dtype == torch.float32


def test_labels_need_the_logits_of_all_positions(model: ChameleonForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"labels \[2, 4\].*logits \[2, 1\].*logits_to_keep"):
        model(PROMPT, labels=PROMPT, logits_to_keep=1)


def test_every_weight_gets_a_gradient(model: ChameleonForConditionalGeneration) -> None:
    model(PROMPT, labels=PROMPT).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_pictures_take_the_places_of_their_placeholders_in_order(model: ChameleonForConditionalGeneration) -> None:
    begin, end = model.layout.begin_image_id, model.layout.end_image_id
    picture = [begin, *[PLACEHOLDER] * 4, end]
    prompt = torch.tensor([[*picture, *picture, 40], [41, 42, 43, 44, 45, 46, *picture, 47]])
    inserted = model.insert_images(prompt, pixels([0, 1, 2, 3], [4, 5, 6, 7], [15, 14, 13, 12]))
    codes = model.layout.id_to_code_V[inserted]
    assert codes[0, 1:5].tolist() == [0, 1, 2, 3]
    assert codes[0, 7:11].tolist() == [4, 5, 6, 7]
    assert codes[1, 7:11].tolist() == [15, 14, 13, 12]
    others = prompt != PLACEHOLDER
    assert torch.equal(inserted[others], prompt[others])


def test_pixel_values_are_the_same_as_the_real_ids(model: ChameleonForConditionalGeneration) -> None:
    prompt = torch.tensor([[40, *[PLACEHOLDER] * 4, 41]])
    real = torch.tensor([[40, *model.layout.code_to_id_Z[[3, 1, 2, 0]].tolist(), 41]])
    assert torch.equal(logits(model, prompt, pixel_values=pixels([3, 1, 2, 0])), logits(model, real))
    generated = model.generate(prompt, pixel_values=pixels([3, 1, 2, 0]), max_new_tokens=5)
    assert torch.equal(generated, model.generate(real, max_new_tokens=5))


def test_a_wrong_number_of_placeholders_is_an_error_with_both_numbers(
    model: ChameleonForConditionalGeneration,
) -> None:
    prompt = torch.tensor([[40, *[PLACEHOLDER] * 4, 41]])
    with pytest.raises(ValueError, match=r"4 placeholders \(id 22\) and the 2 pictures give 8 codes, 4 each"):
        model(prompt, pixel_values=pixels([0, 1, 2, 3], [4, 5, 6, 7]))


def test_pictures_take_the_places_of_the_embeddings_of_placeholders(model: ChameleonForConditionalGeneration) -> None:
    prompt = torch.tensor([[40, *[PLACEHOLDER] * 4, 41]])
    picture = pixels([3, 1, 2, 0])
    expected = logits(model, prompt, pixel_values=picture)
    embeddings = model.get_input_embeddings()(prompt)
    assert torch.equal(logits(model, inputs_embeds=embeddings, pixel_values=picture), expected)
    features = model.get_image_features(picture)
    assert features.image_tokens.tolist() == [3, 1, 2, 0]
    assert torch.equal(features.pooler_output, model.get_input_embeddings()(model.get_image_tokens(picture)))
    assert torch.equal(logits(model, prompt, mm_encoder_outputs={"image": features}), expected)
    bare = model.model(prompt, picture).last_hidden_state
    assert torch.equal(model.lm_head(bare), expected)
    with pytest.raises(ValueError, match="0 placeholders"):
        model(inputs_embeds=torch.zeros(1, 1, 32), pixel_values=picture)
    with pytest.raises(ValueError, match="pass one of them"):
        model(prompt, picture, mm_encoder_outputs={"image": features})


def test_a_model_without_a_folder_says_how_to_get_an_image_tokenizer() -> None:
    with pytest.raises(ConfigError, match=r"Set model\.image_tokenizer = ImageTokenizer\.from_pretrained"):
        _ = make_model().image_tokenizer


def test_a_model_without_a_vocabulary_map_says_how_to_give_one() -> None:
    with pytest.raises(ConfigError, match="vocabulary_map="):
        _ = make_model(make_config(vocabulary_map=None)).layout


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (make_config(), 1),
        (make_config(vocabulary_map=None, pad_token_id=0), 0),
        (make_config(vocabulary_map=None, pad_token_id=None), 2),
        (make_config(vocabulary_map=None, pad_token_id=None, eos_token_id=[5, 6]), 5),
        (make_config(vocabulary_map=None, pad_token_id=None, eos_token_id=None), 0),
    ],
    ids=["by name", "from the config, even 0", "end of stream", "first end of stream", "nothing known"],
)
def test_what_fills_rows_that_end_early(config: Any, expected: int) -> None:
    assert make_model(config).pad_token_id == expected


def test_tied_embeddings_are_one_tensor() -> None:
    model = make_model(make_config(tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len({id(weight) for weight in model.parameters()}) == len(list(model.parameters()))


def test_state_dict_keys_begin_with_those_of_published_checkpoints() -> None:
    keys = list(make_model(make_config(num_hidden_layers=1)).state_dict())
    assert keys[0] == "model.embed_tokens.weight"
    assert keys[-2:] == ["model.norm.weight", "lm_head.weight"]
    assert all(key.startswith("model.layers.0.") for key in keys[1:-2])


@pytest.mark.parametrize("deviation", [0.0, 0.02])
def test_the_output_layer_starts_like_the_other_weights(deviation: float) -> None:
    torch.manual_seed(0)
    weight = ChameleonForConditionalGeneration(make_config(initializer_range=deviation)).lm_head.weight.detach()
    assert float(weight.std()) == pytest.approx(deviation, rel=0.1)
    assert float(weight.abs().max()) <= 3 * deviation
