"""The batch of vLLM: nothing raises, whatever requests hold, and the others are right all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from malformed import malformed_requests
from model_engine import ModelEngine
from torch import Tensor

from chameleon_core import GenerationError, GenerationOptions, Request
from chameleon_core.generation import start_machine
from chameleon_core.testing import make_model
from chameleon_vllm.row_batch import RowBatch
from chameleon_vllm.row_parts import RowPart, Signals, options_of
from chameleon_vllm.runner import Runner

MODEL = make_model()
LAYOUT = MODEL.layout
SIGNALS = Signals.of(LAYOUT)
CODES = LAYOUT.code_to_id_Z.tolist()
BEGIN, END = LAYOUT.begin_image_id, LAYOUT.end_image_id
PROMPT = [0, 40, 41]
GOOD = {"options": {"max_new_tokens": 5}, "prompt_length": 3}
PICTURE = {"options": {"modality": "image"}, "prompt_length": 3}

MALFORMED = {
    **malformed_requests(LAYOUT, context_length=MODEL.config.context_length, word=40),
    "stop strings without a tokenizer": (json.dumps({**GOOD, "options": {"stop_strings": ["a"]}}), PROMPT),
}


def test_there_are_forty_malformed_requests() -> None:
    assert len(MALFORMED) >= 40


def test_malformed_requests_end_and_the_others_are_right() -> None:
    """All of them beside two rows, in one batch."""
    options = [{"max_new_tokens": 12}, {"modality": "image", "guidance_text": 3.0}]
    asked = [Request(prompt=PROMPT, options=GenerationOptions(**each)) for each in options]
    alone = [start_machine(each, MODEL.config, layout=LAYOUT) for each in asked]
    list(Runner(ModelEngine(MODEL), SIGNALS).run(alone, lambda: False))

    engine = ModelEngine(MODEL)
    engine.model = _Lenient(MODEL)  # type: ignore[assignment]
    for name, (parameter, ids) in MALFORMED.items():
        engine.add_raw(name, ids or [0], parameter, max_ids=30, stop_ids=SIGNALS)
    rows = [start_machine(each, MODEL.config, layout=LAYOUT) for each in asked]
    list(Runner(engine, SIGNALS).run(rows, lambda: False))
    assert [row.new_ids for row in rows] == [row.new_ids for row in alone]
    assert not engine.requests


class _Lenient:
    """The model, with logits for prompts that aren't any."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, ids_BT: Tensor, attention_mask: Tensor, logits_to_keep: int) -> Any:
        attention_mask[:, -1] = 1
        return self.model(
            ids_BT.clamp(0, 63)[:, -128:], attention_mask=attention_mask[:, -128:], logits_to_keep=logits_to_keep
        )


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_ends_with_a_signal(name: str) -> None:
    parameter, ids = MALFORMED[name]
    batch = RowBatch(MODEL.config, LAYOUT)
    batch.add(0, parameter, ids, [])
    next_id = int(batch.apply(torch.zeros(1, 64)).argmax())
    split = name in ("a branch without its row", "a row without its branch")
    assert next_id == (SIGNALS.split if split else SIGNALS.failed)


def test_a_request_without_the_parameter_is_left_to_the_engine() -> None:
    batch = RowBatch(MODEL.config, LAYOUT)
    batch.add(0, None, PROMPT, [])
    logits_RV = torch.randn(1, 64)
    assert torch.equal(batch.apply(logits_RV.clone()), logits_RV)


def test_a_row_that_goes_on_after_its_end_is_ended() -> None:
    batch = RowBatch(MODEL.config, LAYOUT)
    output = [*CODES[:4], END]
    batch.add(0, RowPart(options={"modality": "image"}, prompt_length=3).encode(), [*PROMPT, BEGIN], output)
    assert int(batch.apply(torch.zeros(1, 64)).argmax()) == SIGNALS.ended


def test_what_must_come_is_written_without_a_choice() -> None:
    batch = RowBatch(MODEL.config, LAYOUT)
    output: list[int] = []
    batch.add(0, RowPart(options={"modality": "image"}, prompt_length=3).encode(), PROMPT, output)
    for expected in (BEGIN, *[CODES[9]] * 4, END, SIGNALS.ended):
        logits_RV = torch.zeros(1, 64)
        logits_RV[:, CODES[9]] = 1.0
        output.append(int(batch.apply(logits_RV).argmax()))
        assert output[-1] == expected


def test_a_place_keeps_its_request_when_the_batch_changes() -> None:
    batch = RowBatch(MODEL.config, LAYOUT)
    texts = [RowPart(options={"forbidden_ids": [40 + place]}, prompt_length=3).encode() for place in range(3)]
    for place, text in enumerate(texts):
        batch.add(place, text, PROMPT, [])
    logits_RV = torch.zeros(3, 64)
    logits_RV[:, 40:43] = torch.tensor([3.0, 2.0, 1.0])
    assert batch.apply(logits_RV.clone()).argmax(dim=-1).tolist() == [41, 40, 40]
    batch.move(0, 2, swaps=True)
    assert batch.apply(logits_RV.clone()).argmax(dim=-1).tolist() == [40, 40, 41]
    batch.remove(0)
    batch.move(2, 0, swaps=False)
    assert batch.apply(logits_RV.clone()).argmax(dim=-1).tolist() == [41, 40, 40]


def test_one_row_s_logits_that_are_nan_fail_that_row_alone() -> None:
    batch = RowBatch(MODEL.config, LAYOUT)
    for place in range(2):
        batch.add(place, json.dumps(GOOD), PROMPT, [])
    logits_RV = torch.zeros(2, 64)
    logits_RV[0] = torch.nan
    logits_RV[1, 50] = 1.0
    assert batch.apply(logits_RV).argmax(dim=-1).tolist() == [SIGNALS.failed, 50]


@pytest.mark.parametrize(
    "changes",
    [{}, {"seed": 3, "do_sample": True}, {"stop_ids": (50,), "fixed_codes": (1, None, 2, 3), "modality": "image"}],
    ids=["defaults", "sampled", "tuples"],
)
def test_options_come_back_from_their_form_on_the_wire(changes: dict[str, Any]) -> None:
    options = GenerationOptions(**changes)
    part = RowPart(options=dict(options_of(options)), prompt_length=1)
    assert len(part.options) == len(changes)
    assert RowPart.decode(part.encode()).checked_options() == options


def test_a_parameter_is_checked_before_a_request_is_submitted() -> None:
    with pytest.raises(GenerationError, match="member 1 of 1; a group has 1 to 3 members"):
        RowPart.decode('{"member": 1}')
