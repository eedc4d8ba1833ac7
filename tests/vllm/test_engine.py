"""The embedded model on vLLM writes what chameleon-core writes; nothing that a request holds ends the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from chameleon_core import (
    Chameleon,
    ConfigError,
    Finished,
    GenerationError,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    TextDelta,
)
from chameleon_vllm import VLLMChameleon

vllm = pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

GUIDED = {"guidance_text": 3.0, "guidance_image": 1.2}
SAMPLED = {"do_sample": True, "seed": 3, "temperature": 0.9, "image_top_k": 50}
PICTURE = Image.new("RGB", (64, 64), "red")
THINGS = ("apple", "heart", "leaf", "star", "ball", "flower", "fish", "moon")


@pytest.fixture(scope="session")
def theirs() -> VLLMChameleon:
    """One engine, because making it takes half a minute."""
    return VLLMChameleon.from_pretrained(
        "emoji", dtype="float32", enforce_eager=True, max_num_seqs=16, kv_cache_memory_bytes=2**28
    )


@pytest.fixture(scope="session")
def ours() -> Chameleon:
    return Chameleon.from_pretrained("emoji")


def written(chameleon: Chameleon, prompts: list[Any], **options: Any) -> list[tuple[tuple[int, ...], str]]:
    """What each prompt's row wrote, and why it ended."""
    events = chameleon.stream_batch(prompts, template="chat", **options)
    found = {event.row: (event.new_ids, event.reason) for event in events if isinstance(event, Finished)}
    return [found[row] for row in range(len(prompts))]


QUESTIONS = [[PICTURE, "what is this?"], ["a heart: ", PICTURE, " and"], "a heart"]
DRAWINGS = ["a red apple", "a blue heart", *QUESTIONS[:2]]
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "captions": (QUESTIONS, {"modality": "text", "do_sample": False, "max_new_tokens": 20}),
    "sampled text": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, **SAMPLED, "repetition_penalty": 1.2}),
    "guided text": (
        QUESTIONS,
        {"modality": "text", "do_sample": False, "max_new_tokens": 20, "guidance_scale": 1.5},
    ),
    "drawings": (DRAWINGS, {"modality": "image", "do_sample": False}),
    "guided drawings": (DRAWINGS, {"modality": "image", "do_sample": False, **GUIDED}),
    "sampled drawings": (DRAWINGS, {"modality": "image", **SAMPLED, **GUIDED}),
    "documents": (QUESTIONS, {"modality": "interleaved", "max_new_tokens": 100, "do_sample": False}),
    "guided documents": (QUESTIONS, {"modality": "interleaved", "max_new_tokens": 100, **SAMPLED, **GUIDED}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_write_the_same_ids(case: str, theirs: VLLMChameleon, ours: Chameleon) -> None:
    prompts, options = CASES[case]
    assert written(theirs, prompts, **options) == written(ours, prompts, **options)


def test_64_guided_pictures_are_all_guided_and_none_is_lost(theirs: VLLMChameleon, ours: Chameleon) -> None:
    prompts = [f"a {colour} {thing}" for colour in ("red", "blue", "green", "yellow") * 2 for thing in THINGS]
    options = {"modality": "image", **SAMPLED, **GUIDED}
    assert written(theirs, prompts, **options) == written(ours, prompts, **options)


def test_the_short_forms_and_the_events_are_those_of_the_pipeline(theirs: VLLMChameleon, ours: Chameleon) -> None:
    picture = theirs.draw("a red apple", seed=0)
    assert picture == ours.draw("a red apple", seed=0)
    assert theirs.caption(picture) == ours.caption(picture)
    options: dict[str, Any] = {"template": "chat", "modality": "image", "do_sample": False, "preview_every": 16}
    kinds = [[type(event) for event in each.stream("a red apple", **options)] for each in (theirs, ours)]
    assert kinds[0] == kinds[1]
    assert {ImageStarted, ImageProgress, ImageFinished, Finished} == set(kinds[0])
    assert any(isinstance(event, TextDelta) for event in theirs.stream([PICTURE, "what is this?"], template="chat"))


def test_two_streams_are_open_at_the_same_time(theirs: VLLMChameleon) -> None:
    options: dict[str, Any] = {"template": "chat", "modality": "image", "do_sample": False}
    alone = [theirs.generate(prompt, **options) for prompt in ("a red apple", "a blue heart")]
    streams = [theirs.stream(prompt, **options) for prompt in ("a red apple", "a blue heart")]
    events = [[next(stream)] for stream in streams]
    for found, stream in zip(events, streams, strict=True):
        found += stream
    assert [found[-1].document for found in events] == alone  # type: ignore[union-attr]


def test_malformed_requests_leave_the_engine_alive(theirs: VLLMChameleon) -> None:
    """Those of the unit tests that pass the check of parameters; vLLM refuses the others before."""
    engine = theirs.runner.engine
    good = {"options": {"max_new_tokens": 5}, "prompt_length": 3}
    malformed = [
        {**good, "options": {"modality": "audio"}},
        {**good, "options": {"modality": "image", "max_new_tokens": 2}},
        {**good, "options": {"forbidden_ids": list(range(4872))}},
        {**good, "options": {"fixed_codes": [1], "modality": "image"}},
        {**good, "prompt_length": 99},
        {"group": "alone", "member": 1, "weights": [0.5, 0.5]},
        {**good, "group": "half", "weights": [0.5, 0.5]},
    ]
    expected = theirs.generate("a red apple", modality="image", template="chat", do_sample=False)
    for number, part in enumerate(malformed):
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=9,
            stop_token_ids=[0, 1],
            detokenize=False,
            extra_args={"chameleon": json.dumps(part)},
        )
        engine.engine.add_request(f"malformed-{number}", {"prompt_token_ids": [0, 5, 6]}, params)
    assert theirs.generate("a red apple", modality="image", template="chat", do_sample=False) == expected
    for text in ("{", "[]", '{"unknown": 1}', json.dumps({**good, "options": {"top_p": 7}})):
        params = vllm.SamplingParams(temperature=0.0, extra_args={"chameleon": text})
        with pytest.raises(vllm.exceptions.VLLMValidationError, match=r"chameleon|top_p"):
            engine.engine.add_request("refused", {"prompt_token_ids": [0, 5, 6]}, params)
    assert theirs.generate("a red apple", modality="image", template="chat", do_sample=False) == expected


@pytest.mark.parametrize("options", [{"decoding": "jacobi"}, {"cache_implementation": "int8"}, {"stop_ids": (1,)}])
def test_options_that_vllm_has_no_place_for_are_refused(options: dict[str, Any], theirs: VLLMChameleon) -> None:
    with pytest.raises(GenerationError):
        theirs.generate("a heart", **options)


@pytest.mark.parametrize("arguments", [{"logits_processors": []}, {"max_model_len": 5}, {"tensor_paralel_size": 2}])
def test_engine_arguments_that_cant_be_given_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        VLLMChameleon.from_pretrained("emoji", **arguments)
