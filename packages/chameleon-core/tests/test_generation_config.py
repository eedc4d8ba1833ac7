"""``generation_config.json``: what is honoured, what is reported, and that it never stops a model from loading."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import ChameleonForConditionalGeneration, GenerationOptions
from chameleon_core.testing import make_model


def load(folder: Path, **values: Any) -> ChameleonForConditionalGeneration:
    path = folder / "generation_config.json"
    if not path.exists():
        make_model().save_pretrained(folder)
    path.write_text(json.dumps({"eos_token_id": 2, **values}))
    return ChameleonForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": True, "top_k": 0}, GenerationOptions(do_sample=True)),
        ({"do_sample": True, "top_p": 0}, GenerationOptions(do_sample=True, top_k=1)),
        ({"do_sample": True, "min_p": 1.0}, GenerationOptions(do_sample=True, top_k=1)),
        ({"image_top_p": 0.0}, GenerationOptions(image_top_k=1)),
        ({"top_k": None, "temperature": None, "do_sample": None}, GenerationOptions()),
        ({"stop_strings": "end"}, GenerationOptions(stop_strings=("end",))),
        ({"eos_token_id": [2, 7]}, GenerationOptions(stop_ids=(7,))),
        ({"eos_token_id": 7}, GenerationOptions(eos_token_ids=(7,))),
        ({"eos_token_id": None}, GenerationOptions()),
        ({"eos_token_id": 7, "stop_ids": [9]}, GenerationOptions(eos_token_ids=(7,), stop_ids=(9,))),
        ({"eos_token_id": [2, 7], "stop_ids": [9, 7]}, GenerationOptions(stop_ids=(7, 9))),
        ({"typical_p": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}, GenerationOptions()),
        ({"typical_p": 0.9, "no_repeat_ngram_size": 3}, GenerationOptions(typical_p=0.9, no_repeat_ngram_size=3)),
        ({"min_new_tokens": 4}, GenerationOptions(min_new_tokens=4)),
        ({"suppress_tokens": [5, 6], "forbidden_ids": [6, 8]}, GenerationOptions(forbidden_ids=(5, 6, 8))),
        # The id that ends a stream is no bad word.
        (
            {"bad_words_ids": [[2], [5], [7, 2], [7, 8]]},
            GenerationOptions(forbidden_ids=(5,), forbidden_sequences=((7, 2), (7, 8))),
        ),
        (
            {"logits_processors": ["top-k", {"name": "top-k", "k": 5}]},
            GenerationOptions(logits_processors=("top-k", {"name": "top-k", "k": 5})),
        ),
    ],
    ids=str,
)
def test_values_of_transformers_keep_their_meaning(
    tmp_path: Path, values: dict[str, Any], expected: GenerationOptions
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path, **values).generation_options == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", "warm"),
        ("temperature", 1e-40),
        ("top_k", -3),
        ("top_k", True),
        ("top_p", 1.5),
        ("repetition_penalty", 1e38),
        ("guidance_text", float("inf")),
        ("max_new_tokens", 0),
        ("do_sample", "yes"),
        ("seed", -1),
        ("stop_strings", [""]),
        ("stop_strings", 7),
        ("stop_ids", [64]),
        ("eos_token_id", [2, -1]),
        ("eos_token_id", "</s>"),
        ("eos_token_id", {"a": 1}),
        ("eos_token_id", [[2]]),
        ("typical_p", 0),
        ("no_repeat_ngram_size", -1),
        ("min_new_tokens", -1),
        ("suppress_tokens", 7),
        ("suppress_tokens", [64]),
        ("suppress_tokens", [[5]]),
        ("bad_words_ids", [5]),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [[5, 64]]),
        ("bad_words_ids", "word"),
        ("logits_processors", "top-k"),
        ("logits_processors", [{"k": 5}]),
        ("pad_token_id", 64),
        ("pad_token_id", [1]),
        ("bos_token_id", 7),
        ("bos_token_id", "<s>"),
        ("num_beams", float("inf")),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_named_once_and_the_model_loads(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.warns(UserWarning, match=name) as caught:
        model = load(tmp_path, **{name: value})
    said = [str(each.message) for each in caught]
    assert len(said) == 1
    assert str(tmp_path / "generation_config.json") in said[0]
    assert name in said[0]
    assert model.generation_options == GenerationOptions()


def test_a_temperature_of_0_is_greedy_even_where_the_file_samples(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="greedily"):
        assert load(tmp_path, do_sample=True, temperature=0.0).generation_options == GenerationOptions()


def test_unknown_fields_are_reported_and_written_back(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="diversity_penalty"):
        model = load(tmp_path, diversity_penalty=0.5, num_beams=4)
    model.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_text())["num_beams"] == 4


def test_each_end_id_of_the_file_ends_a_row_and_survives_a_save(tmp_path: Path) -> None:
    model = load(tmp_path)
    prompt = torch.tensor([[0, 25, 26]])
    free = model.generate(prompt, max_new_tokens=4)[0, 3:].tolist()
    end = free[1]
    model = load(tmp_path, eos_token_id=[2, end])
    model.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_text())["eos_token_id"] == [2, end]
    copy = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "copy")
    for each in (model, copy):
        assert each.generate(prompt, max_new_tokens=4)[0, 3:].tolist() == free[: free.index(end) + 1]


def test_end_ids_of_the_config_end_a_row_too() -> None:
    model = make_model()
    prompt = torch.tensor([[0, 25, 26]])
    free = model.generate(prompt, max_new_tokens=4)[0, 3:].tolist()
    config = model.config.replace(eos_token_id=[model.layout.eos_id, free[0]])
    model.config = model.model.config = config
    assert model.generate(prompt, max_new_tokens=4)[0, 3:].tolist() == free[:1]


def test_a_minimum_above_the_maximum_is_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"min_new_tokens 9 \(above max_new_tokens\)"):
        model = load(tmp_path, min_new_tokens=9, max_new_tokens=5)
    assert model.generation_options == GenerationOptions(max_new_tokens=5)


def test_what_is_forbidden_is_written_under_the_names_of_transformers(tmp_path: Path) -> None:
    options = GenerationOptions(
        forbidden_ids=(5, 6), forbidden_sequences=((7, 8),), logits_processors=({"name": "top-k", "k": 5},)
    )
    model = make_model()
    model.generation_options = options
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["suppress_tokens"] == [5, 6]
    assert written["bad_words_ids"] == [[7, 8]]
    assert not written.keys() & {"forbidden_ids", "forbidden_sequences"}
    read = ChameleonForConditionalGeneration.from_pretrained(tmp_path).generation_options
    assert read.to_file_dict(model.config) == options.to_file_dict(model.config) | read.extras


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5_000 + b"}"])
def test_a_file_that_cannot_be_read_is_named_and_the_model_loads(tmp_path: Path, content: bytes) -> None:
    make_model().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"the options of generation are the defaults, .*generation_config\.json"):
        model = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert model.generation_options == GenerationOptions()


def test_the_padding_of_the_file_fills_rows_that_end_early_and_survives_a_save(tmp_path: Path) -> None:
    model = load(tmp_path, pad_token_id=9)
    model.save_pretrained(tmp_path / "copy")
    for each in (model, ChameleonForConditionalGeneration.from_pretrained(tmp_path / "copy")):
        prompts = torch.tensor([[0, 25, 26], [0, 30, 31]])
        first = each.generate(prompts, max_new_tokens=1)[0, -1].item()
        ids = each.generate(prompts, max_new_tokens=4, stop_ids=[first])
        assert ids[0, 4:].tolist() == [9, 9, 9]
