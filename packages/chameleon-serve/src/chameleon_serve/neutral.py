"""Fields of OpenAI's API that this model has no part for: refused by name, unless they ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import RequestError

# What a field may say that changes nothing, and why it can't say more.
CHAT: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "the model writes no sound"),
    "frequency_penalty": ((0,), "use options.repetition_penalty, another rule for the same purpose"),
    "function_call": (("none",), "the model calls no functions"),
    "functions": (([],), "the model calls no functions"),
    "logprobs": ((False,), "the engine keeps no log-probabilities"),
    "metadata": (({},), "nothing is stored"),
    "moderation": ((), "nothing is moderated"),
    "parallel_tool_calls": ((False, True), "the model calls no functions"),
    "prediction": ((), "the model takes no prediction"),
    "presence_penalty": ((0,), "use options.repetition_penalty, another rule for the same purpose"),
    "prompt_cache_key": ((), "no prompts are kept"),
    "prompt_cache_retention": ((), "no prompts are kept"),
    "reasoning_effort": (("none",), "the model doesn't reason before it answers"),
    "response_format": (({"type": "text"},), "the model isn't constrained to JSON"),
    "safety_identifier": ((), "use user"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), "nothing is stored"),
    "tool_choice": (("none", "auto"), "the model calls no functions"),
    "tools": (([],), "the model calls no functions"),
    "top_logprobs": ((0,), "the engine keeps no log-probabilities"),
    "verbosity": (("medium",), "the model has no levels of it"),
    "web_search_options": ((), "the server reads nothing from the network"),
}
IMAGES: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "background": (("auto", "opaque"), "pictures have no transparency"),
    "moderation": (("auto", "low"), "nothing is moderated"),
    "output_compression": ((100,), "pictures are PNG, without loss"),
    "output_format": (("png",), "pictures are PNG"),
    "quality": (("auto", "standard"), "the model has no levels of it; see options"),
    "style": ((), "the model has no styles of its own; name one in the prompt"),
}


def refuse_all_but_neutral(body: Any, fields: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Raise ``RequestError`` for a field of a body that asks for what can't be done here."""
    for name, (neutral, reason) in fields.items():
        value = getattr(body, name)
        if value is None or any((value == each and type(value) is not bool) or value is each for each in neutral):
            continue
        raise RequestError(f"{name} isn't offered: {reason}.", param=name, code="unsupported_parameter")
