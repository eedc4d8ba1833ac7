"""Generation as ids: greedy and sampled, text, pictures and both, rows in different states, and how it ends.

Shapes: B batch, T length, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chameleon_core import (
    ChameleonForConditionalGeneration,
    ConfigError,
    ContextLengthError,
    GenerationError,
    GenerationOptions,
    Step,
)
from chameleon_core.testing import make_config, make_model, make_scripted_model, pad_rows

MODEL = make_model()
LAYOUT = MODEL.layout
BOS, EOS, PAD, BEGIN, END = LAYOUT.bos_id, LAYOUT.eos_id, LAYOUT.pad_id, LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
A, B, C, D = range(40, 44)
PROMPTS = [[BOS, A, B, C], [B], [C, D, A]]


class Names:
    """Decodes ids to the letters a, b, c, … from id 40 on; others have no text."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token_id - A) for token_id in ids if token_id >= A)


def new_ids(model: ChameleonForConditionalGeneration, rows: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    """What each row wrote, without the prompt; options are those of ``generate``."""
    input_ids, mask = pad_rows(rows)
    return model.generate(input_ids, mask, **options)[:, input_ids.shape[1] :].tolist()


@torch.no_grad()
def allowed_logits(row: Sequence[int]) -> Tensor:
    """The next id's logits [V] after a pass over the whole row, with what text may not hold at -inf."""
    logits_V = MODEL(torch.tensor([list(row)])).logits[0, -1]
    allowed_V = LAYOUT.text_allowed_V.clone()
    allowed_V[EOS] = True
    return logits_V.masked_fill(~allowed_V, -torch.inf)


def uncached(row: Sequence[int], count: int) -> list[int]:
    """Greedy text, each id from a pass over everything before it."""
    ids = list(row)
    for _ in range(count):
        ids.append(int(allowed_logits(ids).argmax()))
        if ids[-1] == EOS:
            break
    return ids[len(row) :]


def test_greedy_text_is_the_likeliest_id_after_a_pass_over_everything() -> None:
    for row, written in zip(PROMPTS, new_ids(MODEL, PROMPTS, max_new_tokens=12), strict=True):
        expected = uncached(row, 12)
        assert written == expected + [PAD] * (12 - len(expected))


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_may_be_padded_on_either_side(side: Any) -> None:
    input_ids, mask = pad_rows(PROMPTS, side)
    out = MODEL.generate(input_ids, mask, max_new_tokens=6)
    assert torch.equal(out[:, : input_ids.shape[1]], input_ids)
    assert out[:, input_ids.shape[1] :].tolist() == new_ids(MODEL, PROMPTS, max_new_tokens=6)


def test_a_prompt_of_one_id_and_a_batch_of_one() -> None:
    assert new_ids(MODEL, [[A]], max_new_tokens=5) == [uncached([A], 5)]


def test_an_empty_batch_gives_an_empty_batch() -> None:
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert MODEL.generate(empty, max_new_tokens=5).shape == (0, 3)


def test_text_never_holds_codes_or_specials_and_pictures_hold_codes_alone() -> None:
    for row in new_ids(MODEL, [[A]] * 20, max_new_tokens=40, do_sample=True, temperature=3.0, seed=0):
        written = row[: row.index(EOS)] if EOS in row else row
        assert LAYOUT.text_allowed_V[written].all()
    for row in new_ids(MODEL, [[A]] * 20, modality="image", do_sample=True, temperature=3.0, seed=0):
        assert (row[0], row[-1]) == (BEGIN, END)
        assert set(row[1:-1]) <= set(CODES)
        assert len(row) == 6


def test_repetition_penalty_counts_the_prompts_ids_and_the_new_ones() -> None:
    ids = [A, B, B]
    for _ in range(8):
        logits_V = allowed_logits(ids)
        seen = sorted(set(ids))
        logits_V[seen] = torch.where(logits_V[seen] > 0, logits_V[seen] / 1.7, logits_V[seen] * 1.7)
        ids.append(int(logits_V.argmax()))
    assert new_ids(MODEL, [[A, B, B]], max_new_tokens=8, repetition_penalty=1.7) == [ids[3:]]
    assert ids[3:] != uncached([A, B, B], 8)


def test_seeds_repeat_and_rows_of_one_prompt_differ() -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "temperature": 2.0}
    first = new_ids(MODEL, [[A]] * 3, **options, seed=7)
    assert new_ids(MODEL, [[A]] * 3, **options, seed=7) == first
    assert new_ids(MODEL, [[A]] * 3, **options, seed=8) != first
    assert len({tuple(row) for row in first}) == 3


def test_a_sampled_row_doesnt_depend_on_the_rows_after_it() -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "seed": 3}
    assert new_ids(MODEL, PROMPTS[:1], **options) == new_ids(MODEL, [PROMPTS[0], [A]], **options)[:1]


# -- Rows in different states ------------------------------------------------------------------------------------------


def test_rows_of_one_batch_are_in_different_states_at_the_same_time() -> None:
    model = make_scripted_model({A: B, B: BEGIN, C: BEGIN, END: D, D: EOS, 50: 50})
    long, short, text, ended = new_ids(
        model, [[A], [C], [50], [D]], modality="interleaved", max_new_tokens=9, max_images=1
    )
    assert long[:2] == [B, BEGIN]
    assert set(long[2:6]) <= set(CODES)
    assert long[6:] == [END, D, EOS]
    assert short[0] == BEGIN
    assert short[5:] == [END, D, EOS, PAD]
    assert text == [50] * 9
    assert ended == [EOS] + [PAD] * 8


def test_an_interleaved_row_is_the_same_alone_and_in_a_batch() -> None:
    model = make_scripted_model({A: B, B: BEGIN, C: BEGIN, END: A})
    rows = [[A], [C, C], [BOS, 50]]
    together = new_ids(model, rows, modality="interleaved", max_new_tokens=20)
    for row, written in zip(rows, together, strict=True):
        assert new_ids(model, [row], modality="interleaved", max_new_tokens=20) == [written]
    # Eight ids a round: two words, six of a picture. The third picture wouldn't fit.
    assert together[0].count(BEGIN) == together[0].count(END) == 2


@pytest.mark.parametrize(("max_images", "expected"), [(None, 3), (0, 0), (1, 1), (2, 2)])
def test_max_images_bounds_an_interleaved_row(max_images: int | None, expected: int) -> None:
    model = make_scripted_model({A: BEGIN, END: A})
    (written,) = new_ids(model, [[A]], modality="interleaved", max_new_tokens=21, max_images=max_images)
    assert written.count(BEGIN) == written.count(END) == expected


def test_a_picture_that_wouldnt_fit_isnt_begun() -> None:
    model = make_scripted_model({A: BEGIN, END: A})
    (written,) = new_ids(model, [[A]], modality="interleaved", max_new_tokens=12)
    # One picture takes six ids, then A; five are left.
    assert written[:1] + written[5:7] == [BEGIN, END, A]
    assert BEGIN not in written[1:]


def test_prompts_that_leave_a_picture_open_beside_prompts_that_dont() -> None:
    rows = [[A, BEGIN], [A, BEGIN, *CODES[:3]], [A]]
    first, second, third = new_ids(MODEL, rows, modality="image")
    assert [set(first[:4]) <= set(CODES), first[4:]] == [True, [END, PAD]]
    assert [set(second[:1]) <= set(CODES), second[1:]] == [True, [END, PAD, PAD, PAD, PAD]]
    assert [third[0], third[5]] == [BEGIN, END]
    for row, written in zip(rows, (first, second, third), strict=True):
        assert new_ids(MODEL, [row], modality="image") == [[token for token in written if token != PAD]]


def test_codes_are_the_likeliest_ones_after_a_pass_over_everything() -> None:
    (written,) = new_ids(MODEL, [[A, B]], modality="image")
    ids = [A, B, BEGIN]
    for code in written[1:5]:
        with torch.no_grad():
            logits_Z = MODEL(torch.tensor([ids])).logits[0, -1, LAYOUT.code_to_id_Z]
        assert code == CODES[int(logits_Z.argmax())]
        ids.append(code)


def test_inside_a_picture_only_its_rows_of_the_output_layer_are_multiplied() -> None:
    rows: set[int] = set()

    class Record(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.linear:
                rows.add(len(args[1]))
            return func(*args, **(kwargs or {}))

    with Record():
        new_ids(MODEL, [[A], [B]], modality="image")
    assert len(MODEL.layout.code_to_id_Z) in rows
    assert MODEL.config.vocab_size not in rows


def test_each_id_is_fed_once() -> None:
    fed: list[int] = []
    handle = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    new_ids(MODEL, [[A, B, C, D], [A]], max_new_tokens=4)
    handle.remove()
    # The prompts without any padding, then an id a row; the last ones aren't needed.
    assert fed == [5, 2, 2, 2]


def test_lanes_of_rows_that_ended_are_fed_no_more() -> None:
    model = make_scripted_model({A: B, B: C, C: EOS, D: EOS})
    fed: list[int] = []
    handle = model.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    new_ids(model, [[A], [D]], max_new_tokens=9)
    handle.remove()
    assert fed == [2, 1, 1]


# -- How it ends -------------------------------------------------------------------------------------------------------


def steps_of(model: ChameleonForConditionalGeneration, *rows: Sequence[int], **options: Any) -> list[Step]:
    return list(model.stream_ids(*pad_rows(rows), **options))


def test_steps_say_what_is_new_and_why_rows_have_ended() -> None:
    model = make_scripted_model({A: B, B: EOS, C: C})
    assert steps_of(model, [A], [C], max_new_tokens=3) == [
        Step((B, C), (None, None)),
        Step((EOS, C), ("stop", None)),
        Step((None, C), ("stop", "length")),
    ]


@pytest.mark.parametrize("stop_id", [C, BEGIN, END, CODES[3]], ids=["word", "begin-image", "end-image", "code"])
def test_stop_ids_may_be_any_ids(stop_id: int) -> None:
    model = make_scripted_model({A: B, B: stop_id})
    assert new_ids(model, [[A]], max_new_tokens=5, stop_ids=(stop_id,)) == [[B, stop_id]]


def test_end_image_as_a_stop_ends_an_interleaved_row_after_its_first_picture() -> None:
    model = make_scripted_model({A: BEGIN, END: A})
    (written,) = new_ids(model, [[A]], modality="interleaved", max_new_tokens=30, stop_ids=(END,))
    assert len(written) == 6
    assert written[-1] == END


@pytest.mark.parametrize("room", [1, 30])
def test_begin_image_as_a_stop_ends_the_row_before_the_picture(room: int) -> None:
    model = make_scripted_model({A: BEGIN})
    options: dict[str, Any] = {"modality": "interleaved", "guidance_text": 3.0, "stop_ids": (BEGIN,)}
    assert new_ids(model, [[A]], max_new_tokens=room, **options) == [[BEGIN]]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("c", [B, C]),
        ("bc", [B, C]),
        ("abcd", [B, C, D, A, B, C, D]),
        ("bd", None),
        # The prompt's own a before the first b isn't new text.
        ("ab", [B, C, D, A, B]),
    ],
)
def test_a_stop_string_ends_the_row_once_its_new_text_has_it(stop: str, expected: list[int] | None) -> None:
    model = make_scripted_model({A: B, B: C, C: D, D: A})
    endless = [B, C, D, A, B, C, D, A, B, C]
    written = new_ids(model, [[A]], max_new_tokens=10, stop_strings=(stop,), tokenizer=Names())
    assert written == [expected or endless]


def test_any_of_several_stop_strings_ends_each_row_by_itself() -> None:
    model = make_scripted_model({A: B, B: C, C: D, D: A})
    rows = new_ids(model, [[A], [C]], max_new_tokens=6, stop_strings=("bcd", "da"), tokenizer=Names())
    assert rows == [[B, C, D], [D, A, PAD]]


def test_a_stop_string_doesnt_reach_across_a_picture() -> None:
    model = make_scripted_model({A: B, B: BEGIN, END: C, C: D})
    options: dict[str, Any] = {"modality": "interleaved", "max_new_tokens": 9, "max_images": 1}
    (across,) = new_ids(model, [[A]], **options, stop_strings=("bc",), tokenizer=Names())
    assert across[-2:] == [C, D]
    (after,) = new_ids(model, [[A]], **options, stop_strings=("c",), tokenizer=Names())
    assert after[-1] == C


def test_a_stop_string_at_the_limit_is_a_stop() -> None:
    model = make_scripted_model({A: B})
    (step,) = steps_of(model, [A], max_new_tokens=1, stop_strings=("b",), tokenizer=Names())
    assert step.finish_reasons == ("stop",)


def test_should_stop_is_asked_before_each_id() -> None:
    answers = iter([False, False, True])
    written = new_ids(make_scripted_model({A: A}), [[A]], max_new_tokens=9, should_stop=lambda: next(answers))
    assert written == [[A, A]]


def test_stopping_at_once_gives_the_prompt_back() -> None:
    prompt = torch.tensor([[A], [B]])
    assert torch.equal(MODEL.generate(prompt, max_new_tokens=9, should_stop=lambda: True), prompt)


def test_closing_the_stream_ends_the_work() -> None:
    passes: list[int] = []
    handle = MODEL.model.register_forward_hook(lambda *_: passes.append(1))
    stream = MODEL.stream_ids(torch.tensor([[A]]), max_new_tokens=9)
    next(stream)
    stream.close()
    handle.remove()
    assert len(passes) == 1
    assert list(stream) == []


def test_generation_runs_to_the_end_of_the_context_unless_told_otherwise() -> None:
    model = make_scripted_model({A: A})
    assert len(new_ids(model, [[A, A]])[0]) == model.config.context_length - 2


def test_options_of_the_checkpoint_are_the_default_and_single_fields_change_them() -> None:
    model = make_model()
    model.generation_options = GenerationOptions(modality="image", seed=1)
    assert new_ids(model, [[A]])[0][0] == BEGIN
    assert len(new_ids(model, [[A]], modality="text", max_new_tokens=3)[0]) == 3
    assert len(new_ids(model, [[A]], options=GenerationOptions(max_new_tokens=2))[0]) == 2


# -- Beside training ---------------------------------------------------------------------------------------------------


def test_what_was_generated_can_be_trained_on() -> None:
    model = make_model()
    out = model.generate(torch.tensor([[A, B]]), modality="image", guidance_text=2.0)
    model(out, labels=out).loss.backward()
    assert model.lm_head.weight.grad is not None


def test_the_callers_grad_mode_is_its_own_between_steps() -> None:
    model = make_model()
    for _ in model.stream_ids(torch.tensor([[A]]), max_new_tokens=2):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        model(torch.tensor([[A, B]]), labels=torch.tensor([[A, B]])).loss.backward()


def test_generating_needs_no_gradients_and_keeps_none() -> None:
    assert not MODEL.generate(torch.tensor([[A]]), max_new_tokens=2).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("modality", ["text", "image", "interleaved"])
def test_half_precision_generates_everything(dtype: torch.dtype, modality: str) -> None:
    model = make_model().to(dtype)
    options = GenerationOptions.published(modality=modality, max_new_tokens=20, seed=0, stop_ids=(A,))
    assert model.generate(torch.tensor([[BOS, A, B], [A, B, C]]), options=options).dtype == torch.int64


def test_a_model_without_a_vocabulary_map_generates_any_ids() -> None:
    model = make_model(make_config(vocabulary_map=None))
    with torch.no_grad():
        expected = model(torch.tensor([[A]])).logits[0, -1].argmax()
    assert new_ids(model, [[A]], max_new_tokens=1) == [[int(expected)]]
    with pytest.raises(GenerationError, match="no vocabulary_map"):
        new_ids(model, [[A]], modality="image")


# -- Requests that can't be met ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([[A]], {"max_new_token": 5}, ConfigError, "no field 'max_new_token'. Did you mean 'max_new_tokens'"),
        ([[A]], {"temperature": -1.0}, ConfigError, "temperature"),
        ([[A]], {"stop_ids": (64,)}, GenerationError, r"stop_ids \[64\] are outside the vocabulary"),
        ([[A]], {"forbidden_ids": (5, 64)}, GenerationError, r"forbidden_ids \[64\] are outside the vocabulary"),
        ([[A]], {"forbidden_sequences": ((5, 64),)}, GenerationError, r"forbidden_sequences \[64\] are outside the"),
        ([[A]], {"stop_strings": ("x",)}, GenerationError, "pass tokenizer="),
        ([[A, 64, -1]], {}, GenerationError, r"row 0 has ids \[-1, 64\], which are outside the vocabulary"),
        ([A], {}, GenerationError, r"input_ids must be \[batch, length\]; got \[1\]"),
        ([[]], {}, GenerationError, "row 0 of the batch is empty"),
        ([[A] * 100], {"max_new_tokens": 29}, ContextLengthError, "together 129; the context holds 128"),
        ([[A], [BEGIN]], {}, GenerationError, "row 1 ends inside a picture"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(
    prompt: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    passes: list[int] = []
    handle = MODEL.model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(error, match=message):
        # Not even asked for a first step.
        MODEL.stream_ids(torch.tensor(prompt, dtype=torch.int64), **options)
    handle.remove()
    assert passes == []


def test_a_mask_of_another_shape_and_a_row_without_a_real_id_are_refused() -> None:
    prompt = torch.tensor([[A, B]])
    with pytest.raises(GenerationError, match=r"must have the shape of input_ids, \[1, 2\]; got \[1, 3\]"):
        MODEL.generate(prompt, torch.ones(1, 3))
    with pytest.raises(GenerationError, match="row 0 of the batch is empty"):
        MODEL.generate(prompt, torch.zeros(1, 2))


def test_rope_scaling_stretches_the_budget() -> None:
    model = make_model(make_config(max_position_embeddings=8, rope_scaling={"type": "linear", "factor": 2.0}))
    assert model.generate(torch.tensor([[A] * 10]), max_new_tokens=6).shape[1] <= 16
    with pytest.raises(ContextLengthError, match="the context holds 16"):
        model.generate(torch.tensor([[A] * 10]), max_new_tokens=7)
