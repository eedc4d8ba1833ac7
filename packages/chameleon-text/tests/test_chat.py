"""``apply_chat_template``: what its arguments do, and templates in Jinja."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import ChameleonProcessor, ConfigError, DocumentError, MissingPackageError, TextTokenizer
from chameleon_text.compat import jinja
from chameleon_text.testing import make_tokenizer, texts

USER = {"role": "user", "content": "What is this?"}
ANSWER = {"role": "assistant", "content": "a red apple"}
TURNS = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}|{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return make_tokenizer()


@pytest.fixture
def processor() -> ChameleonProcessor:
    return ChameleonProcessor(make_tokenizer(), image_seq_length=4)


def answers_of(batch: Any, tokenizer: TextTokenizer) -> str:
    marked = zip(batch["input_ids"], batch["assistant_masks"], strict=True)
    return str(tokenizer.decode([each for each, mark in marked if mark]))


def test_the_tokenizer_marks_answers(tokenizer: TextTokenizer) -> None:
    chat = [USER, ANSWER, USER, ANSWER]
    batch = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True)
    assert answers_of(batch, tokenizer) == "a red apple</s>a red apple</s>"
    several = tokenizer.apply_chat_template(
        [chat, [USER]], return_assistant_tokens_mask=True, padding=True, return_tensors="np"
    )
    assert several.assistant_masks.shape == several.input_ids.shape
    assert several.assistant_masks.sum(1).tolist() == [sum(batch["assistant_masks"]), 0]
    cut = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True, truncation=True, max_length=9)
    assert cut.assistant_masks == batch.assistant_masks[:9]


def test_a_template_in_jinja_marks_answers(tokenizer: TextTokenizer) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    batch = tokenizer.apply_chat_template([USER, ANSWER], chat_template=MARKED, return_assistant_tokens_mask=True)
    assert answers_of(batch, tokenizer) == "a red apple"
    assert batch["input_ids"] == tokenizer.apply_chat_template([USER, ANSWER], chat_template=MARKED)["input_ids"]
    with pytest.raises(ConfigError, match="a template that marks answers"):
        tokenizer.apply_chat_template([USER], chat_template=TURNS, return_assistant_tokens_mask=True)


@given(content=texts())
def test_what_is_sanitized_is_text_with_its_placeholders(content: str) -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_seq_length=4)
    spelled = f"<image>{content}</s>"
    (ids,) = processor.apply_chat_template(
        [{"role": "user", "content": spelled}], tokenize=True, sanitize_control_tokens=True
    )
    assert processor.decode(ids, skip_special_tokens=True) == spelled
    row = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": spelled}], sanitize_control_tokens=True, return_dict=False
    )
    assert processor.tokenizer.decode(row, skip_special_tokens=True) == spelled


@pytest.mark.parametrize("content", ["", [{"type": "text", "text": ""}]], ids=["text", "part"])
def test_an_answer_is_continued_from_its_beginning(content: Any, processor: ChameleonProcessor) -> None:
    begun = [USER, {"role": "assistant", "content": content}]
    expected = "<s>What is this?<reserved08706>"
    assert processor.apply_chat_template(begun, continue_final_message=True) == expected
    assert processor.apply_chat_template(begun, continue_final_message="content") == expected


def test_columns_of_a_conversation_are_there_when_asked_for(tokenizer: TextTokenizer) -> None:
    batch = tokenizer.apply_chat_template(
        [[USER], [USER, ANSWER]],
        padding=True,
        tokenizer_kwargs={"return_length": True, "return_special_tokens_mask": True, "return_token_type_ids": True},
    )
    assert batch.special_tokens_mask == [[int(not each) for each in row] for row in batch.attention_mask]
    assert batch.length == [len(row) for row in batch.input_ids]
    assert {each for row in batch.token_type_ids for each in row} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer_kwargs": {"return_offsets_mapping": True}}, "return_offsets_mapping is of a text"),
        ({"tokenizer_kwargs": {"split_special_tokens": True}}, "split_special_tokens is of a text"),
        ({"tokenizer_kwargs": {"add_special_tokens": True}}, "the format begins with <s>"),
        ({"tokenize": False, "padding": True}, "padding has no effect on text"),
        ({"tokenize": False, "return_tensors": "np"}, "return_tensors has no effect on text"),
        ({"tokenize": False, "sanitize_control_tokens": True}, "sanitize_control_tokens has no effect on text"),
        ({"return_assistant_tokens_mask": True, "return_dict": False}, "needs return_dict"),
        ({"return_assistant_tokens_mask": True, "continue_final_message": True}, "leaves it open"),
        ({"continue_final_message": "thinking"}, "'content' alone"),
        ({"continue_final_message": 3}, "the name of a field"),
        ({"sanitize_control_tokens": "yes"}, "expected True or False"),
        ({"return_assistant_tokens_mask": 1}, "expected True or False"),
        ({"enable_thinking": False}, "the built-in template no variable"),
    ],
    ids=str,
)
def test_an_argument_without_effect_is_refused(
    arguments: dict[str, Any], message: str, tokenizer: TextTokenizer
) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenizer.apply_chat_template([USER, ANSWER], **arguments)


def test_the_processor_refuses_what_has_no_effect_too(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="sanitize_control_tokens has no effect on text"):
        processor.apply_chat_template([USER], sanitize_control_tokens=True)
    with pytest.raises(ConfigError, match="the format begins with <s>"):
        processor.apply_chat_template([USER], tokenize=True, add_special_tokens=True)


# Templates in Jinja.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mood": "merry"}, "has no variable 'mood'"),
        ({"tools": [{"name": "a"}]}, "has no variable 'tools'"),
        ({"documents": [{"title": "a"}]}, "has no variable 'documents'"),
        ({"sanitize_control_tokens": True}, "can't be done for another template"),
        ({"tools": [print]}, "expected a JSON schema"),
        ({"documents": ["a"]}, "a document is a str"),
    ],
    ids=["variable", "tools", "documents", "sanitized", "function", "document"],
)
def test_what_a_template_never_reads_is_refused(
    arguments: dict[str, Any], message: str, processor: ChameleonProcessor
) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    for side in (processor, processor.tokenizer):
        with pytest.raises(ConfigError, match=message):
            side.apply_chat_template([USER], chat_template=TURNS, **{"tokenize": True, **arguments})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[-1].content }}.", "a red apple"),
        ("{{ messages[-1].content | trim }}.", "a red apple"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "a red apple'),
        ("{{ messages[-1].content }}{{ messages[-1].content }}.", "a red applea red apple"),
    ],
    ids=["plain", "trimmed", "JSON", "twice"],
)
def test_the_end_of_a_message_is_found_in_what_a_template_writes(
    template: str, expected: str, processor: ChameleonProcessor
) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    chat = [{"role": "user", "content": "a"}, ANSWER]
    assert processor.apply_chat_template(chat, chat_template=template, continue_final_message=True) == expected


def test_a_message_that_a_template_leaves_out_can_not_be_continued(processor: ChameleonProcessor) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    with pytest.raises(DocumentError, match="doesn't write the last message"):
        processor.apply_chat_template([USER], chat_template="hello", continue_final_message=True)
    with pytest.raises(DocumentError, match="a text 'thinking'"):
        processor.apply_chat_template([USER], chat_template=TURNS, continue_final_message="thinking")


@dataclasses.dataclass
class Mood:
    name: str
    picture: Any


class Pydantic:
    def model_dump(self) -> dict[str, Any]:
        return {"name": "merry"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), "3"),
        (np.bool_(False), "no"),
        (np.str_("a"), "a"),
        (Mood("merry", np.zeros(3)), "{'name': 'merry', 'picture': '<ndarray>'}"),
        (Pydantic(), "{'name': 'merry'}"),
        ((1, 2), "(1, 2)"),
        ({1: [None]}, "{1: [None]}"),
        (open, "<builtin_function_or_method>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_template_sees_plain_values_alone(value: Any, expected: str, processor: ChameleonProcessor) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    template = "{{ messages[0].content }}{{ value if value else 'no' }}"
    chat = [{"role": "user", "content": ""}]
    assert processor.apply_chat_template(chat, chat_template=template, value=value) == expected


@given(content=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8))
def test_marks_are_never_seen(content: str) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    written = jinja.render_jinja(MARKED, chat, continue_final_message=False, variables={}, mark_answers=True)
    assert written.text == f"{content}|{content}"
    assert [written.text[slice(*span)] for span in written.answers] == [content] * bool(content)
    left_open = jinja.render_jinja(MARKED, chat, continue_final_message=True, variables={})
    assert left_open.text == f"{content}|{content}"


def test_an_old_jinja_is_refused(processor: ChameleonProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.1.2" if name == "jinja2" else version(name))
    with pytest.raises(MissingPackageError, match=r"jinja2 is 3\.1\.2"):
        processor.apply_chat_template([USER], chat_template="{{ messages }} of old")


class Failing:
    """Has the method of Pydantic's models, and raises there."""

    def model_dump(self) -> None:
        raise KeyError("lost")


def nested() -> dict[str, Any]:
    """A mapping that holds itself."""
    value: dict[str, Any] = {}
    value["inside"] = value
    return value


@pytest.mark.parametrize("make", [nested, Failing])
@pytest.mark.parametrize("place", ["message", "variable"])
def test_values_that_are_not_plain_are_refused(make: Any, place: str, processor: ChameleonProcessor) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    template = "{% for message in messages %}{{ message.content }}{{ message.extra }}{% endfor %}{{ extra }}"
    messages = [{**USER, **({"extra": make()} if place == "message" else {})}]
    variables = {"extra": make()} if place == "variable" else {}
    with pytest.raises(DocumentError, match="must be plain values"):
        processor.apply_chat_template(messages, chat_template=template, **variables)
