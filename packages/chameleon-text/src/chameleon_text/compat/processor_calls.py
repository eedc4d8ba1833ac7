"""The names and methods that processors of ``transformers`` have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .._commits import stored
from .._files import read_json
from .._hub import HubOptions, find_folder
from ..errors import ConfigError
from .chat import filled, spelled
from .chat_calls import ChatArguments, check_text, rendered
from .image_arguments import IMAGE_ARGUMENTS, as_pictures
from .jinja import JinjaPrompt
from .missing_names import OF_PROCESSORS
from .text_arguments import TextArguments
from .tokenizer_calls import TokenizerCalls

CALL_ARGUMENTS = frozenset((
    *IMAGE_ARGUMENTS, *TextArguments.__struct_fields__, "images", "text_kwargs", "images_kwargs", "common_kwargs",
    "return_for_text_completion", "return_mm_token_type_ids",
))  # fmt: skip
"""Arguments of a processor's call, which ``apply_chat_template`` hands on."""


class ProcessorCalls:
    """The part of ``ChameleonProcessor`` that users of ``transformers`` know."""

    attributes = ("image_processor", "tokenizer")
    unused_input_names: ClassVar[tuple[str, ...]] = ()
    """What a call returns and a model doesn't take: nothing."""
    _instead: ClassVar[Mapping[str, str]] = OF_PROCESSORS

    tokenizer: Any
    vocabulary: Any
    image_seq_length: int
    image_token: str

    @property
    def image_token_id(self) -> int:
        """The id of the placeholder, of which a picture has ``image_seq_length``."""
        return int(self.vocabulary.image_placeholder_id)

    @property
    def image_start_token(self) -> str:
        """The name of the id before a picture."""
        return str(self.tokenizer.names[self.vocabulary.begin_image_id])

    @property
    def image_start_token_id(self) -> int:
        """The id before a picture."""
        return int(self.vocabulary.begin_image_id)

    @property
    def image_end_token(self) -> str:
        """The name of the id after a picture."""
        return str(self.tokenizer.names[self.vocabulary.end_image_id])

    @property
    def image_end_token_id(self) -> int:
        """The id after a picture."""
        return int(self.vocabulary.end_image_id)

    @property
    def image_token_ids(self) -> list[int]:
        """The ids of a picture in a prompt with placeholders: the placeholder, and what is before and after it."""
        return [self.image_token_id, self.image_start_token_id, self.image_end_token_id]

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call returns."""
        return ["pixel_values", *self.tokenizer.model_input_names]

    @property
    def chat_template(self) -> Any:
        """The template in Jinja of conversations, the tokenizer's, which may be assigned."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the parts of a processor."""
        return list(cls.attributes)

    def decode(
        self,
        ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **arguments: Any,
    ) -> Any:
        """Return the text of a row of ids, with special tokens and picture codes by their names, or left out.

        Of several rows it returns a list of texts. ``clean_up_tokenization_spaces`` is accepted for callers of
        ``transformers`` and can't be True, because text comes back as it was.
        """
        return self.tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **arguments)

    def batch_decode(
        self,
        ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **arguments: Any,
    ) -> list[str]:
        """Return the text of each row of ids, as ``decode`` gives it."""
        texts: list[str] = self.tokenizer.batch_decode(
            ids, skip_special_tokens, clean_up_tokenization_spaces, **arguments
        )
        return texts

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **arguments: Any
    ) -> list[str]:
        """Return the texts of what a model wrote, one for each row, without special tokens and picture codes."""
        return self.batch_decode(generated_outputs, skip_special_tokens, **arguments)

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **arguments: Any,
    ) -> list[str]:
        """Return the texts of what a model wrote. ``decode_document`` and ``draw`` return its pictures.

        Raises ``ConfigError`` for another ``generation_mode`` than "text".
        """
        if generation_mode not in (None, "text"):
            raise ConfigError(
                f"generation_mode is {generation_mode!r:.80}, and only 'text' is written here. For pictures: "
                "processor.draw(processor.decode_document(ids))."
            )
        return self.post_process_image_text_to_text(generated_outputs, skip_special_tokens, **arguments)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "auto",
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        allow_files: bool = False,
        **more: Any,
    ) -> Any:
        """Return the prompt of a conversation, or of several, as in ``transformers``: text, ids, or a batch.

        ``tokenize=True`` returns ``input_ids``, with ``return_dict=True`` a batch with the ``pixel_values`` of the
        messages' pictures. ``processor_kwargs`` (and ``more``) are arguments of the processor's call; ``images`` among
        them are the pictures of parts that have none. As after every prompt, the separator follows unless
        ``return_for_text_completion`` is set or the last message is continued. ``allow_files`` lets messages name
        files. Raises ``DocumentError``, ``ConfigError`` and ``ImageCountError``.
        """
        call = {**(processor_kwargs or {}), **{name: more.pop(name) for name in [*more] if name in CALL_ARGUMENTS}}
        if more.pop("load_audio_from_video", False):
            raise ConfigError("load_audio_from_video can't be used: this model reads text and pictures.")
        if return_tensors != "auto":
            call["return_tensors"] = return_tensors
        given = as_pictures(call.pop("images", None))
        arguments = ChatArguments(
            chat_template=chat_template,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            sanitize_control_tokens=sanitize_control_tokens,
            allow_files=allow_files,
            variables=more,
        )
        prompts, pictures, several = rendered(
            conversation, arguments, tokenizer=self.tokenizer, image_token=self.image_token
        )
        if not tokenize:
            check_text(arguments, {**call, "images": given or None})
            texts = [self._prompt_text(each) for each in prompts]
            return texts if several else texts[0]
        if return_assistant_tokens_mask and not return_dict:
            raise ConfigError("return_assistant_tokens_mask=True needs return_dict=True, since it is a column.")
        pictures = filled(pictures, given)
        texts = [each.text for each in prompts if isinstance(each, JinjaPrompt)]
        if texts:
            if return_assistant_tokens_mask:
                raise ConfigError(
                    "return_assistant_tokens_mask of another template than the built-in one is done by "
                    "apply_chat_template of the tokenizer, without pictures."
                )
            if continue_final_message:
                call.setdefault("return_for_text_completion", True)  # or the separator would end what is continued
            call.setdefault("add_special_tokens", not texts[0].startswith(self.tokenizer.bos_token))
            images = pictures if any(pictures) else None
            batch = self(text=texts, images=images, allow_special="all", **call)
        else:
            if call.pop("add_special_tokens", None):
                raise ConfigError("add_special_tokens=True has no effect: the format begins with <s>. Leave it out.")
            batch = self._batch_of_conversations(
                prompts,
                pictures,
                call,
                continued=bool(continue_final_message),
                assistant_masks=return_assistant_tokens_mask,
            )
        return batch if return_dict else batch["input_ids"]

    def _prompt_text(self, prompt: Any) -> str:
        if isinstance(prompt, JinjaPrompt):
            return prompt.text
        return f"{self.tokenizer.bos_token}{spelled(prompt.pieces, image_token=self.image_token)}"

    if TYPE_CHECKING:

        def _batch_of_conversations(
            self, prompts: Any, pictures: Any, call: Mapping[str, Any], *, continued: bool, assistant_masks: bool
        ) -> Any:
            """Return conversations with their pictures as a batch."""

        def __call__(self, *inputs: Any, **arguments: Any) -> Any:
            """Return a batch of prompts: see ``ChameleonProcessor``."""

    def create_mm_token_type_ids(self, input_ids: Iterable[Sequence[int]]) -> list[list[int]]:
        """Return for each id of each row whether it belongs to a picture (1) or to text (0)."""
        of_pictures = {*self.image_token_ids, *self.vocabulary.code_to_id.tolist()}
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in input_ids]
        return [[int(each in of_pictures) for each in row] for row in rows]

    @classmethod
    def get_processor_dict(
        cls, folder: str | os.PathLike[str], **arguments: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what a folder's ``processor_config.json`` says, and the arguments that don't say where it is.

        Raises what ``from_pretrained`` does for a folder that isn't found.
        """
        path = find_folder(folder, HubOptions.taken_from(arguments), what="the processor")
        return read_json(stored(path, "processor_config.json")), arguments

    @classmethod
    def from_args_and_dict(cls, args: Sequence[Any], processor_dict: Mapping[str, Any], **fields: Any) -> Self:
        """Return a processor of parts, in their order, and of what ``get_processor_dict`` returned.

        ``fields`` are arguments of the class, which win. Raises ``ConfigError``.
        """
        known = {name: processor_dict[name] for name in ("image_seq_length", "image_token") if name in processor_dict}
        return cls(*args, **{**known, **fields})

    def to_dict(self) -> dict[str, Any]:
        """Return what ``processor_config.json`` says of a processor."""
        data: dict[str, Any] = {
            "processor_class": "ChameleonProcessor",
            "image_seq_length": self.image_seq_length,
            "image_token": self.tokenizer.names[self.image_token_id],
        }
        to_dict = getattr(getattr(self, "image_processor", None), "to_dict", None)
        return data if to_dict is None else {**data, "image_processor": to_dict()}

    def to_json_string(self) -> str:
        """Return ``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write ``to_dict`` as a JSON file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")


def in_places(parts: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return the four parts of a processor, some given by position, in the order of ``transformers``.

    A tokenizer may come first. Raises ``ConfigError`` for too many parts, or one that is given twice.
    """
    order = ["image_processor", "tokenizer", "image_seq_length", "image_token"]
    if parts and (isinstance(parts[0], TokenizerCalls) or tokenizer_json(parts[0]) is not None):
        order = ["tokenizer", "image_processor", *order[2:]]
    if len(parts) > len(order):
        raise ConfigError(f"a processor has {len(order)} parts by position, got {len(parts)}. Pass the others by name.")
    placed = dict(zip(order, parts, strict=False))
    twice = [name for name in placed if named[name] is not None]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice, by its place and by its name. Leave one out.")
    values = {**named, **placed}
    return values["image_processor"], values["tokenizer"], values["image_seq_length"], values["image_token"]


def tokenizer_json(tokenizer: Any) -> Mapping[str, Any] | None:
    """Return the JSON object of a fast tokenizer of ``transformers``; None for anything else."""
    to_str = getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None)
    if isinstance(tokenizer, TokenizerCalls) or to_str is None:
        return None
    data: Mapping[str, Any] = json.loads(to_str())
    return data
