"""``/v1/chat/completions``: a conversation of text and pictures in, an answer of text and pictures out.

Pictures of an answer are in ``message.images``, as data URLs; ``message.content_parts`` has texts and pictures in
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chameleon_core.layout import TokenLayout
from chameleon_core.pipeline import Event, Finished, ImageFinished, ImageProgress, ImageStarted, TextDelta

from .answers import Answer, usage
from .calls import Call, Ready
from .documents import PartsReader
from .errors import RequestError
from .native import negative_prompt
from .neutral import CHAT, refuse_all_but_neutral
from .outbox import Message
from .pictures import data_url
from .requests import ChatRequest
from .stop_text import StopText

MODALITIES = {("text",): "text", ("image",): "image", ("image", "text"): "interleaved"}
MOST_STOPS = 16


def chat_call(body: ChatRequest, reader: PartsReader) -> Call:
    """Return what a request asks for. Raises ``RequestError``."""
    refuse_all_but_neutral(body, CHAT)
    wanted = tuple(sorted(set(body.modalities or ["text"])))
    options = {**(body.options or {}), "modality": MODALITIES[wanted]}
    given: dict[str, Any] = {
        "max_new_tokens": _max_tokens(body),
        "top_p": body.top_p,
        "seed": body.seed,
        "stop_strings": _stops(body) or None,
        "sequence_bias": _biases(body) or None,
    }
    if body.temperature is not None:
        given["do_sample"] = body.temperature > 0
        given["temperature"] = body.temperature or None
    elif body.top_p is not None:
        given["do_sample"] = True
    for name, value in given.items():
        if value is None:
            continue
        if name in (body.options or {}):
            raise RequestError(f"options.{name} is given beside a field of the API.", param=f"options.{name}")
        options[name] = value
    if body.partial_images and not body.stream:
        raise RequestError("partial_images are for streams: set stream to true.", param="partial_images")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options are for streams: set stream to true.", param="stream_options")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise RequestError(
            "include_obfuscation isn't offered.",
            param="stream_options.include_obfuscation",
            code="unsupported_parameter",
        )
    return Call(
        document=reader.conversation(body.messages, "chat"),
        options=options,
        rows=body.n or 1,
        negative=negative_prompt(body.negative_prompt, reader, "chat"),
        previews=body.partial_images or 0,
    )


class ChatPresenter:
    """Chunks of a chat completion, or the completion at the end."""

    def __init__(self, ready: Ready, answer: Answer, body: ChatRequest, layout: TokenLayout) -> None:
        self._answer = answer
        self._streams = bool(body.stream)
        self._counts = bool(body.stream_options and body.stream_options.include_usage)
        self._layout = layout
        self._prompt_tokens = ready.prompt_tokens
        self._written = 0
        self._rows = [_Row(index, StopText(ready.options.stop_strings)) for index in range(body.n or 1)]

    def start(self) -> Iterator[Message]:
        """Yield the chunk that says who speaks, for each row."""
        for row in self._rows if self._streams else ():
            yield self._chunk(row, {"role": "assistant", "content": ""})

    def push(self, event: Event) -> Iterator[Message]:
        """Yield the chunks of an event."""
        row = self._rows[event.row]
        delta: dict[str, Any] | None = None
        merges = None
        match event:
            case TextDelta():
                delta = row.text(row.stop.push(event.text))
            case ImageStarted():
                delta = row.text(row.stop.flush())
            case ImageProgress() if event.preview is not None and self._streams:
                delta = {"partial_images": [{**image_part(event.preview), "index": len(row.images)}]}
                merges = ("partial", event.row)
            case ImageFinished():
                delta = {"images": [row.image(image_part(event.image))]}
            case Finished():
                self._written += len(event.new_ids)
                delta = row.text(row.stop.flush())
                row.finish_reason = _reason(event)
            case _:
                pass
        if not self._streams:
            return
        if delta:
            yield self._chunk(row, delta, merges=merges)
        if row.finish_reason is not None:
            yield self._chunk(row, {})

    def end(self) -> Iterator[Message]:
        """Yield the chunk that counts, where it is asked for, or the completion."""
        counts = usage(self._prompt_tokens, self._written)
        if self._streams:
            if self._counts:
                yield Message({**self._answer.head("chat.completion.chunk"), "choices": [], "usage": counts})
            return
        choices = [row.choice() for row in self._rows]
        yield Message({**self._answer.head("chat.completion"), "choices": choices, "usage": counts})

    def _chunk(self, row: _Row, delta: Mapping[str, Any], *, merges: Any = None) -> Message:
        choice = {"index": row.index, "delta": delta, "logprobs": None, "finish_reason": row.finish_reason}
        if delta and row.finish_reason is not None:
            choice["finish_reason"] = None  # it comes in a chunk of its own
        chunk = {**self._answer.head("chat.completion.chunk"), "choices": [choice]}
        if self._counts:
            chunk["usage"] = None
        return Message(chunk, merges=merges)


class _Row:
    """What one answer has so far."""

    def __init__(self, index: int, stop: StopText) -> None:
        self.index = index
        self.stop = stop
        self.parts: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.finish_reason: str | None = None

    def text(self, text: str) -> dict[str, Any] | None:
        """Take text, and return the delta that it is."""
        if not text:
            return None
        if self.parts and self.parts[-1]["type"] == "text":
            self.parts[-1]["text"] += text
        else:
            self.parts.append({"type": "text", "text": text})
        return {"content": text}

    def image(self, part: dict[str, Any]) -> dict[str, Any]:
        """Take a picture, and return its entry in ``images``."""
        self.parts.append(part)
        self.images.append({**part, "index": len(self.images)})
        return self.images[-1]

    def choice(self) -> dict[str, Any]:
        """Return the answer."""
        content = "".join(part["text"] for part in self.parts if part["type"] == "text")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.images:
            message |= {"images": self.images, "content_parts": self.parts}
        return {"index": self.index, "message": message, "logprobs": None, "finish_reason": self.finish_reason}


def image_part(picture: Any) -> dict[str, Any]:
    """Return a picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": data_url(picture)}}


def _reason(event: Finished) -> str:
    """Return the API's word for why a row ended; "timeout" is this server's own."""
    return "stop" if event.reason == "cancelled" else event.reason


def _max_tokens(body: ChatRequest) -> int | None:
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise RequestError("max_tokens and max_completion_tokens differ. Leave max_tokens out.", param="max_tokens")
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _stops(body: ChatRequest) -> tuple[str, ...]:
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > MOST_STOPS or "" in stops:
        raise RequestError(
            f"stop takes up to {MOST_STOPS} strings, none of them empty.", param="stop", code="invalid_value"
        )
    return stops


def _biases(body: ChatRequest) -> tuple[tuple[tuple[int, ...], float], ...]:
    biases = body.logit_bias or {}
    if wrong := [name for name in biases if not name.isdecimal() or len(name) > 9]:
        raise RequestError(f"logit_bias has {wrong[0]!r:.40}, which is no id of a token.", param="logit_bias")
    return tuple(((int(name),), float(bias)) for name, bias in biases.items())
