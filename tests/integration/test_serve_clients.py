"""The server with OpenAI's own client, and with documents: answers are what the pipeline writes alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from chameleon_core import Chameleon, Finished, ImageFinished, TextDelta
from chameleon_text import Image, document_from_parts

from .served import SIDE, Served, events_of, picture, picture_of, serving, small_pipeline, url_of

SAMPLED = {"temperature": 0.9, "top_p": 0.95, "seed": 3}
QUESTION = [{"type": "image_url", "image_url": {"url": url_of(picture())}}, {"type": "text", "text": "What is this?"}]
CONVERSATION: list[Any] = [
    {"role": "system", "content": "Answer in a word."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "green"},
    {"role": "user", "content": "And this?"},
]


@pytest.fixture(scope="module")
def alone() -> Chameleon:
    return small_pipeline()


@pytest.fixture(scope="module")
def served(alone: Chameleon) -> Iterator[Served]:
    with serving(alone) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def text_alone(alone: Chameleon, prompt: Any, **options: Any) -> str:
    document = alone.generate(prompt, modality="text", template="chat", **options)
    return "".join(segment.text for segment in document)


def ids_alone(alone: Chameleon, prompt: Any, **options: Any) -> list[int]:
    (end,) = [event for event in alone.stream(prompt, **options) if isinstance(event, Finished)]
    return list(end.new_ids)


def test_the_model_is_listed_with_what_it_draws(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("small", "model", "chameleon")
    described: Any = client.models.retrieve("small").model_extra
    assert described["chameleon"]["sizes"] == [{"size": "8x8", "pixels": [8, 8], "grid": [4, 4], "tokens": 18}]
    assert described["chameleon"]["modalities"] == ["text", "image", "interleaved"]
    assert described["chameleon"]["options"]["temperature"] == 1.0
    with pytest.raises(openai.NotFoundError, match="only 'small'"):
        client.models.retrieve("large")


def test_a_chat_with_a_picture_is_answered_as_the_pipeline_does(client: openai.OpenAI, alone: Chameleon) -> None:
    answer = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=12, **SAMPLED
    )
    expected = text_alone(alone, [picture(), "What is this?"], max_new_tokens=12, do_sample=True, **SAMPLED)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == 18 + len(alone.prompt_ids("What is this?"))


def test_turns_are_encoded_as_the_chat_template_does(client: openai.OpenAI, alone: Chameleon) -> None:
    answer = client.chat.completions.create(model="small", messages=CONVERSATION, max_tokens=5, temperature=0)
    processor: Any = alone.processor
    ids = processor.encode_messages(CONVERSATION, template="chat")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    import torch

    written = alone.model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :]
    assert answer.choices[0].message.content == processor.batch_decode([written], skip_special_tokens=True)[0]


def test_answers_of_one_prompt_differ_by_their_rows(client: openai.OpenAI, alone: Chameleon) -> None:
    answer = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "Say"}], max_tokens=9, n=3, **SAMPLED
    )
    documents = alone.generate_batch(
        ["Say"] * 3, modality="text", template="chat", max_new_tokens=9, do_sample=True, **SAMPLED
    )
    expected = ["".join(segment.text for segment in document) for document in documents]
    assert [choice.message.content for choice in answer.choices] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("modalities", [["image"], ["text", "image"]])
def test_pictures_are_drawn_in_a_chat_and_may_be_sent_back(
    client: openai.OpenAI, alone: Chameleon, modalities: list[str]
) -> None:
    modality = "image" if modalities == ["image"] else "interleaved"
    options: dict[str, Any] = {"max_tokens": 120, **SAMPLED}
    question = {"role": "user", "content": "Draw a cat"}
    answer = client.chat.completions.create(
        model="small", messages=[question], extra_body={"modalities": modalities}, **options
    )
    expected = alone.generate(
        "Draw a cat", modality=modality, template="chat", max_new_tokens=120, do_sample=True, **SAMPLED
    )
    message: Any = answer.choices[0].message
    images = [segment for segment in expected if isinstance(segment, Image) and len(segment.codes or ()) == 16]
    assert images
    for found, drawn in zip(message.images, images, strict=True):
        assert np.array_equal(np.asarray(picture_of(found["image_url"]["url"])), np.asarray(drawn.image))
    parts = [part["type"] for part in message.content_parts]
    assert parts == ["image_url" if isinstance(segment, Image) else "text" for segment in expected][: len(parts)]
    again = client.chat.completions.create(
        model="small",
        messages=[question, message.model_dump(), {"role": "user", "content": "What is it?"}],
        max_tokens=4,
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens > 16 * len(images)


def test_a_stream_has_the_text_and_the_pictures_of_the_whole_answer(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": "small",
        "messages": [{"role": "user", "content": "Draw a cat"}],
        "max_tokens": 120,
        **SAMPLED,
    }
    extra = {"modalities": ["text", "image"]}
    whole: Any = client.chat.completions.create(extra_body=extra, **request)
    chunks: list[Any] = list(
        client.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, extra_body={**extra, "partial_images": 3}, **request
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    images = [image for delta in deltas for image in getattr(delta, "images", None) or ()]
    assert images == whole.choices[0].message.images
    partial = [image for delta in deltas for image in getattr(delta, "partial_images", None) or ()]
    assert {each["index"] for each in partial} >= {each["index"] for each in images}
    assert chunks[-1].usage == whole.usage
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI, alone: Chameleon) -> None:
    request: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Say"}], "max_tokens": 40}
    whole = client.chat.completions.create(**request, **SAMPLED).choices[0].message.content or ""
    stop = whole[len(whole) // 2 :][:3]
    answer = client.chat.completions.create(**request, **SAMPLED, stop=[stop, "never said"]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole.partition(stop)[0], "stop")
    chunks = client.chat.completions.create(**request, **SAMPLED, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.partition(stop)[0]


def test_a_bias_keeps_a_token_away(client: openai.OpenAI, alone: Chameleon) -> None:
    request: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Say"}], "temperature": 0}
    (first,) = ids_alone(alone, "Say", modality="text", template="chat", do_sample=False, max_new_tokens=1)
    answer = client.chat.completions.create(**request, max_tokens=1, logit_bias={str(first): -100})
    assert (
        answer.choices[0].message.content
        != client.chat.completions.create(**request, max_tokens=1).choices[0].message.content
    )


def test_pictures_of_a_prompt_are_those_of_the_pipeline(client: openai.OpenAI, alone: Chameleon) -> None:
    answer = client.images.generate(
        model="small",
        prompt="a cat",
        n=2,
        size="8x8",
        response_format="b64_json",
        extra_body={"seed": 5},  # type: ignore[call-overload]
    )
    drawn = alone.draw("a cat", num_images=2, seed=5)
    for found, expected in zip(answer.data, drawn, strict=True):
        assert np.array_equal(np.asarray(picture_of(found.b64_json)), np.asarray(expected))
        assert (len(found.codes), found.grid) == (16, [4, 4])
    assert answer.usage.output_tokens == 36


def test_a_picture_is_streamed_while_it_is_drawn(client: openai.OpenAI) -> None:
    stream: Any = client.images.generate(
        model="small", prompt="a cat", stream=True, partial_images=3, extra_body={"seed": 5}
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    assert {picture_of(event.b64_json).size for event in events} == {(SIDE, SIDE)}
    whole = client.images.generate(model="small", prompt="a cat", extra_body={"seed": 5})
    assert whole.data is not None
    assert events[-1].b64_json == whole.data[0].b64_json


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"n": 99}, openai.BadRequestError, "n"),
        ({"temperature": 3.0}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"flavour": 1}}, openai.BadRequestError, "flavour"),
        ({"extra_body": {"options": {"tempo": 1}}}, openai.BadRequestError, "options.tempo"),
    ],
)
def test_errors_are_those_that_the_client_knows(
    client: openai.OpenAI, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    request: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], **fields}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**request)
    body: Any = caught.value.body
    assert body["param"] == param
    assert body["message"].endswith(".")


def test_what_asks_for_nothing_is_no_error(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
        tools=[],
        logprobs=False,
        presence_penalty=0,
        response_format={"type": "text"},
        store=False,
        user="somebody",
    )
    assert answer.choices


DOCUMENTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "A story", "modality": "text", "options": {"max_new_tokens": 15, "do_sample": True, "seed": 2}},
    "guided picture": {
        "prompt": [{"type": "text", "text": "a cat"}],
        "modality": "image",
        "options": {"guidance_text": 2.0, "do_sample": True, "seed": 4},
        "negative_prompt": "a dog",
    },
    "interleaved": {
        "prompt": "A story",
        "template": "completion",
        "options": {"modality": "interleaved", "max_new_tokens": 100, "do_sample": True, "seed": 1},
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_what_the_pipeline_writes(name: str, served: Served, alone: Chameleon) -> None:
    body = DOCUMENTS[name]
    answer = served.post("/v1/documents", n=2, **body).json()
    options = dict(body["options"])
    if "negative_prompt" in body:
        options["negative_prompt_ids"] = alone.prompt_ids(body["negative_prompt"], template="chat")
    if "modality" in body:
        options["modality"] = body["modality"]
    prompt = body["prompt"] if isinstance(body["prompt"], str) else document_from_parts(body["prompt"])
    events = list(alone.stream_batch([prompt] * 2, template=body.get("template", "chat"), **options))
    ends = [event for event in events if isinstance(event, Finished)]
    for row in answer["rows"]:
        (end,) = [event for event in ends if event.row == row["row"]]
        assert (row["ids"], row["reason"]) == (list(end.new_ids), end.reason)
        parts = document_from_parts(row["document"])
        for part, segment in zip(parts, end.document, strict=True):
            if isinstance(segment, Image):
                assert isinstance(part, Image)
                assert part.codes == segment.codes
            else:
                assert part == segment
        layout = alone.layout
        for found in row["pictures"]:
            assert found["grid"] == [4, 4]
            assert found["ids"] == [int(layout.code_to_id_Z[code]) for code in found["codes"]]
            assert row["document"][found["part"]]["codes"] == found["codes"]
    assert answer["seed"] == options["seed"]
    assert answer["usage"]["completion_tokens"] == sum(len(row["ids"]) for row in answer["rows"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_stream_has_the_events_of_the_pipeline(name: str, served: Served, alone: Chameleon) -> None:
    body = {**DOCUMENTS[name], "stream": True, "preview_every": 5}
    with served.client() as client, client.stream("POST", "/v1/documents", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [(event, json.loads(data)) for event, data in events_of(response)]
    whole = served.post("/v1/documents", **DOCUMENTS[name]).json()
    names = [event for event, _ in events]
    assert (names[0], names[-1]) == ("Started", "Done")
    (end,) = [data for event, data in events if event == "Finished"]
    assert end == whole["rows"][0]
    text = "".join(data["text"] for event, data in events if event == "TextDelta")
    assert text == "".join(part["text"] for part in end["document"] if part["type"] == "text")
    finished = [data for event, data in events if event == "ImageFinished"]
    assert [data["codes"] for data in finished] == [each["codes"] for each in end["pictures"] if len(each["ids"]) == 16]
    for event, data in events:
        if event == "ImageProgress" and data["preview"] is not None:
            assert picture_of(data["preview"]).size == (SIDE, SIDE)
            assert len(data["codes"]) % 5 == 0
            assert len(data["codes"]) <= data["codes_done"]  # one that wasn't sent yet is beside newer numbers
    assert {event for event, _ in events} >= ({TextDelta.__name__} if name == "text" else {ImageFinished.__name__})


def test_an_answer_sent_back_goes_on_where_it_was_cut_off(served: Served, alone: Chameleon) -> None:
    def ask(most: int, **more: Any) -> Any:
        options = {"seed": 1, "do_sample": True, "max_new_tokens": most}
        answer = served.post("/v1/documents", prompt="a cat", modality="interleaved", options=options, **more)
        return answer.json()["rows"][0]

    whole, start = ask(90), ask(40)
    assert start["ids"] == whole["ids"][:40]
    assert ask(90, written=start["ids"])["ids"] == whole["ids"]
    # Text is tokenized again, maybe to other ids than the model wrote.
    written = document_from_parts(start["document"])
    options = {"seed": 1, "do_sample": True, "max_new_tokens": 90, "modality": "interleaved", "template": "chat"}
    assert ask(90, written=start["document"])["ids"] == ids_alone(alone, "a cat", written=written, **options)


def test_the_tokens_of_a_picture_and_what_is_drawn_of_them(served: Served, alone: Chameleon) -> None:
    found = served.post("/v1/pictures/tokens", picture=url_of(picture())).json()
    codes_BN = alone.image_tokenizer.encode([picture()])
    assert found["codes"] == codes_BN[0].tolist()
    assert (found["grid"], found["size"]) == ([4, 4], [8, 8])
    (drawn,) = alone.image_tokenizer.decode(codes_BN)
    assert np.array_equal(np.asarray(picture_of(found["url"])), np.asarray(drawn))
    part = {"type": "image", "codes": found["codes"]}
    assert served.post("/v1/pictures/tokens", picture=part).json() == found
    cut_off = served.post("/v1/pictures/tokens", picture={"type": "image", "codes": found["codes"][:9]}).json()
    assert (len(cut_off["codes"]), cut_off["num_codes"]) == (9, 16)
    preview = np.asarray(alone.image_tokenizer.preview(codes_BN[0, :9]))
    assert np.array_equal(np.asarray(picture_of(cut_off["url"])), preview)


@pytest.mark.parametrize(
    "edit", [{"cells": [0, 5, 15]}, {"strength": 0.25}, {"mask": url_of(picture().convert("L").point(lambda _: 255))}]
)
def test_an_edit_keeps_what_is_outside(edit: dict[str, Any], served: Served, alone: Chameleon) -> None:
    codes = alone.image_tokenizer.encode([picture()])[0].tolist()
    options = {"do_sample": True, "seed": 6}
    answer = served.post(
        "/v1/pictures/edits", picture=url_of(picture()), prompt="a cat", options=options, n=2, **edit
    ).json()
    for row in answer["rows"]:
        new = row["pictures"][0]["codes"]
        changed = [place for place in range(16) if new[place] != codes[place]]
        most = {"cells": 3, "strength": 4, "mask": 16}[next(iter(edit))]
        assert 0 < len(changed) <= most
        if "cells" in edit:
            assert set(changed) <= {0, 5, 15}
    if "strength" in edit:
        drawn = alone.vary(picture(), "a cat", strength=0.25, **options)
        assert np.array_equal(np.asarray(picture_of(answer["rows"][0]["document"][0]["url"])), np.asarray(drawn))
