"""``generate`` with the arguments of ``transformers``: what each does, what is refused, and ``generation_config``."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, GenerationOptions
from chameleon_core.errors import ArgumentError, ConfigError, GenerationError, InputError, InputWarning
from chameleon_core.generation import foreign_fields
from chameleon_core.testing import make_config, make_model

EOS, PAD, A, B = 2, 1, 25, 26
MODEL = make_model()
PROMPT = torch.tensor([[0, A, B]])
BATCH = torch.tensor([[0, A, B], [PAD, 0, 30]])


def plain(count: int = 6, prompt: Tensor = PROMPT) -> list[list[int]]:
    return MODEL.generate(prompt, max_new_tokens=count).tolist()


def written(**arguments: Any) -> list[list[int]]:
    return MODEL.generate(PROMPT, **arguments).tolist()


def test_lengths_count_the_prompt_and_its_padding() -> None:
    assert MODEL.generate(BATCH, max_length=7).tolist() == plain(4, BATCH)
    with pytest.warns(InputWarning, match="max_new_tokens counts"):
        assert written(max_length=5, max_new_tokens=4) == plain(4)
    with pytest.raises(GenerationError, match="max_length is 3 and the prompts have 3 ids"):
        written(max_length=3)
    end = plain()[0][4]
    assert len(written(max_length=9, min_length=8, eos_token_id=end)[0]) >= 8


@pytest.mark.parametrize(
    "form", [int, lambda each: [each, 63], lambda each: torch.tensor([each])], ids=["id", "list", "tensor"]
)
def test_end_ids_take_the_place_of_the_configs(form: Any) -> None:
    ids = plain()[0]
    assert written(max_new_tokens=6, eos_token_id=form(ids[5])) == [ids[:6]]
    biased = {"sequence_bias": {(EOS,): 50.0}, "max_new_tokens": 6}
    assert written(**biased) == [[0, A, B, EOS]]
    assert written(eos_token_id=63, **biased) == [[0, A, B, *[EOS] * 6]]
    assert written(eos_token_id=None, **biased) == [[0, A, B, *[EOS] * 6]]


def test_rows_that_end_are_filled_with_the_padding_that_was_asked_for() -> None:
    first = MODEL.generate(BATCH, max_new_tokens=1)[0, -1].item()
    ids = MODEL.generate(BATCH, max_new_tokens=3, eos_token_id=first, pad_token_id=9)
    assert ids[0, 4:].tolist() == [9, 9]


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": None, "top_k": None, "top_p": None, "min_p": None, "do_sample": None},
        {"temperature": 0.0, "do_sample": False},
        {"num_beams": 1, "length_penalty": 1, "num_return_sequences": 1, "early_stopping": False},
        {"synced_gpus": False, "use_cache": True, "disable_compile": True, "assistant_model": None},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2},
        {"prefill_chunk_size": 1},
        {"assistant_model": MODEL},
        {"inputs": PROMPT, "input_ids": None},
        {"position_ids": torch.arange(3)[None]},
        {"mm_token_type_ids": torch.zeros_like(PROMPT)},
        {"generation_config": {"repetition_penalty": 1.0}},
        {"cache_implementation": None},
    ],
    ids=lambda each: ", ".join(each),
)
def test_what_means_what_happens_anyway_is_silent(arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = {} if "inputs" in arguments else {"input_ids": PROMPT}
        assert MODEL.generate(**prompt, max_new_tokens=6, **arguments).tolist() == plain()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"diversity_penalty": 0.5}, ConfigError, r"diversity_penalty=0.5 isn't available: use do_sample"),
        ({"remove_invalid_values": True}, ConfigError, "end a row with an error"),
        ({"num_beam_groups": 2}, ConfigError, "num_return_sequences"),
        ({"decoder_start_token_id": 1}, ConfigError, "no encoder"),
        ({"token_healing": True}, ConfigError, "token_healing=True isn't available"),
        (
            {"assistant_model": 7},
            ArgumentError,
            "assistant_model is a int; expected a ChameleonForConditionalGeneration",
        ),
        ({"past_key_values": []}, ArgumentError, "past_key_values is a list; expected a KVCache"),
        ({"num_assistant_tokens": 5}, ConfigError, "'name': 'draft'"),
        ({"num_beams": 2, "assistant_model": MODEL}, ArgumentError, "pass one of them"),
        ({"num_beams": 2, "streamer": 7}, ArgumentError, "once the search has ended"),
        ({"num_beams": 2, "stopping_criteria": [len]}, ArgumentError, "once the search has ended"),
        ({"num_beams": 2, "output_logits": True}, ArgumentError, "output_logits can't be used with num_beams"),
        ({"num_beams": 2, "num_return_sequences": 3}, GenerationError, "above num_beams, 2"),
        ({"num_beams": 0}, ConfigError, "num_beams must be an integer ≥ 1"),
        ({"custom_generate": "a/b"}, ArgumentError, "call your loop"),
        ({"synced_gpus": True}, ArgumentError, "one device"),
        ({"labels": PROMPT}, ArgumentError, "for training"),
        ({"num_return_sequences": 2}, GenerationError, "Set do_sample=True"),
        ({"num_return_sequences": 0}, ConfigError, "integer ≥ 1"),
        ({"temperature": 0, "do_sample": True}, ConfigError, "temperature"),
        ({"max_length": "long"}, ConfigError, "max_length must be a number"),
        ({"pad_token_id": 64}, ConfigError, "pad_token_id must be an id below 64"),
        ({"suppress_tokens": "word"}, ConfigError, "suppress_tokens must be ids"),
        ({"exponential_decay_length_penalty": 3}, ConfigError, "must be a pair"),
        ({"max_matching_ngram_size": 3}, ConfigError, "prompt_lookup_num_tokens"),
        ({"max_new_token": 3}, ConfigError, "'max_new_token'; did you mean 'max_new_tokens'"),
        ({"generation_config": {"topk": 3}}, ConfigError, "field 'topk'; did you mean 'top_k'"),
        ({"generation_config": 7}, ArgumentError, "expected GenerationOptions"),
        (
            {"generation_config": {}, "options": GenerationOptions()},
            ArgumentError,
            "both options and generation_config",
        ),
        ({"inputs": PROMPT}, ArgumentError, "both inputs and input_ids"),
        ({"logits_processor": len}, ArgumentError, "Put it in a list"),
        ({"logits_processor": [1]}, ArgumentError, "expected callables"),
        ({"logits_processor": [lambda ids, scores: scores[:, :3]]}, GenerationError, r"returned a tensor \[1, 3\]"),
        ({"stopping_criteria": [lambda ids, scores: [True] * 5]}, GenerationError, "each of the 1 rows"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, GenerationError, "allows no id for row 0"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [0]}, GenerationError, "forbids every id"),
        ({"watermarking_config": {"bias": 2.0}}, ArgumentError, "construct_processor"),
        ({"position_ids": torch.tensor([[3, 4, 5]])}, GenerationError, "Leave it out"),
        (
            {"inputs_embeds": torch.zeros(1, 3, 7)},
            InputError,
            r"inputs_embeds must be floating-point \[batch, length, 32\]",
        ),
        ({"guidance_scale": 2.0, "modality": "image"}, ConfigError, "guidance_text and guidance_image"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": torch.zeros(3, 2)}, GenerationError, "a row for each"),
    ],
    ids=lambda each: ", ".join(each) if isinstance(each, dict) else "",
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        written(**{"max_new_tokens": 3, **arguments})


def test_arguments_without_effect_are_named() -> None:
    with pytest.warns(InputWarning, match="temperature, top_p count only where ids are sampled"):
        written(max_new_tokens=3, temperature=0.5, top_p=0.9)
    with pytest.warns(InputWarning, match="length_penalty counts only with num_beams above 1"):
        written(max_new_tokens=3, length_penalty=0.5)
    with pytest.warns(InputWarning, match="output_scores counts only with return_dict_in_generate"):
        written(max_new_tokens=3, output_scores=True)


@pytest.mark.parametrize(
    "form",
    [
        GenerationOptions(max_new_tokens=4, forbidden_ids=(36,)),
        {"max_new_tokens": 4, "suppress_tokens": [36]},
        SimpleNamespace(max_new_tokens=4, suppress_tokens=[36], top_k=None, _private=1, transformers_version="5"),
    ],
    ids=["options", "a dictionary", "an object"],
)
def test_a_generation_config_of_any_kind(form: Any) -> None:
    expected = written(max_new_tokens=4, forbidden_ids=(36,))
    assert expected != plain(4)
    assert written(generation_config=form) == expected
    assert MODEL.generate(PROMPT, form).tolist() == expected
    assert written(generation_config=form, max_new_tokens=2) == [expected[0][:5]]
    model = make_model()
    model.generation_config = form
    assert model.generate(PROMPT).tolist() == expected


def test_the_generation_config_of_a_model_reads_and_sets_its_options(tmp_path: Path) -> None:
    model = make_model()
    config = model.generation_config
    assert (config.max_new_tokens, config.temperature, config.eos_token_id, config.pad_token_id) == (None, 1.0, 2, 1)
    config.temperature = 0.5
    config.do_sample = True
    config.eos_token_id = [EOS, 7]
    config.pad_token_id = 9
    config.max_length = 5
    config.suppress_tokens = [36]
    config.begin_suppress_tokens = [44]
    assert model.generation_options.temperature == 0.5
    assert model.generation_options.eos_token_ids == (EOS, 7)
    assert (config.eos_token_id, config.pad_token_id, config.max_length) == ([EOS, 7], 9, 5)
    assert (model.pad_token_id, config.suppress_tokens) == (9, [36])
    assert model.generate(PROMPT, do_sample=False, temperature=None).shape == (1, 5)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == json.loads(json.dumps(config.to_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert copy.generation_config.to_dict() == config.to_dict()
    assert copy.generate(PROMPT, seed=3).tolist() == model.generate(PROMPT, seed=3).tolist()
    with pytest.raises(ConfigError, match="'temprature'; did you mean 'temperature'"):
        config.temprature = 1
    with pytest.raises(ConfigError, match="num_beam_groups=3 isn't available"):
        config.num_beam_groups = 3
    with pytest.raises(AttributeError, match="no field 'temprature'"):
        _ = config.temprature


def test_processors_and_criteria_are_called_with_the_whole_batch() -> None:
    shapes = []

    def forbid_the_last(input_ids: Tensor, scores: Tensor) -> Tensor:
        shapes.append((*input_ids.shape, *scores.shape))
        scores[torch.arange(len(scores)), input_ids[:, -1]] = -torch.inf
        return scores

    ids = MODEL.generate(BATCH, max_new_tokens=4, logits_processor=[forbid_the_last])
    assert shapes == [(2, length, 2, 64) for length in range(3, 7)]
    assert (ids[:, 3:] != ids[:, 2:-1]).all()
    first = plain(1, BATCH)[0][-1]
    ends = MODEL.generate(
        BATCH, max_new_tokens=4, stopping_criteria=[lambda input_ids, scores: input_ids[:, -1] == first]
    )
    assert ends[0].tolist() == [0, A, B, first, PAD, PAD, PAD]
    assert ends[1].tolist() == plain(4, BATCH)[1]


def test_an_error_of_a_callable_is_its_own() -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("mine")

    for name in ("logits_processor", "stopping_criteria"):
        with pytest.raises(KeyError, match="mine"):
            written(max_new_tokens=3, **{name: [fails]})
    with pytest.raises(KeyError, match="mine"):
        written(max_new_tokens=3, prefix_allowed_tokens_fn=fails)


def test_a_streamer_gets_the_prompt_then_each_id_then_the_end() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def put(self, value: Tensor) -> None:
            self.got.append(value.tolist())

        def end(self) -> None:
            self.got.append("end")

    streamer = Streamer()
    ids = written(max_new_tokens=3, streamer=streamer)
    assert streamer.got == [PROMPT.tolist(), *[[each] for each in ids[0][3:]], "end"]


def test_the_output_has_attributes_keys_and_indices() -> None:
    output = MODEL.generate(
        BATCH,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
    )
    assert output["sequences"] is output.sequences is output[0]
    assert list(output.keys()) == ["sequences", "scores", "logits", "hidden_states", "past_key_values"]
    assert output.attentions is None
    assert output.past_key_values.length == 5
    assert torch.stack(output.scores).argmax(dim=-1).T.tolist() == output.sequences[:, 3:].tolist()
    assert [each[-1].shape for each in output.hidden_states] == [(2, 3, 32), (2, 1, 32), (2, 1, 32)]
    hidden = output.hidden_states[1][-1][:, 0]
    codes = MODEL.layout.code_to_id_Z
    expected = MODEL.lm_head(hidden).index_fill(-1, codes, torch.finfo(torch.float32).min)
    torch.testing.assert_close(output.logits[1], expected)
    with pytest.raises(KeyError):
        output["attentions"]
    assert torch.utils._pytree.tree_leaves(output)[0] is output.sequences


def test_the_score_of_each_new_id() -> None:
    output = MODEL.generate(BATCH, max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
    found = MODEL.compute_transition_scores(output.sequences, output.scores)
    assert torch.equal(found, torch.stack(output.scores, dim=1).amax(dim=-1))
    normalized = MODEL.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    assert (normalized <= 0).all()


def test_a_cache_is_read_and_filled() -> None:
    cache = MODEL.new_cache(2)
    first = MODEL.generate(BATCH, max_new_tokens=3, past_key_values=cache)
    assert cache.length == 5
    passes: list[int] = []
    handle = MODEL.model.register_forward_hook(
        lambda module, args, output: passes.append(output.last_hidden_state.shape[1])
    )
    mask = (first != PAD).long()
    second = MODEL.generate(first, mask, max_new_tokens=2, past_key_values=cache)
    handle.remove()
    assert passes[0] == 2  # an id of each of two rows
    assert cache.length == 7
    assert second.tolist() == MODEL.generate(first, mask, max_new_tokens=2).tolist()
    with pytest.raises(GenerationError, match="at least one that isn't in the cache"):
        MODEL.generate(first, mask, max_new_tokens=2, past_key_values=cache)
    with pytest.raises(GenerationError, match="has 2 rows and there are 1 prompts"):
        MODEL.generate(PROMPT, max_new_tokens=2, past_key_values=cache)


def test_embeddings_stand_for_the_prompt() -> None:
    embeds = MODEL.get_input_embeddings()(BATCH).detach()
    mask = (BATCH != PAD).long()
    expected = plain(4, BATCH)
    ids = MODEL.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4)
    assert ids.tolist() == [row[3:] for row in expected]
    assert MODEL.generate(BATCH, mask, inputs_embeds=embeds, max_new_tokens=4).tolist() == expected
    # A prompt of one position is a step of its own for some caches.
    for cache in ("dynamic", "static"):
        ids = MODEL.generate(inputs_embeds=embeds[:1, 1:2], max_new_tokens=3, cache_implementation=cache)
        assert ids.tolist() == [plain(3, BATCH[:1, 1:2])[0][1:]]


def test_generation_begins_with_the_begin_of_stream_where_there_is_no_prompt() -> None:
    begun = torch.tensor([[0]])
    assert MODEL.generate(max_new_tokens=3).tolist() == plain(3, begun)
    assert MODEL.generate(bos_token_id=A, max_new_tokens=3).tolist() == plain(3, torch.tensor([[A]]))


def test_the_time_ends_rows_after_one_id() -> None:
    assert written(max_new_tokens=9, max_time=0.0) == plain(1)
    assert written(max_new_tokens=4, max_time=600.0) == plain(4)


def test_a_row_whose_time_is_over_says_so() -> None:
    *_, last = MODEL.stream_ids(PROMPT.repeat(2, 1), max_new_tokens=9, max_time=0.0)
    assert last.ids == (None, None)
    assert last.finish_reasons == ("timeout", "timeout")


def test_streamers_get_nothing_for_a_row_whose_time_is_over() -> None:
    class Streamer:
        given: list[list[int]] = []

        def put(self, ids: Tensor) -> None:
            self.given.append(ids.flatten().tolist())

        def end(self) -> None:
            pass

    MODEL.generate(PROMPT, max_new_tokens=9, max_time=0.0, streamer=Streamer())
    assert Streamer.given == [PROMPT[0].tolist(), plain(1)[0][-1:]]


def test_guidance_of_text_is_a_weighted_sum_of_two_contexts() -> None:
    negative = [5 + 20, 31]
    for scale, asked in ((2.0, None), (0.0, None), (2.5, negative)):
        ids = PROMPT
        for _ in range(3):
            other = ids[:, 2:] if asked is None else torch.tensor([[*asked, *ids[0, 3:]]])
            with torch.no_grad():
                full, part = (MODEL(each).logits[:, -1] for each in (ids, other))
            logits = part + scale * (full - part)
            logits[:, [*MODEL.layout.picture_ids, *(MODEL.layout.special_ids - {EOS})]] = -torch.inf
            ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
        given = {} if asked is None else {"negative_prompt_ids": torch.tensor([asked])}
        assert written(max_new_tokens=3, guidance_scale=scale, **given) == ids.tolist()


def test_sampled_sequences_of_one_prompt_differ_and_repeat_with_the_seed() -> None:
    sampled = MODEL.generate(BATCH, do_sample=True, num_return_sequences=3, max_new_tokens=8, seed=4)
    assert sampled.shape == (6, 11)
    assert len({tuple(row) for row in sampled.tolist()}) == 6
    again = MODEL.generate(BATCH, do_sample=True, num_return_sequences=3, max_new_tokens=8, seed=4)
    assert again.tolist() == sampled.tolist()


def test_fields_that_a_file_has_for_generate_count_there(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    fields = {"eos_token_id": 2, "max_length": 6, "forced_eos_token_id": 2, "num_beams": 1, "low_memory": False}
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    ids = model.generate(PROMPT)
    assert (ids.shape, ids[0, -1]) == ((1, 6), EOS)
    model.save_pretrained(tmp_path / "copy")
    read = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert fields.items() <= read.items()


def test_every_refusal_says_what_to_do() -> None:
    for name, field in foreign_fields.REFUSED.items():
        assert dataclasses.is_dataclass(field)
        assert field.instead.endswith("."), name
    assert make_config().eos_token_ids
