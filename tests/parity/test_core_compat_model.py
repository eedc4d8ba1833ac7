"""Calls and methods of models as users of transformers write them, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

CLOSE = {"rtol": 0.0, "atol": 1e-5}
IDS = torch.tensor([[40, 41, 42, 43, 44], [45, 46, 47, 48, 49]])
NEW = torch.tensor([[50], [51]])
WORDS = slice(23, 64)
"""The ids of text, whose logits neither side masks."""
CAUSAL = torch.ones(5, 5).tril().bool()[None, None]
BAND = torch.ones(5, 5).tril().triu(-2).bool()[None, None].expand(2, 1, 5, 5)
MASKS: dict[str, Tensor] = {
    "holes": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 1]]),
    "right": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "4-D, bool": CAUSAL.expand(2, 1, 5, 5),
    "4-D, a band": BAND,
    "4-D, added": torch.zeros(2, 1, 5, 5).masked_fill(~BAND, torch.finfo(torch.float32).min),
}


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Any]) -> Any:
    return make_pair()


@torch.no_grad()
def text_logits(model: Any, *arguments: Any, **options: Any) -> Tensor:
    logits: Tensor = model(*arguments, **options).logits
    return logits[..., WORDS]


@pytest.mark.parametrize("name", MASKS)
def test_masks_hide_the_same(pair: Any, name: str) -> None:
    mask = MASKS[name]
    real = mask.bool() if mask.dim() == 2 else torch.ones_like(IDS).bool()
    ours, theirs = (text_logits(model, IDS, None, mask)[real] for model in pair)
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", [None, "holes", "right"])
def test_a_cache_goes_on_in_the_same_way(pair: Any, name: str | None) -> None:
    mask = None if name is None else MASKS[name]
    longer = None if mask is None else torch.cat((mask, torch.ones_like(NEW)), dim=1)
    found = []
    for model in pair:
        past = model(IDS, attention_mask=mask).past_key_values
        assert past.get_seq_length() == 5
        found.append(text_logits(model, NEW, attention_mask=longer, past_key_values=past))
        assert past.get_seq_length() == 6
    torch.testing.assert_close(*found, **CLOSE)


def test_a_dynamic_cache_of_transformers_is_used(pair: Any) -> None:
    left = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    longer = torch.cat((left, torch.ones_like(NEW)), dim=1)
    found = []
    for model in pair:
        cache = transformers.DynamicCache()
        assert model(IDS, attention_mask=left, past_key_values=cache, use_cache=True).past_key_values is cache
        found.append(text_logits(model, NEW, attention_mask=longer, past_key_values=cache))
    torch.testing.assert_close(*found, **CLOSE)


def test_outputs_have_the_same_names_in_the_same_order(make_pair: Callable[..., Any]) -> None:
    pair = make_pair(attn_implementation="eager")
    for options in (
        {},
        {"use_cache": False},
        {"output_hidden_states": True, "output_attentions": True},
        {"labels": IDS, "use_cache": False},
    ):
        ours, theirs = (model(IDS, **options) for model in pair)
        assert list(ours) == list(theirs)
        assert len(ours.to_tuple()) == len(theirs.to_tuple())
        as_tuple = pair.ours(IDS, return_dict=False, **options)
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) == len(pair.theirs(IDS, return_dict=False, **options))
    assert list(pair.ours.model(IDS)) == list(pair.theirs.model(IDS))


def test_gradients_reach_what_is_returned_in_the_same_way(make_pair: Callable[..., Any]) -> None:
    gradients = []
    for model in make_pair(attn_implementation="eager"):
        output = model(IDS, output_attentions=True, output_hidden_states=True)
        kept = [*output.attentions, *output.hidden_states[:-1]]
        for tensor in kept:
            tensor.retain_grad()
        output.logits[..., WORDS].sum().backward()
        gradients.append([tensor.grad for tensor in kept])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_loss_of_several_batches_is_divided_in_the_same_way(pair: Any) -> None:
    labels = IDS.clone()
    labels[0, :2] = -100
    # The peer's loss is that of logits whose picture codes are at the lowest number.
    logits = pair.masked(pair.ours(IDS).logits)
    for options in ({}, {"num_items_in_batch": 20}, {"num_items_in_batch": torch.tensor(20)}):
        ours = pair.ours.loss_function(logits=logits, labels=labels, vocab_size=64, **options)
        torch.testing.assert_close(ours, pair.theirs(IDS, labels=labels, **options).loss, **CLOSE)


@pytest.mark.parametrize("mean_resizing", [True, False])
def test_resizing_takes_the_same_arguments(make_pair: Callable[..., Any], mean_resizing: bool) -> None:
    shapes = []
    for model in make_pair():
        model.resize_token_embeddings(70, pad_to_multiple_of=8, mean_resizing=mean_resizing)
        shapes.append((model.config.vocab_size, model.lm_head.weight.shape, model.get_input_embeddings().weight.shape))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_weights_are_tied_by_the_config_alone(make_pair: Callable[..., Any], tied: bool) -> None:
    for model in make_pair(tie_word_embeddings=tied):
        model.tie_weights()
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_methods_answer_the_same(pair: Any) -> None:
    answers = [
        (
            model.can_generate(),
            model.model.can_generate(),
            model.main_input_name,
            model.base_model_prefix,
            model.base_model is model.model,
            model.get_decoder() is model.model,
            model.get_encoder() is model,
            model.supports_gradient_checkpointing,
            model.is_activation_checkpointing,
            model.training,
            type(model)(model.config).training,
            model.vocab_size,
            model.model.padding_idx,
            model.model.embed_tokens.padding_idx,
            model.model.layers[1].self_attn.layer_idx,
            sorted(model.prepare_inputs_for_generation(IDS, attention_mask=torch.ones_like(IDS), use_cache=True)),
            model.model.vocabulary_mapping.image_tokens,
            model.model.vocabulary_mapping.bpe2img,
            model.model.vocabulary_mapping.image_token_id,
            model.model.vocabulary_mapping.convert_img2bpe(torch.tensor([[0, 3]])).tolist(),
        )
        for model in pair
    ]
    assert answers[0] == answers[1]
