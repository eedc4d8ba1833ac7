"""Drafts: a smaller model guesses text, which changes no id, sampled or not, and saves passes where it guesses well."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import ConfigError, GenerationError, GenerationOptions, ModelNotFoundError
from chameleon_core.generation import Engine, GuessView, Request, RowView
from chameleon_core.generation.decoding.strategies import decoding_strategy
from chameleon_core.model import ChameleonForConditionalGeneration
from chameleon_core.testing import DecodingStrategyConformance, make_config, make_model, make_vocabulary

MODEL = make_model().double()
A, B, C = range(40, 43)


def changed(model: ChameleonForConditionalGeneration, by: float) -> ChameleonForConditionalGeneration:
    """Return a copy of a model whose weights differ a little."""
    draft, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in draft.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=by * float(parameter.std()))
    return draft


NEAR, FAR = changed(MODEL, 0.02), make_model(make_config(num_hidden_layers=1), seed=7).double()


def run(
    model: Any = None, count: int = 4, *, prompts: Any = ((0, A, B),), **options: Any
) -> tuple[list[list[int]], int]:
    """Return what a row for each prompt wrote with a draft, or plainly, and the passes of the model that it took."""
    decoding: Any = "plain" if model is None else {"name": "draft", "model": model, "count": count}
    chosen = GenerationOptions(**{"max_new_tokens": 24, "min_new_tokens": 24, "decoding": decoding, **options})
    engine = Engine(MODEL)
    handles = [engine.submit(Request(prompt=each, options=chosen, index=row)) for row, each in enumerate(prompts)]
    passes = 0
    while not engine.is_idle:
        engine.step()
        passes += 1
    for handle in handles:
        if handle.error is not None:
            raise handle.error
    return [handle.new_ids for handle in handles], passes


class TestNear(DecodingStrategyConformance):
    strategy_name = "draft"
    options = {"model": NEAR}


@pytest.mark.parametrize("draft", [NEAR, FAR], ids=["a near draft", "another model"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "seed": 1},
        {"do_sample": True, "seed": 2, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
        {"no_repeat_ngram_size": 2, "forbidden_ids": (44,)},
        {"modality": "interleaved", "min_new_tokens": 0},
        {"min_new_tokens": 0, "stop_ids": (45, 50, 55)},
    ],
    ids=str,
)
def test_ids_are_those_of_plain_decoding(draft: Any, options: dict[str, Any]) -> None:
    prompts = ((0, A, B), (0, C), (0, *[A, B, C] * 5))
    plain, passes = run(prompts=prompts, **options)
    for count in (1, 5):
        found, fewer = run(draft, count, prompts=prompts, **options)
        assert found == plain
        assert fewer <= passes


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 1, "temperature": 1.5}], ids=str)
def test_a_good_draft_saves_passes_also_where_ids_are_sampled(options: dict[str, Any]) -> None:
    """24 ids; with 5 guesses at a time at least 4 passes."""
    assert run(**options)[1] == 24
    assert run(copy.deepcopy(MODEL), 5, **options)[1] == 4
    assert run(NEAR, 5, **options)[1] <= 10


def test_the_draft_computes_each_id_about_once() -> None:
    fed: list[int] = []
    draft = copy.deepcopy(MODEL)
    draft.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    run(draft, 4, prompts=((0, *[A] * 30),))
    assert fed[0] == 31
    assert sum(fed) <= 31 + 24 + len(fed)


def test_a_draft_guesses_no_further_than_its_context() -> None:
    short = make_model(make_config(max_position_embeddings=16)).double()
    (found,), _ = run(short)
    assert found == run()[0][0]
    strategy, _ = decoding_strategy(GenerationOptions(decoding={"name": "draft", "model": short}))
    row = RowView(prompt=(0,), options=GenerationOptions(), layout=MODEL.layout, tokenizer=None, kind="text")
    guesser: Any = strategy.start(row)
    guesses = [guesser.guess(GuessView(kind="text", ids=(0,) * length, count=9)) for length in (12, 15, 16, 17, 30)]
    assert [len(each) for each in guesses] == [4, 2, 1, 0, 0]


def test_a_draft_may_be_a_folder(tmp_path: Path) -> None:
    NEAR.save_pretrained(tmp_path / "draft")
    found, passes = run(str(tmp_path / "draft"))
    assert found == run()[0]
    assert passes <= 12
    with pytest.raises(ModelNotFoundError):
        run(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "config",
    [{"vocab_size": 80}, {"vocabulary_map": make_vocabulary(seed=5)}],
    ids=["another size", "other names"],
)
def test_a_draft_of_another_vocabulary_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="a draft must have the same vocabulary"):
        run(make_model(make_config(**config)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the decoding strategy 'draft' needs the option 'model'"),
        ({"model": 3}, "model of the decoding strategy 'draft' must be a ChameleonForConditionalGeneration"),
        ({"model": "folder", "count": 0}, "count of the decoding strategy 'draft' must be an integer from 1 to 64"),
        ({"model": "folder", "count": 2.5}, "count of the decoding strategy 'draft'"),
    ],
    ids=str,
)
def test_wrong_options_are_said_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(MODEL).submit(Request(prompt=[0], options=GenerationOptions(decoding={"name": "draft", **options})))


def test_a_model_in_the_options_isnt_written_to_a_file() -> None:
    options = GenerationOptions(decoding={"name": "draft", "model": NEAR})
    with pytest.raises(ConfigError, match=r"decoding holds a model, which no file can hold\. Name its folder"):
        options.to_file_dict(MODEL.config)
    named = GenerationOptions(decoding={"name": "draft", "model": "folder"})
    again = GenerationOptions.from_file_dict(named.to_file_dict(MODEL.config), MODEL.config)
    assert again.decoding == named.decoding
