"""Prompts in the string form of ``transformers``: text in which ``<image>`` stands for the next picture."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from .compat.image_arguments import as_pictures
from .errors import ConfigError, ImageCountError
from .segments import Document, Image, Segment, Special, Text
from .tokenizer import TextTokenizer

AllowSpecial: TypeAlias = Collection[str] | Literal["all"]
"""The special tokens that a prompt may spell, by name, or all of them."""


def as_texts(argument: str, value: object) -> list[str]:
    """Return one text or several as a list. Raises ``ConfigError`` for anything else."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) for each in texts):
        raise ConfigError(
            f"{argument} is a {type(value).__name__}, expected a str or a list of them. "
            "Documents go to encode(), chat messages to encode_messages(), pictures to images=."
        )
    return list(texts)


def parse_prompts(
    prompts: Sequence[str], tokenizer: TextTokenizer, image_token: str, allow_special: AllowSpecial
) -> list[Document]:
    """Split each prompt into text, ``Image()`` for each placeholder, and the special tokens that are allowed.

    Raises ``ConfigError`` where ``allow_special`` names what isn't a special token of the vocabulary.
    """
    specials = {tokenizer.names[token_id] for token_id in tokenizer.special_ids}
    if isinstance(allow_special, str):
        names = specials if allow_special == "all" else {allow_special}
    elif isinstance(allow_special, Collection) and all(isinstance(name, str) for name in allow_special):
        names = {*allow_special}
    else:
        raise ConfigError("allow_special must be a list of names of special tokens, or 'all'.")
    unknown = sorted(names - specials)
    if unknown:
        close = difflib.get_close_matches(unknown[0], specials, n=1)
        raise ConfigError(
            f"allow_special names {unknown}, not special in this vocabulary."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
    split = NameSplitter({image_token, *names})
    documents: list[Document] = []
    for prompt in prompts:
        segments = (_segment(part, index % 2 == 1, image_token) for index, part in enumerate(split(prompt)) if part)
        documents.append(Document(segments))
    return documents


class NameSplitter:
    """Finds names in texts, the longest first, in a time that doesn't depend on how many names there are."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        lengths: dict[str, set[int]] = {}
        for name in self._names:
            lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {first: sorted(each, reverse=True) for first, each in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, sorted(lengths)))}]")

    def __call__(self, text: str) -> list[str]:
        """Return the parts of a text, of which the odd ones are the names."""
        parts: list[str] = []
        start = position = 0
        while found := self._first.search(text, position):
            position = found.start()
            name = next((each for each in self._candidates(text, position) if each in self._names), None)
            if name is None:
                position += 1
                continue
            parts += [text[start:position], name]
            start = position = position + len(name)
        return [*parts, text[start:]]

    def _candidates(self, text: str, position: int) -> Iterator[str]:
        return (text[position : position + length] for length in self._lengths[text[position]])


def place_pictures(documents: Sequence[Document], images: Any) -> list[Document]:
    """Return the documents with the pictures in their placeholders, in order through the whole batch.

    Raises ``ImageCountError`` where the numbers of pictures and placeholders differ, also within one prompt if
    ``images`` has a list for each.
    """
    wanted = [sum(isinstance(segment, Image) for segment in document) for document in documents]
    pictures = as_pictures(images)
    if sum(wanted) != len(pictures):
        raise ImageCountError(
            f"{_counted(len(pictures), 'picture')} for {_counted(sum(wanted), 'placeholder')} "
            f"(by prompt: {', '.join(map(str, wanted))}). "
            "Pass one picture for each placeholder."
        )
    if isinstance(images, (list, tuple)) and images and all(isinstance(each, (list, tuple)) for each in images):
        given = [len(each) for each in images]
        if given != wanted:
            raise ImageCountError(
                f"the pictures by prompt are {', '.join(map(str, given))} and the placeholders "
                f"{', '.join(map(str, wanted))}. Pass one picture for each placeholder."
            )
    waiting = iter(pictures)
    return [Document(_filled(document, waiting)) for document in documents]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _segment(part: str, is_name: bool, image_token: str) -> Segment:
    if not is_name:
        return Text(part)
    return Image() if part == image_token else Special(part)


def _filled(document: Document, pictures: Iterator[Any]) -> Iterator[Segment]:
    for segment in document:
        yield Image(next(pictures)) if isinstance(segment, Image) else segment
