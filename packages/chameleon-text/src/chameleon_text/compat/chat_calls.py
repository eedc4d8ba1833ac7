"""``apply_chat_template`` of the tokenizer and of the processor, under the arguments of ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ConfigError
from ..segments import Special, Text
from ..templates import Piece
from ..vocabulary import SEPARATOR
from .chat import (
    CHAT_TEMPLATE,
    Conversation,
    conversations_of,
    pictures_of,
    render_conversation,
    spelled,
)
from .jinja import render_jinja


class ChatArguments(msgspec.Struct, frozen=True, kw_only=True):
    """How conversations become prompts."""

    chat_template: str | None = None
    """A template in Jinja, or the name of one of the tokenizer's; None, the default, is the tokenizer's."""
    tools: Any = None
    """For templates in Jinja; the built-in format has no place for tools."""
    documents: Any = None
    """For templates in Jinja; the built-in format has no place for documents."""
    add_generation_prompt: bool = False
    """Whether a model answers next; by default not."""
    continue_final_message: bool = False
    """Whether a model continues the last message; by default not."""
    allow_files: bool = False
    """Whether messages may name files by a str; by default not, since whoever wrote them would open files here."""
    variables: dict[str, Any] = {}
    """Other variables of a template in Jinja."""

    def __post_init__(self) -> None:
        for name in ("add_generation_prompt", "continue_final_message", "allow_files"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r:.80}, expected True or False.")
        if self.add_generation_prompt and self.continue_final_message:
            raise ConfigError(
                "add_generation_prompt asks for a new message and continue_final_message for the rest of the last one. "
                "Pass one of them."
            )


def template_of(given: Any, own: Any) -> str | None:
    """Return the template in Jinja to use, None for the built-in one. Raises ``ConfigError`` for an unknown name."""
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"chat_template is a {type(given).__name__}, expected the text of a template in Jinja.")
    if isinstance(own, Mapping):
        name = "default" if given is None else given
        if name in own:
            own, given = own[name], None
        elif given is None:
            raise ConfigError(f"there are several chat templates: pass chat_template, one of {', '.join(own)}.")
    template = own if given is None else given
    return None if template is None or template == CHAT_TEMPLATE else str(template)


def check_sanitized(asked: Any, template: str | None) -> None:
    """Raise ``ConfigError`` where text of messages can't be kept text, which the built-in format always does."""
    if asked not in (True, False):
        raise ConfigError(f"sanitize_control_tokens is {asked!r:.80}, expected True or False.")
    if asked and template is not None:
        raise ConfigError(
            "sanitize_control_tokens=True can't be done for another template than the built-in one, whose messages are "
            "always text. Leave chat_template out."
        )


def rendered(
    conversation: Any, arguments: ChatArguments, *, tokenizer: Any, image_token: str
) -> tuple[list[Conversation | str], list[list[Any]], bool]:
    """Return conversations as prompts, the pictures of each, and whether several were given.

    A prompt of the built-in format is a ``Conversation``, one of another template a str. Raises ``DocumentError``,
    ``ConfigError``, and ``MissingPackageError`` where Jinja is needed and missing.
    """
    chats, several = conversations_of(conversation)
    template = template_of(arguments.chat_template, tokenizer.chat_template)
    if template is None:
        for name in ("tools", "documents"):
            if getattr(arguments, name):
                raise ConfigError(f"{name} have no place in this model's format. Write them into a message.")
        if arguments.variables:
            name = next(iter(arguments.variables))
            raise ConfigError(f"apply_chat_template has no argument {name!r}, and the built-in template no variable.")
        prompts = [
            render_conversation(
                chat,
                image_token=image_token,
                continued=arguments.continue_final_message,
                allow_files=arguments.allow_files,
            )
            for chat in chats
        ]
        return list(prompts), [prompt.pictures for prompt in prompts], several
    variables = {
        **tokenizer.special_tokens_map,
        "tools": arguments.tools,
        "documents": arguments.documents,
        "add_generation_prompt": arguments.add_generation_prompt,
        **arguments.variables,
    }
    texts: list[Conversation | str] = [
        render_jinja(template, chat, continue_final_message=arguments.continue_final_message, variables=variables)
        for chat in chats
    ]
    return texts, [pictures_of(chat, allow_files=arguments.allow_files) for chat in chats], several


def tokenizer_chat(
    tokenizer: Any,
    conversation: Any,
    arguments: ChatArguments,
    *,
    tokenize: bool,
    return_dict: bool,
    call: Mapping[str, Any],
) -> Any:
    """Return what the tokenizer's ``apply_chat_template`` does: text, ids, or columns."""
    prompts, pictures, several = rendered(
        conversation, arguments, tokenizer=tokenizer, image_token=tokenizer.image_token
    )
    if tokenize and any(each is not None for of_one in pictures for each in of_one):
        raise ConfigError("the tokenizer reads no pictures. Use apply_chat_template of the processor.")
    # Here nothing else would write the separator that asks for an answer.
    pieces = [
        _asking(each.pieces) if arguments.add_generation_prompt and isinstance(each, Conversation) else each
        for each in prompts
    ]
    if not tokenize:
        texts = [_as_text(each, tokenizer) for each in pieces]
        return texts if several else texts[0]
    if all(isinstance(each, str) for each in pieces):
        batch = tokenizer(pieces if several else pieces[0], add_special_tokens=False, **call)
    else:
        rows = [_ids(each, tokenizer) for each in pieces]
        batch = tokenizer.batch_of_ids(rows if several else rows[0], **call)
    return batch if return_dict else batch["input_ids"]


def _asking(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Return a prompt with the separator that asks for an answer."""
    last = pieces[-1].segment if pieces else None
    return pieces if isinstance(last, Special) else [*pieces, Piece(Special(SEPARATOR))]


def _as_text(prompt: Any, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    pieces = prompt.pieces if isinstance(prompt, Conversation) else prompt
    return f"{tokenizer.bos_token}{spelled(pieces, image_token=tokenizer.image_token)}"


def _ids(prompt: Any, tokenizer: Any) -> list[int]:
    """Return the ids of a prompt, in which only the format's own special tokens are special."""
    ids: list[int] = [tokenizer.bos_token_id]
    text = ""
    for piece in prompt.pieces if isinstance(prompt, Conversation) else prompt:
        if isinstance(piece.segment, Text):
            text += piece.segment.text
            continue
        ids += tokenizer.encode(text) if text else []
        text = ""
        name = piece.segment.name if isinstance(piece.segment, Special) else tokenizer.image_token
        ids.append(tokenizer.token_ids[name])
    return ids + (tokenizer.encode(text) if text else [])
