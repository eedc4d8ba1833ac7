"""What the bodies of requests may hold. An unknown field is an error, so that nothing is accepted and then ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Natural = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Parts = str | list[dict[str, Any]]
Modality = Literal["text", "image"]


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request for an answer may have."""

    model: str | None = None
    """The name of the model, that of the only one."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Who asks, of those that share a key or an address: each gets a fair share."""
    n: Count | None = None
    """How many answers are written; None for one."""
    stream: bool | None = None
    """Whether the answer comes while it is written."""
    options: dict[str, Any] | None = None
    """Fields of ``GenerationOptions``, by name."""

    def forget(self) -> None:
        """Drop what may be large, once it was read, so that a request that waits holds little."""
        for name in ("prompt", "messages", "negative_prompt", "written", "picture", "mask", "options"):
            if name in self.__struct_fields__:
                msgspec.structs.force_setattr(self, name, None)


class DocumentRequest(Body, kw_only=True):
    """The body of ``/v1/documents``."""

    prompt: Parts | None = None
    """A text, or the parts of a document."""
    messages: list[dict[str, Any]] | None = None
    """A conversation in place of a prompt."""
    template: str = "chat"
    """What is put around it."""
    modality: str | None = None
    """What may be written; None for what the options say."""
    negative_prompt: Parts | None = None
    """What guidance leads away from."""
    written: list[Any] | None = None
    """What an interrupted run wrote, as parts or ids; it goes on from there."""
    preview_every: Natural = 0
    """Every how many codes a stream has a preview of a picture; 0 for never."""


class EditRequest(DocumentRequest, kw_only=True):
    """The body of ``/v1/pictures/edits``."""

    picture: str | dict[str, Any]
    """The picture: a data URL or a part."""
    cells: list[Natural] | None = None
    """The positions of the grid, in reading order, that are drawn anew."""
    mask: str | None = None
    """A picture as a data URL, not black where the picture is drawn anew."""
    strength: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The share of the codes that is drawn anew, chosen by the seed."""


class TokensRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``/v1/pictures/tokens``."""

    picture: str | dict[str, Any]
    """The picture: a data URL or a part."""
    model: str | None = None
    """The name of the model."""


class StreamSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a stream of chat completions has besides."""

    include_usage: bool | None = None
    """Whether its last chunk counts the tokens."""
    include_obfuscation: bool | None = None
    """Padding of chunks, which isn't offered."""


class ChatRequest(Body, kw_only=True):
    """The body of ``/v1/chat/completions``; what the API has besides is refused by name, see ``chat``."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    modalities: Annotated[list[Modality], Meta(min_length=1)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Natural | None = None
    stop: str | list[str] | None = None
    stream_options: StreamSettings | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=16)] | None = None
    negative_prompt: Parts | None = None

    # Fields of the API that would change the answer, and can't here.
    audio: Any = None
    frequency_penalty: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: Any = None
    metadata: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    presence_penalty: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class ImageRequest(Body, kw_only=True):
    """The body of ``/v1/images/generations``."""

    prompt: Annotated[str, Meta(min_length=1)]
    size: str | None = None
    response_format: str | None = None
    seed: Natural | None = None
    partial_images: Annotated[int, Meta(ge=0, le=16)] | None = None
    negative_prompt: Parts | None = None

    # Fields of the API that would change the answer, and can't here.
    background: Any = None
    moderation: Any = None
    output_compression: Any = None
    output_format: Any = None
    quality: Any = None
    style: Any = None
