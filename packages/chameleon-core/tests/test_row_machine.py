"""Row machines: an engine of another kind, which computes logits itself, writes what the engine here writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import (
    ChameleonCoreError,
    ChameleonForConditionalGeneration,
    ContextLengthError,
    Engine,
    GenerationError,
    GenerationOptions,
    Request,
)
from chameleon_core.generation import FORBIDDEN, RowChooser, RowMachine, start_machine
from chameleon_core.testing import make_config, make_model, make_scripted_model

MODEL = make_model()
LAYOUT = MODEL.layout
BEGIN, END = LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
PROMPT = (0, 40, 41, 42)
WITH_PICTURE = (0, 40, BEGIN, *CODES[:4], END, 41)


def machine_of(prompt: Sequence[int] = PROMPT, *, written: Sequence[int] = (), **changes: Any) -> RowMachine:
    request = Request(prompt=prompt, options=GenerationOptions(**changes), written=written)
    return start_machine(request, MODEL.config, layout=LAYOUT)


@torch.inference_mode()
def guided_logits(machine: RowMachine, model: ChameleonForConditionalGeneration) -> Tensor:
    """What another engine computes before each choice, by a forward pass over each context."""
    branches = machine.branches()
    weights = {tuple(machine.ids): 1 - sum(branches.values()), **branches}
    rows = [weight * model(torch.tensor([ids])).logits[0, -1] for ids, weight in weights.items()]
    return torch.stack(rows).sum(dim=0)


def written_by(machines: Sequence[RowMachine], model: ChameleonForConditionalGeneration) -> list[list[int]]:
    """What the machines write, all that run in one call of the chooser."""
    chooser = RowChooser(model.config.vocab_size)
    while running := [machine for machine in machines if machine.finish_reason is None]:
        logits_RV = torch.stack([guided_logits(machine, model) for machine in running])
        for machine, token_id in zip(running, chooser.choose(running, logits_RV), strict=True):
            assert isinstance(token_id, int)
            machine.accept(token_id)
    return [list(machine.new_ids) for machine in machines]


def written_by_engine(
    requests: Sequence[Request], model: ChameleonForConditionalGeneration
) -> list[tuple[list[int], str | None]]:
    engine = Engine(model)
    handles = [engine.submit(request) for request in requests]
    list(engine.run())
    return [(handle.new_ids, handle.finish_reason) for handle in handles]


SAMPLED = {"do_sample": True, "seed": 5, "temperature": 1.5, "top_k": 20, "image_top_k": 9}
CASES = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, **SAMPLED},
    {"max_new_tokens": 9, "guidance_scale": 2.0, **SAMPLED},
    {"max_new_tokens": 9, "guidance_scale": 2.0, "negative_prompt_ids": (44, 45)},
    {"modality": "image"},
    {"modality": "image", "guidance_text": 3.0, "guidance_image": 1.2},
    {"modality": "image", "guidance_text": 3.0, "guidance_image": 1.2, **SAMPLED},
    {"modality": "image", "guidance_text": 3.0, "negative_prompt_ids": (44, 45), **SAMPLED},
    {"modality": "image", "fixed_codes": (3, None, 5, None), **SAMPLED},
    {"modality": "interleaved", "max_new_tokens": 40, **SAMPLED},
    {"modality": "interleaved", "max_new_tokens": 40, "guidance_text": 3.0, "guidance_image": 1.2, **SAMPLED},
]


@pytest.mark.parametrize("prompt", [PROMPT, WITH_PICTURE], ids=["text", "with a picture"])
def test_machines_write_what_the_engine_writes(prompt: tuple[int, ...]) -> None:
    """Text, pictures and both, likeliest and sampled, guided or not, all together."""
    # After the word 41 comes a picture, and after a picture the same word.
    model = make_scripted_model({41: BEGIN, END: 43, 42: 43, 43: 41})
    requests = [
        Request(prompt=prompt, options=GenerationOptions(**case), index=index) for index, case in enumerate(CASES)
    ]
    machines = [start_machine(request, model.config, layout=model.layout) for request in requests]
    expected = written_by_engine(requests, model)
    written = written_by(machines, model)
    assert written == [ids for ids, _ in expected]
    assert [machine.finish_reason for machine in machines] == [reason for _, reason in expected]
    assert sum(BEGIN in ids for ids in written) >= 6


def test_a_model_without_a_vocabulary_writes_text() -> None:
    model = make_model(make_config(vocabulary_map=None))
    request = Request(prompt=PROMPT, options=GenerationOptions(max_new_tokens=6))
    machine = start_machine(request, model.config, layout=None)
    assert written_by([machine], model) == [written_by_engine([request], model)[0][0]]


def test_ids_that_must_come_are_taken_at_once() -> None:
    machine = machine_of(modality="image")
    assert machine.new_ids == [BEGIN]
    assert machine.kind == "image"
    assert [machine.accept(code) for code in CODES[:3]] == [[code] for code in CODES[:3]]
    assert machine.accept(CODES[3]) == [CODES[3], END]
    assert machine.finish_reason == "stop"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_machine_goes_on_after_what_was_written(count: int) -> None:
    options: dict[str, Any] = {"modality": "image", "guidance_text": 3.0, **SAMPLED}
    (whole,) = written_by([machine_of(**options)], MODEL)
    resumed = machine_of(written=whole[: count + 1], **options)
    assert written_by([resumed], MODEL) == [whole]


def test_branches_grow_by_what_is_accepted_until_the_picture_has_its_codes() -> None:
    machine = machine_of(WITH_PICTURE, modality="image", guidance_text=3.0, guidance_image=1.2)
    before = machine.branches()
    assert list(before.values()) == pytest.approx([-1.8, -0.2])
    for code in CODES[:3]:
        machine.accept(code)
        after = machine.branches()
        assert after == {(*context, code): weight for context, weight in before.items()}
        before = after
    machine.accept(CODES[3])
    assert machine.branches() == {}


def test_nothing_is_guided_outside_of_pictures_or_at_scales_of_1() -> None:
    assert machine_of(modality="interleaved", guidance_text=3.0, max_new_tokens=20).branches() == {}
    assert machine_of(modality="image").branches() == {}


def test_a_choice_leaves_the_machine_as_it_is() -> None:
    machine = machine_of(modality="image")
    logits_RV = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    chooser = RowChooser(64)
    assert chooser.choose([machine], logits_RV) == chooser.choose([machine], logits_RV)
    assert machine.new_ids == [BEGIN]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_what_may_come_is_chosen_whatever_the_logits(dtype: torch.dtype) -> None:
    logits_RV = torch.zeros(3, 64, dtype=dtype)
    logits_RV[:, [LAYOUT.pad_id, BEGIN]] = 10.0
    logits_RV[0, CODES[7]] = 1.0
    logits_RV[1, 50] = logits_RV[2, 50] = 1.0
    machines = [machine_of(modality="image"), machine_of(max_new_tokens=1), machine_of(max_new_tokens=1)]
    assert RowChooser(64).choose(machines, logits_RV) == [CODES[7], 50, 50]


def test_only_the_row_at_fault_fails() -> None:
    logits_RV = torch.zeros(3, 64)
    logits_RV[0, CODES[0]] = torch.nan
    machines = [machine_of(modality="image"), machine_of(modality="image"), machine_of(max_new_tokens=3)]
    failed, code, word = RowChooser(64).choose(machines, logits_RV)
    assert isinstance(failed, ChameleonCoreError)
    assert "1 of 16 logits are NaN or infinite" in str(failed)
    assert code == CODES[0]
    assert isinstance(word, int)


def test_forbidden_logits_of_others_are_no_fault() -> None:
    logits_RV = torch.full((1, 64), FORBIDDEN)
    logits_RV[:, CODES] = 0.0
    assert RowChooser(64).choose([machine_of(modality="image")], logits_RV) == [CODES[0]]


def test_logits_of_another_shape_and_ended_rows_are_refused() -> None:
    with pytest.raises(GenerationError, match=r"logits must be \[1, 64\], rows and vocabulary; got \[1, 63\]\."):
        RowChooser(64).choose([machine_of(max_new_tokens=3)], torch.zeros(1, 63))
    ended = machine_of(modality="image")
    for code in CODES[:4]:
        ended.accept(code)
    with pytest.raises(GenerationError, match=r"row 0 has ended \(stop\); choose no more\."):
        RowChooser(64).choose([ended], torch.zeros(1, 64))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": ()}, GenerationError, "is empty"),
        ({"prompt": (64,)}, GenerationError, "outside the vocabulary"),
        ({"prompt": (40,) * 126, "modality": "image"}, ContextLengthError, "the context holds 128"),
        ({"forbidden_ids": (64,)}, GenerationError, "forbidden_ids"),
        ({"stop_strings": ("a",)}, GenerationError, "pass tokenizer"),
        ({"modality": "image", "written": (40,)}, GenerationError, "number 0 of what row 0 has written"),
    ],
    ids=["empty", "beyond", "long", "forbidden", "stop strings", "written"],
)
def test_a_request_that_cant_be_met_is_refused(
    changes: dict[str, Any], error: type[ChameleonCoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        machine_of(**changes)


def test_machines_need_no_model() -> None:
    code = """
import sys
from chameleon_core.generation import RowChooser, start_machine
sys.exit("chameleon_core.model" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
