"""``apply_chat_template`` of the tokenizer and of the processor, under the arguments of ``transformers``."""

from __future__ import annotations

import itertools
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
from .jinja import JinjaPrompt, check_variables, marks_answers, render_jinja


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
    continue_final_message: bool | str = False
    """Whether a model continues the last message, or the field of it that it continues; by default not."""
    return_assistant_tokens_mask: bool = False
    """Whether what an assistant says is marked; by default not."""
    sanitize_control_tokens: bool = False
    """Whether what messages spell is text, ``<image>`` too; by default that stands for a picture.

    Other special tokens are text in any case.
    """
    allow_files: bool = False
    """Whether messages may name files by a str; by default not, since whoever wrote them would open files here."""
    variables: dict[str, Any] = {}
    """Other variables of a template in Jinja."""

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r:.80}, expected True or False.")
        if not isinstance(self.continue_final_message, (bool, str)):
            raise ConfigError(
                f"continue_final_message is {self.continue_final_message!r:.80}, expected True, False or the name of "
                "a field of the message."
            )
        if self.add_generation_prompt and self.continue_final_message:
            raise ConfigError(
                "add_generation_prompt asks for a new message and continue_final_message for the rest of the last one. "
                "Pass one of them."
            )
        if self.continue_final_message and self.return_assistant_tokens_mask:
            raise ConfigError(
                "return_assistant_tokens_mask marks what is complete, and continue_final_message leaves it open. Pass "
                "one of them."
            )


_FLAGS = tuple(name for name, kind in ChatArguments.__annotations__.items() if kind == "bool")


def template_of(given: Any, own: Any, tools: Any = None) -> str | None:
    """Return the template in Jinja to use, None for the built-in one. Raises ``ConfigError`` for an unknown name.

    Of several, ``tools`` are written by the one called "tool_use".
    """
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"chat_template is a {type(given).__name__}, expected the text of a template in Jinja.")
    if isinstance(own, Mapping):
        name = given or ("tool_use" if tools is not None and "tool_use" in own else "default")
        if name in own:
            own, given = own[name], None
        elif given is None:
            raise ConfigError(f"there are several chat templates: pass chat_template, one of {', '.join(own)}.")
    template = own if given is None else given
    return None if template is None or template == CHAT_TEMPLATE else str(template)


def rendered(
    conversation: Any, arguments: ChatArguments, *, tokenizer: Any, image_token: str
) -> tuple[list[Conversation | JinjaPrompt], list[list[Any]], bool]:
    """Return conversations as prompts, the pictures of each, and whether several were given.

    A prompt of the built-in format is a ``Conversation``, one of another template a ``JinjaPrompt``. Raises
    ``DocumentError``, ``ConfigError``, and ``MissingPackageError`` where Jinja is needed and missing.
    """
    chats, several = conversations_of(conversation)
    template = template_of(arguments.chat_template, tokenizer.chat_template, arguments.tools)
    if template is None:
        check_built_in(arguments)
        prompts = [
            render_conversation(
                chat,
                image_token=None if arguments.sanitize_control_tokens else image_token,
                continued=bool(arguments.continue_final_message),
                allow_files=arguments.allow_files,
            )
            for chat in chats
        ]
        return list(prompts), [prompt.pictures for prompt in prompts], several
    check_jinja(arguments, template)
    variables = {
        **tokenizer.special_tokens_map,
        "tools": arguments.tools,
        "documents": arguments.documents,
        "add_generation_prompt": arguments.add_generation_prompt,
        **arguments.variables,
    }
    texts: list[Conversation | JinjaPrompt] = [
        render_jinja(
            template,
            chat,
            continue_final_message=arguments.continue_final_message,
            variables=variables,
            mark_answers=arguments.return_assistant_tokens_mask,
        )
        for chat in chats
    ]
    return texts, [pictures_of(chat, allow_files=arguments.allow_files) for chat in chats], several


def check_built_in(arguments: ChatArguments) -> None:
    """Raise ``ConfigError`` for arguments that have no effect on the built-in format."""
    for name in ("tools", "documents"):
        if getattr(arguments, name):
            raise ConfigError(f"{name} have no place in this model's format. Write them into a message.")
    if arguments.variables:
        name = next(iter(arguments.variables))
        raise ConfigError(f"apply_chat_template has no argument {name!r}, and the built-in template no variable.")
    if arguments.continue_final_message not in (True, False, "content"):
        raise ConfigError(
            f"continue_final_message is {arguments.continue_final_message!r:.80}; a message of this format has "
            "'content' alone. Pass True."
        )


def check_jinja(arguments: ChatArguments, template: str) -> None:
    """Raise ``ConfigError`` for arguments that have no effect on a template in Jinja, or can't be done for one."""
    if arguments.sanitize_control_tokens:
        raise ConfigError(
            "sanitize_control_tokens=True can't be done for another template than the built-in one, whose messages are "
            "always text. Leave chat_template out."
        )
    for tool in arguments.tools or ():
        if not isinstance(tool, Mapping):
            raise ConfigError(
                f"a tool is a {type(tool).__name__}, expected a JSON schema as a mapping, such as "
                "transformers.utils.get_json_schema makes of a function."
            )
    for document in arguments.documents or ():
        if not isinstance(document, Mapping):
            raise ConfigError(f"a document is a {type(document).__name__}, expected {{'title': ..., 'text': ...}}.")
    given = [name for name in ("tools", "documents") if getattr(arguments, name)]
    check_variables(template, (*given, *arguments.variables))
    if arguments.return_assistant_tokens_mask and not marks_answers(template):
        raise ConfigError(
            "return_assistant_tokens_mask needs a template that marks answers by {% generation %} and "
            "{% endgeneration %}, and this one doesn't."
        )


def check_text(arguments: ChatArguments, call: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for arguments that have no effect where a text is returned."""
    given = [name for name, value in call.items() if value is not None and value is not False]
    given += [name for name in ("return_assistant_tokens_mask", "sanitize_control_tokens") if getattr(arguments, name)]
    if given:
        raise ConfigError(f"{given[0]} has no effect on text. Pass tokenize=True, or leave it out.")


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
    masks = arguments.return_assistant_tokens_mask
    if tokenize and masks and not return_dict:
        raise ConfigError("return_assistant_tokens_mask=True needs return_dict=True, since it is a column.")
    # Here nothing else would write the separator that asks for an answer.
    pieces: list[Sequence[Piece] | JinjaPrompt] = [
        each
        if isinstance(each, JinjaPrompt)
        else _asking(each.pieces)
        if arguments.add_generation_prompt
        else each.pieces
        for each in prompts
    ]
    if not tokenize:
        check_text(arguments, call)
        texts = [
            each.text
            if isinstance(each, JinjaPrompt)
            else f"{tokenizer.bos_token}{spelled(each, image_token=tokenizer.image_token)}"
            for each in pieces
        ]
        return texts if several else texts[0]
    texts = [each.text for each in pieces if isinstance(each, JinjaPrompt)]
    if texts:
        batch = tokenizer(texts if several else texts[0], add_special_tokens=False, **call)
        if masks:
            spans = [each.answers for each in pieces if isinstance(each, JinjaPrompt)]
            batch.mark_characters("assistant_masks", spans, like="input_ids")
    else:
        rows, answers = zip(
            *(_ids(each, tokenizer) for each in pieces if not isinstance(each, JinjaPrompt)), strict=True
        )
        columns = {"input_ids": list(rows), **({"assistant_masks": list(answers)} if masks else {})}
        batch = tokenizer.batch_of_ids(columns, several=several, **call)
    return batch if return_dict else batch["input_ids"]


def _asking(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Return a prompt with the separator that asks for an answer."""
    last = pieces[-1].segment if pieces else None
    return pieces if isinstance(last, Special) else [*pieces, Piece(Special(SEPARATOR))]


def _ids(pieces: Sequence[Piece], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt, in which only the format's own special tokens are special, and which are answers."""
    ids: list[int] = [tokenizer.bos_token_id]
    answers = [0]
    # Neighbouring texts are one text for the BPE, and belong to one turn.
    for is_text, together in itertools.groupby(pieces, lambda piece: isinstance(piece.segment, Text)):
        run = list(together)
        if is_text:
            new = tokenizer.encode(spelled(run, image_token=""))
            answers += [int(run[0].answer)] * len(new)
        else:
            names = [
                piece.segment.name if isinstance(piece.segment, Special) else tokenizer.image_token for piece in run
            ]
            new = [tokenizer.token_ids[name] for name in names]
            answers += [int(piece.answer) for piece in run]
        ids += new
    return ids, answers
