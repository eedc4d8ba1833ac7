"""What a model is called with: forms that are refused, padding without a mask, autocast and inference mode."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.errors import ChameleonCoreError, InputError, InputWarning, VocabularyError
from chameleon_core.testing import make_config, make_model

IDS = torch.arange(30, 40).reshape(2, 5)  # words
PAD = 1
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
BACKENDS = ("eager", "sdpa", "flash")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 5, 32)}, "give either"),
        ({"input_ids": IDS[0]}, r"input_ids must be \[batch, length\]; got \[5\]"),
        ({"input_ids": IDS[:, :0]}, r"input_ids must be \[batch, length\]; got \[2, 0\]"),
        ({"input_ids": IDS.float()}, "input_ids is torch.float32; expected int64"),
        ({"input_ids": IDS.tolist()}, "input_ids is a list; expected a tensor"),
        ({"inputs_embeds": torch.zeros(2, 5, 7)}, "inputs_embeds must be"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :4]}, r"attention_mask must be \[2, 5\]"),
        ({"input_ids": IDS, "position_ids": IDS[:, :4]}, r"position_ids must be \[2, 5\]"),
        ({"input_ids": IDS, "position_ids": IDS.float()}, "position_ids is torch.float32"),
        ({"input_ids": IDS, "document_ids": IDS.float()}, "document_ids must be int64"),
        ({"input_ids": IDS, "labels": IDS[:, :4]}, "must have the positions of the logits"),
        ({"input_ids": IDS, "logits_to_keep": -1}, "logits_to_keep must be ≥ 0"),
        ({"input_ids": IDS, "output_attentions": True}, "never holds attention weights"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8)}, "pictures replace placeholders in input_ids or inputs_embeds"),
        ({"pixel_values": torch.zeros(3, 8, 8), "input_ids": IDS}, r"pixel_values must be .* got \[3, 8, 8\]"),
    ],
)
def test_inputs_of_a_wrong_form_are_an_error_of_this_package(inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make_model()(**inputs)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ChameleonCoreError)


@pytest.mark.parametrize("call", ["forward", "generate"])
@pytest.mark.parametrize("token_id", [-1, 64, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(call: str, token_id: int) -> None:
    model, ids = make_model(), IDS.clone()
    ids[1, 3] = token_id
    with pytest.raises(ChameleonCoreError, match=f"{token_id}.*outside the vocabulary"):
        model(ids) if call == "forward" else model.generate(ids, max_new_tokens=2)
    if call == "forward":
        with pytest.raises(VocabularyError, match=rf"input_ids\[1, 3\] is {token_id}, .* expected 0…63"):
            model(ids)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_generate_takes_ids_of_padding_at_the_sides_for_padding(side: str) -> None:
    model = make_model(make_config(pad_token_id=PAD))
    padding = torch.full((1, 3), PAD)
    padded = torch.cat([*([padding] * (side != "right")), IDS[:1], *([padding] * (side != "left"))], dim=1)
    alone = model.generate(IDS[:1], max_new_tokens=6)[0, IDS.shape[1] :]
    assert torch.equal(model.generate(padded, max_new_tokens=6)[0, padded.shape[1] :], alone)


def test_a_mask_that_is_given_decides_and_padding_amid_a_row_is_a_position() -> None:
    model = make_model(make_config(pad_token_id=PAD))
    ids = torch.tensor([[PAD, 30, PAD, 31]])
    only_first = model.generate(ids, torch.tensor([[0, 1, 1, 1]]), max_new_tokens=4)
    assert torch.equal(model.generate(ids, max_new_tokens=4), only_first)


def test_a_forward_pass_over_padding_without_a_mask_is_warned_of() -> None:
    model = make_model(make_config(pad_token_id=PAD))
    ids = torch.tensor([[PAD, PAD, 30], [31, 32, 33]])
    with pytest.warns(InputWarning, match="begin with the padding id 1, and there is no attention_mask"):
        model(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(ids, attention_mask=(ids != PAD).long())
        model(ids, document_ids=torch.zeros_like(ids))
        model(ids.flip(1)[:1], labels=ids.flip(1)[:1])  # what follows a row's real ids changes nothing before it


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_a_model_computes_in_its_dtype_about_the_same(backend: str) -> None:
    model = make_model(make_config(num_key_value_heads=2), attn_implementation=backend)
    with torch.no_grad():
        expected = model(IDS, attention_mask=MASK).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(IDS, attention_mask=MASK, labels=IDS)
        assert output.loss is not None
        output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    torch.testing.assert_close(output.logits.float()[MASK.bool()], expected[MASK.bool()], rtol=0.1, atol=0.2)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_runs_in_inference_mode_and_out_of_it(backend: str, tmp_path: Path) -> None:
    make_model(make_config(num_key_value_heads=2)).save_pretrained(tmp_path / "model")
    with torch.inference_mode():  # loading in it, too
        model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model", attn_implementation=backend)
        inside = model(IDS, attention_mask=MASK).logits.clone()
        model.generate(IDS, MASK, max_new_tokens=3)
    output = model(IDS, attention_mask=MASK, labels=IDS)
    assert output.loss is not None
    output.loss.backward()
    assert torch.equal(inside, output.logits)


@pytest.mark.parametrize("backend", [*BACKENDS, "flex"])
def test_a_model_may_be_called_by_several_threads(backend: str) -> None:
    model = make_model(make_config(num_key_value_heads=2), attn_implementation=backend)
    with torch.no_grad():
        expected = [model(IDS[:, :length]).logits for length in range(1, 6)]
    wrong: list[object] = []

    def call(length: int) -> None:
        try:
            with torch.no_grad():
                for _ in range(4):
                    torch.testing.assert_close(model(IDS[:, :length]).logits, expected[length - 1])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(length,)) for length in range(1, 6)]
    _all(threads, threading.Thread.start)
    _all(threads, threading.Thread.join)
    assert not wrong


def _all(threads: list[threading.Thread], do: Callable[[threading.Thread], None]) -> None:
    for thread in threads:
        do(thread)


def test_gradients_flow_through_everything_that_is_returned() -> None:
    model = make_model(make_config(), attn_implementation="eager")
    output = model(IDS, attention_mask=MASK, labels=IDS, output_attentions=True, output_hidden_states=True)
    assert output.attentions is not None
    assert output.hidden_states is not None
    attention = model.model.layers[-1].self_attn
    for weights_BHTS in output.attentions[-1:]:
        weights_BHTS.square().sum().backward(retain_graph=True)
        for layer in (attention.q_proj, attention.k_proj):
            assert layer.weight.grad is not None
            assert layer.weight.grad.abs().sum() > 0
    for tensor in (*output.hidden_states, *output.attentions, output.logits, output.loss):
        assert tensor is not None
        model.zero_grad(set_to_none=True)
        tensor.float().square().sum().backward(retain_graph=True)
        assert model.model.embed_tokens.weight.grad is not None
        assert model.model.embed_tokens.weight.grad.abs().sum() > 0
