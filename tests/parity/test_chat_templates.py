"""Conversations become the same prompts, ids and pixels as in transformers, from the same folders and templates."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from transformers import AutoTokenizer
from transformers import ChameleonProcessor as PeerProcessor
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_text import ChameleonProcessor, ChameleonTextError
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonImageProcessor

from .probes.outcomes import Numbers, equal, plain

PICTURES = [
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    for shape in ((40, 61, 3), (33, 20, 3), (24, 24, 3))
]


def in_base64(picture: PIL.Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def image(number: int) -> dict[str, Any]:
    return {"type": "image", "image": PICTURES[number]}


def turn(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


TEXTS: dict[str, Any] = {
    "question": [turn("user", "What is this?")],
    "answer": [turn("user", "What is this?"), turn("assistant", "a red apple")],
    "system": [turn("system", "the"), turn("user", "What is this?")],
    "turns": [turn("system", text("the"), text(" red")), turn("user", "a?"), turn("assistant", "12 "),
              turn("user", "é😀\n ")],
    "batch": [[turn("user", "the red apple, 12")], [turn("user", "a"), turn("assistant", text("b"))]],
    "spaces": [turn("user", "  hi  "), turn("assistant", " there  ")],
    "nulls": [{**turn("user", "hi"), "name": None}, {**turn("assistant", "yo"), "tool_calls": None}],
    "two questions": [turn("user", "a"), turn("user", "b")],
    "answer first": [turn("assistant", "a"), turn("user", "b")],
}  # fmt: skip
PICTURED: dict[str, Any] = {
    "picture": [turn("user", image(0), text("the apple?"))],
    "pictures": [turn("user", text("a"), image(0), text(" b "), image(1)), turn("assistant", text("red")),
                 turn("user", image(2), text("?"))],
    "batch of pictures": [[turn("user", image(0), text("the"))],
                          [turn("user", text("a"), image(1), image(2), text("?"))]],
    "data URL": [turn("user", {"type": "image", "url": f"data:image/png;base64,{in_base64(PICTURES[0])}"}, text("a"))],
    "image_url": [turn("user", {"type": "image_url",
                                "image_url": {"url": f"data:image/png;base64,{in_base64(PICTURES[0])}"}}, text("a"))],
    "base64": [turn("user", {"type": "image", "base64": in_base64(PICTURES[0])}, text("a"))],
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "system last": [turn("user", "a"), turn("system", "b")],
    "tool": [turn("tool", "b")],
    "video": [turn("user", {"type": "video", "video": "x"})],
    "no type": [turn("user", {"text": "a"})],
    "empty": [],
}
BATCH = {"tokenize": True, "return_dict": True}
OF_PROCESSOR: dict[str, dict[str, Any]] = {
    "text": {},
    "text that asks": {"add_generation_prompt": True},
    "text to continue": {"continue_final_message": True},
    "field to continue": {"continue_final_message": "content"},
    "ids that ask": {"tokenize": True, "add_generation_prompt": True, "padding": True},
    "tensors": {**BATCH, "return_tensors": "pt", "processor_kwargs": {"padding": True}},
    "arrays": {**BATCH, "return_tensors": "np", "padding": True},
    "filled": {**BATCH, "return_tensors": "pt", "processor_kwargs": {"padding": "max_length", "max_length": 50}},
    "completion": {**BATCH, "processor_kwargs": {"return_for_text_completion": True, "padding": True}},
    "masks": {**BATCH, "return_assistant_tokens_mask": True, "return_tensors": "pt",
              "processor_kwargs": {"padding": True}},
}  # fmt: skip
OF_TOKENIZER: dict[str, dict[str, Any]] = {
    "text": {"tokenize": False},
    "columns": {},
    "ids": {"return_dict": False},
    "to continue": {"continue_final_message": True},
    "tensors": {"return_tensors": "pt", "padding": True},
    "filled": {"padding": "max_length", "max_length": 30},
    "cut": {"truncation": True, "max_length": 6},
    "specials": {"tokenizer_kwargs": {"return_special_tokens_mask": True}, "padding": True},
    "masks": {"return_assistant_tokens_mask": True},
    "masks in tensors": {"return_assistant_tokens_mask": True, "return_tensors": "pt", "padding": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder that was saved here, and one that transformers saved."""
    small = ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    own, peers = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    ChameleonProcessor(make_tokenizer(), image_processor=small, image_seq_length=5).save_pretrained(own)
    peer_of(own).save_pretrained(peers)
    return {"ours": own, "theirs": peers}


def peer_of(folder: Path) -> Any:
    # Not through the class's own from_pretrained, whose image processor needs torchvision.
    config = json.loads((folder / "processor_config.json").read_text())
    pictures = ChameleonImageProcessorPil.from_pretrained(folder)
    peer = PeerProcessor(pictures, AutoTokenizer.from_pretrained(folder), image_seq_length=config["image_seq_length"])
    peer.chat_template = (folder / "chat_template.jinja").read_text()
    return peer


@pytest.fixture(scope="module", params=["ours", "theirs"])
def sides(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Any, Any]:
    folder = folders[request.param]
    return peer_of(folder), ChameleonProcessor.from_pretrained(folder)


def same(sides: tuple[Any, Any], conversation: Any, arguments: dict[str, Any]) -> None:
    # transformers changes the mappings that it is given.
    theirs, ours = (
        plain(side.apply_chat_template(copy.deepcopy(conversation), **copy.deepcopy(arguments))) for side in sides
    )
    assert equal(theirs, ours), f"{theirs}\n{ours}"


@pytest.mark.parametrize("arguments", OF_PROCESSOR.values(), ids=OF_PROCESSOR)
def test_conversations_are_the_prompts_of_the_peer(arguments: dict[str, Any], sides: tuple[Any, Any]) -> None:
    for conversation in (*TEXTS.values(), *PICTURED.values()):
        same(sides, conversation, arguments)


@pytest.mark.parametrize("arguments", OF_TOKENIZER.values(), ids=OF_TOKENIZER)
def test_conversations_are_the_rows_of_the_peers_tokenizer(arguments: dict[str, Any], sides: tuple[Any, Any]) -> None:
    for conversation in TEXTS.values():
        same((sides[0].tokenizer, sides[1].tokenizer), conversation, arguments)


@pytest.mark.parametrize("conversation", REFUSED.values(), ids=REFUSED)
def test_what_the_template_has_no_place_for_is_refused_by_both(conversation: Any, sides: tuple[Any, Any]) -> None:
    for side, arguments in ((side, arguments) for side in sides for arguments in ({}, {"tokenize": True})):
        with pytest.raises(Exception) as refusal:  # noqa: PT011  # transformers raises whatever happens
            side.apply_chat_template(copy.deepcopy(conversation), **arguments)
        assert side is sides[0] or isinstance(refusal.value, ChameleonTextError)


def test_what_is_continued_is_not_ended_by_a_separator(sides: tuple[Any, Any]) -> None:
    for conversation in TEXTS.values():
        theirs, ours = (
            side.apply_chat_template(
                copy.deepcopy(conversation), continue_final_message=True, tokenize=True, return_tensors=None
            )
            for side in sides
        )
        assert [[*row, sides[1].tokenizer.sep_token_id] for row in ours] == theirs


# Templates in Jinja.

TURNS = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: "
TEMPLATES = {
    "plain": TURNS + "{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}",
    "trimmed": TURNS + "{{ m['content'] | trim }}\n{% endfor %}",
    "generation": TURNS + "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m['content'] }}{{ sep_token }}{% endif %}{% endfor %}",
    "tight generation": TURNS + "{%- if m['role'] == 'assistant' -%}\n{%- generation -%} {{ m['content'] }} "
    "{%- endgeneration -%}{% else %}{{ m['content'] | trim }}{% endif %}{% endfor %}",
    "captured": "{% set t %}{% generation %}{{ messages[-1].content }}{% endgeneration %}{% endset %}{{ t | trim }}!",
    "scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ messages[0].content }}{% endgeneration %}{{ x }}",
    "break": TURNS + "{{ m['content'] }}{% if loop.index == 1 %}{% break %}{% endif %}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}|{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'é<' | tojson }}",
    "tojson options": "{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
    "strftime_now": "{{ strftime_now('%Y')[:2] }}{{ messages[0].content }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macro": "{% macro w(c) %}<{{ c }}>{% endmacro %}{% for m in messages %}{{ w(m.content) }}{% endfor %}",
    "specials": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ sep_token }}{{ unk_token }}{{ cls_token }}|",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.content }}{% endfor %}",
    "blocks": "  {% for m in messages %}\n    {{ m.content }}\n  {% endfor %}\n",
    "undefined": "{{ nothing }}{{ messages[0].content }}",
}
BROKEN = {
    "raise_exception": "{{ raise_exception('no') }}",
    "unclosed": "{% for m in messages %}",
    "unclosed generation": "{% generation %}a",
    "filter": "{{ messages | nosuch }}",
    "tag": "{% do messages %}",
    "syntax": "{{ messages[ }}",
    "attribute of nothing": "{{ nothing.at.all }}",
    "sandbox": "{{ ''.__class__.__mro__ }}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include 'x' %}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "option": "{{ messages | tojson(banana=1) }}",
}
THOUGHT = [turn("user", "a"), {**turn("assistant", "b"), "reasoning": "c "}]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_in_jinja_write_what_they_write_there(template: str, sides: tuple[Any, Any]) -> None:
    peer, ours = sides
    tokenizers = peer.tokenizer, ours.tokenizer
    for conversation in (TEXTS["answer"], TEXTS["turns"], TEXTS["spaces"], TEXTS["batch"], THOUGHT):
        for arguments in ({}, {"add_generation_prompt": True}, {**BATCH, "padding": True, "return_tensors": "np"}):
            same(sides, conversation, {"chat_template": template, **arguments})
        same(tokenizers, conversation, {"chat_template": template})
        if template in (TEMPLATES["generation"], TEMPLATES["tight generation"]):
            same(tokenizers, conversation, {"chat_template": template, "return_assistant_tokens_mask": True})


@pytest.mark.parametrize("name", ["plain", "trimmed", "generation", "macro", "blocks"])
def test_templates_in_jinja_leave_a_message_open_as_there(name: str, sides: tuple[Any, Any]) -> None:
    for conversation in (TEXTS["answer"], TEXTS["turns"], TEXTS["spaces"], TEXTS["batch"]):
        same(sides, conversation, {"chat_template": TEMPLATES[name], "continue_final_message": True})
    template = "{% for m in messages %}{{ m.content }}{{ m.reasoning_content }}{% endfor %}."
    for field in ("reasoning_content", "reasoning"):
        same(sides, THOUGHT, {"chat_template": template, "continue_final_message": field})


@pytest.mark.parametrize("template", BROKEN.values(), ids=BROKEN)
def test_a_broken_template_is_an_error_of_this_package(template: str, sides: tuple[Any, Any]) -> None:
    peer, ours = sides
    for side in (peer, peer.tokenizer):
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever Jinja raises
            side.apply_chat_template(TEXTS["answer"], chat_template=template)
    for side in (ours, ours.tokenizer):
        with pytest.raises(ChameleonTextError, match="the chat template"):
            side.apply_chat_template(TEXTS["answer"], chat_template=template)


def test_several_templates_are_chosen_by_name_as_there(sides: tuple[Any, Any]) -> None:
    peer, ours = copy.deepcopy(sides)
    for side in (peer, ours, peer.tokenizer, ours.tokenizer):
        side.chat_template = {"default": "d{{ messages[0].content }}", "tool_use": "t{{ tools[0].name }}", "other": "o"}
    tools = [{"name": "a"}]
    for arguments in ({}, {"chat_template": "other"}, {"chat_template": "x{{ messages | length }}"}):
        same((peer, ours), TEXTS["answer"], arguments)
        same((peer.tokenizer, ours.tokenizer), TEXTS["answer"], arguments)
    same((peer.tokenizer, ours.tokenizer), TEXTS["answer"], {"tools": tools})
    assert ours.tokenizer.get_chat_template(tools=tools) == peer.tokenizer.get_chat_template(tools=tools)


def test_variables_of_a_template_are_handed_on_as_there(sides: tuple[Any, Any]) -> None:
    template = "{{ mood }}{{ documents[0].title }}{{ tools | length }}{{ count + 1 }}{{ eos_token }}"
    arguments = {
        "chat_template": template,
        "documents": [{"title": "t", "text": "x"}],
        "tools": [{"name": "a"}],
        "mood": "merry",
        "count": np.int64(3),
        "eos_token": "END",
    }
    same(sides, TEXTS["question"], arguments)
    same((sides[0].tokenizer, sides[1].tokenizer), TEXTS["question"], {**arguments, "tokenize": False})


def test_pictures_of_a_template_in_jinja_are_read_as_there(sides: tuple[Any, Any]) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}"
        "{{ part.text }}{% endif %}{% endfor %};{% endfor %}"
    )
    for conversation in (PICTURED[name] for name in ("picture", "pictures", "batch of pictures")):
        same(sides, conversation, {"chat_template": template, **BATCH, "padding": True, "return_tensors": "pt"})
    batch = plain(sides[1].apply_chat_template(PICTURED["pictures"], chat_template=template, **BATCH))
    assert isinstance(batch["pixel_values"], Numbers)
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
