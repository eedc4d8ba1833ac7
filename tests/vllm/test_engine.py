"""The embedded model on vLLM writes what chameleon-core writes; nothing that a request holds ends the engine."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chameleon_core import (
    Chameleon,
    Finished,
    GenerationError,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    TextDelta,
)
from chameleon_vllm import VLLMChameleon
from chameleon_vllm.admission import Admission
from chameleon_vllm.engine_arguments import ALLOWED, REFUSED

from .cases import CASES, GREEDY, GUIDED, PICTURE, QUESTIONS, SAMPLED, malformed_of, vllm_of, written

vllm = pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

THINGS = ("apple", "heart", "leaf", "star", "ball", "flower", "fish", "moon")
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "brown", "white")
DRAWING: dict[str, Any] = {"modality": "image", "template": "chat", **GREEDY}


@pytest.fixture(scope="module")
def theirs() -> VLLMChameleon:
    """One engine, because making it takes half a minute."""
    return vllm_of("emoji")


@pytest.fixture(scope="module")
def ours() -> Chameleon:
    return Chameleon.from_pretrained("emoji")


@pytest.fixture
def crowded(theirs: VLLMChameleon) -> Iterator[VLLMChameleon]:
    """The engine, asked for more requests at once than it runs, which it splits."""
    runner = theirs.runner
    own, runner.admission = runner.admission, Admission(dataclasses.replace(runner.engine.limits, max_requests=40))
    runner.splits = 0
    yield theirs
    runner.admission, runner.splits = own, 0


@pytest.mark.parametrize("case", CASES)
def test_rows_write_the_same_ids(case: str, theirs: VLLMChameleon, ours: Chameleon) -> None:
    assert written(theirs, CASES[case]) == written(ours, CASES[case])


def test_64_guided_pictures_are_all_guided_and_none_is_lost(theirs: VLLMChameleon, ours: Chameleon) -> None:
    prompts = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]
    case = (prompts, {"modality": "image", **SAMPLED, **GUIDED})
    found = written(theirs, case)
    assert found == written(ours, case)
    assert len(found) == 64
    assert theirs.runner.splits == 0


def test_groups_that_vllm_splits_are_retried(crowded: VLLMChameleon, ours: Chameleon) -> None:
    """Contexts of three requests each, of which the sixth group has one among the first 16."""
    prompts = [[PICTURE, f"a {colour} heart"] for colour in COLOURS]
    case = (prompts, {"modality": "image", **SAMPLED, **GUIDED})
    assert written(crowded, case) == written(ours, case)
    assert crowded.runner.splits > 0


def test_the_short_forms_and_the_events_are_those_of_the_pipeline(theirs: VLLMChameleon, ours: Chameleon) -> None:
    picture = theirs.draw("a red apple", seed=0)
    assert picture == ours.draw("a red apple", seed=0)
    assert theirs.caption(picture) == ours.caption(picture)
    assert theirs.vary(picture, "a green apple", seed=1) == ours.vary(picture, "a green apple", seed=1)
    assert theirs.draw("a star", num_images=2, seed=2) == ours.draw("a star", num_images=2, seed=2)
    assert theirs.generate_batch(QUESTIONS, **DRAWING) == ours.generate_batch(QUESTIONS, **DRAWING)
    events, expected = (list(each.stream("a red apple", preview_every=16, **DRAWING)) for each in (theirs, ours))
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert {type(event) for event in events} == {ImageStarted, ImageProgress, ImageFinished, Finished}
    assert events[-1] == expected[-1]
    said, told = (list(each.stream([PICTURE, "what is this?"], template="chat", **GREEDY)) for each in (theirs, ours))
    assert said == told
    assert any(isinstance(event, TextDelta) for event in said)


def test_it_says_where_its_transformer_is(theirs: VLLMChameleon) -> None:
    assert repr(theirs).splitlines()[:2] == ["VLLMChameleon(", "    model: 4.31 million parameters, in vLLM"]


def test_two_streams_are_open_at_the_same_time(theirs: VLLMChameleon) -> None:
    alone = [theirs.generate(prompt, **DRAWING) for prompt in ("a red apple", "a blue heart")]
    streams = [theirs.stream(prompt, **DRAWING) for prompt in ("a red apple", "a blue heart")]
    events = [[next(stream)] for stream in streams]
    for found, stream in zip(events, streams, strict=True):
        found += stream
    assert [found[-1].document for found in events] == alone  # type: ignore[union-attr]


def test_threads_share_the_engine(theirs: VLLMChameleon, ours: Chameleon) -> None:
    prompts = [f"a {colour} heart" for colour in COLOURS]
    found: dict[str, Any] = {}

    def draw(prompt: str) -> None:
        found[prompt] = theirs.generate(prompt, **DRAWING)

    threads = [threading.Thread(target=draw, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == dict(zip(prompts, ours.generate_batch(prompts, **DRAWING), strict=True))


def test_malformed_requests_leave_the_engine_alive_and_the_others_right(theirs: VLLMChameleon) -> None:
    engine = theirs.runner.engine.engine  # type: ignore[attr-defined]
    alone = theirs.generate("a red apple", **DRAWING)
    added, refused = [], []
    stream = theirs.stream("a red apple", **DRAWING)
    events = [next(stream)]
    for name, (parameter, ids) in malformed_of(theirs).items():
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=9,
            stop_token_ids=[*theirs.runner.signals],
            detokenize=False,
            extra_args={"chameleon": parameter},
        )
        try:
            engine.add_request(name, {"prompt_token_ids": ids or []}, params)
            added.append(name)
        except vllm.exceptions.VLLMValidationError:
            refused.append(name)
    events += stream
    assert events[-1].document == alone  # type: ignore[union-attr]
    assert len(added) + len(refused) >= 40
    assert len(added) > 15  # those that vLLM can't know are ended by the processor
    while engine.has_unfinished_requests():
        assert all(output.finished for output in engine.step())
    assert theirs.generate("a red apple", **DRAWING) == alone


@pytest.mark.parametrize(
    "others", [{"temperature": 1.0}, {"logit_bias": {5: 1.0}}, {"min_tokens": 2}, {"repetition_penalty": 1.1}], ids=str
)
def test_parameters_that_would_choose_too_are_refused(others: dict[str, Any], theirs: VLLMChameleon) -> None:
    part = '{"prompt_length": 3}'
    params = vllm.SamplingParams(**{"temperature": 0.0, "extra_args": {"chameleon": part}, **others})
    with pytest.raises(vllm.exceptions.VLLMValidationError, match=f"{next(iter(others))} would choose, too"):
        theirs.runner.engine.engine.add_request("refused", {"prompt_token_ids": [0, 5, 6]}, params)  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"decoding": "jacobi"}, {"cache_implementation": "int8"}, {"stop_ids": (1,)}])
def test_options_that_vllm_has_no_place_for_are_refused(options: dict[str, Any], theirs: VLLMChameleon) -> None:
    with pytest.raises(GenerationError):
        theirs.generate("a heart", **options)


def test_engine_arguments_are_those_of_vllm() -> None:
    assert {*ALLOWED, *REFUSED} <= vllm.EngineArgs.__dataclass_fields__.keys()
