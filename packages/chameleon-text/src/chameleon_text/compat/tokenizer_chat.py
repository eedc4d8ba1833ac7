"""Conversations without pictures, by the tokenizer alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .chat import CHAT_TEMPLATE
from .chat_calls import ChatArguments, template_of, tokenizer_chat
from .tokenizer_calls import TokenizerCalls


class TokenizerChat(TokenizerCalls):
    """The part of ``TextTokenizer`` that makes prompts of conversations."""

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        **variables: Any,
    ) -> Any:
        """Return the prompt of a conversation without pictures, or of several, as in ``transformers``.

        ``tokenize=False`` returns text, ``return_dict=False`` the ids alone. With ``add_generation_prompt`` the prompt
        ends with the separator, which asks for an answer. What messages spell is text in the built-in format, but for
        ``<image>`` without ``sanitize_control_tokens``. ``return_assistant_tokens_mask`` returns ``assistant_masks``, 1
        for the ids of answers. Raises ``DocumentError`` and ``ConfigError``.
        """
        return tokenizer_chat(
            self,
            conversation,
            ChatArguments(
                chat_template=chat_template,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                sanitize_control_tokens=sanitize_control_tokens,
                variables=variables,
            ),
            tokenize=tokenize,
            return_dict=return_dict,
            call={
                "padding": padding,
                "truncation": truncation,
                "max_length": max_length,
                "return_tensors": return_tensors,
                **(tokenizer_kwargs or {}),
            },
        )

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the text of the template in Jinja that ``apply_chat_template`` uses."""
        return template_of(chat_template, self.chat_template, tools) or CHAT_TEMPLATE
