"""Growing and shrinking the vocabulary."""

from __future__ import annotations

import pytest
import torch

from chameleon_core import ChameleonForConditionalGeneration, ConfigError
from chameleon_core.testing import make_config, make_model, make_vocabulary

PROMPT = torch.tensor([[40, 41, 42]])
# Ids 64 to 69 have no name, so that they can go.
ROOMY = make_config(vocab_size=70)


@torch.no_grad()
def logits(model: ChameleonForConditionalGeneration) -> torch.Tensor:
    return model(PROMPT).logits


def sizes(model: ChameleonForConditionalGeneration) -> set[int]:
    """Every place that states the size of the vocabulary."""
    return {
        model.config.vocab_size,
        model.model.config.vocab_size,
        model.layout.vocab_size,
        model.get_input_embeddings().num_embeddings,
        len(model.get_input_embeddings().weight),
        model.get_output_embeddings().out_features,
        len(model.get_output_embeddings().weight),
        logits(model).shape[-1],
    }


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("size", "multiple", "expected"), [(75, 1, 75), (70, 1, 70), (66, 1, 66), (66, 32, 96)])
def test_old_ids_keep_their_logits(tied: bool, size: int, multiple: int, expected: int) -> None:
    model = make_model(ROOMY.replace(tie_word_embeddings=tied))
    before = logits(model)
    embeddings = model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert embeddings is model.get_input_embeddings()
    assert sizes(model) == {expected}
    kept = min(70, expected)
    torch.testing.assert_close(logits(model)[..., :kept], before[..., :kept])
    assert (model.lm_head.weight is embeddings.weight) == tied


def test_new_ids_start_as_the_mean_of_the_old_ones() -> None:
    model = make_model()
    means = {name: weight.mean(dim=0) for name, weight in model.state_dict().items() if weight.shape[0] == 64}
    model.resize_token_embeddings(66)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(model.state_dict()[name][64:], means[name].expand(2, -1))


def test_ids_that_have_a_name_cant_go() -> None:
    model = make_model()
    with pytest.raises(ConfigError, match=r"vocabulary_map\['word40'\] must be an id from 0 to vocab_size - 1 \(62\)"):
        model.resize_token_embeddings(63)
    assert sizes(model) == {64}


@pytest.mark.parametrize(("size", "multiple"), [(0, 1), (-1, 1), (70, 0)])
def test_impossible_sizes_are_refused(size: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="must be integers ≥ 1"):
        make_model().resize_token_embeddings(size, pad_to_multiple_of=multiple)


def test_generation_goes_on_after_resizing() -> None:
    model = make_model(ROOMY)
    before = model.generate(PROMPT, max_new_tokens=8)
    picture = model.generate(PROMPT, modality="image", guidance_text=2.0)
    model.resize_token_embeddings(100)
    assert torch.equal(model.generate(PROMPT, max_new_tokens=8), before)
    assert torch.equal(model.generate(PROMPT, modality="image", guidance_text=2.0), picture)


def test_new_ids_are_written_and_those_of_the_rounding_are_not() -> None:
    model = make_model()
    model.resize_token_embeddings(66, pad_to_multiple_of=8)
    assert sizes(model) == {72}
    with torch.no_grad():
        state_E = model.model(PROMPT).last_hidden_state[0, -1]
        model.lm_head.weight[65] = 100 * state_E
        model.lm_head.weight[70] = 200 * state_E
    assert model.generate(PROMPT, max_new_tokens=1)[0, -1] == 65
    model.resize_token_embeddings(64)
    assert model.config.vocabulary_map == make_vocabulary()


def test_new_rows_are_random_where_no_mean_is_asked_for() -> None:
    model = make_model()
    model.resize_token_embeddings(68, mean_resizing=False)
    assert model.lm_head.weight[64:].std(dim=0).min() > 0
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert sizes(model) == {68}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_resized_weights_are_trained_and_keep_their_dtype(tied: bool) -> None:
    model = make_model(make_config(tie_word_embeddings=tied)).bfloat16()
    model.resize_token_embeddings(80)
    model(PROMPT, labels=PROMPT).loss.backward()
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer.weight.dtype == torch.bfloat16
        assert layer.weight.grad is not None
        assert layer.weight.grad.shape[0] == 80
