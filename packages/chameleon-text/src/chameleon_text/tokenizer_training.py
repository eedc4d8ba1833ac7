"""A tokenizer trained on texts: a byte-level BPE, with the names of picture codes and special tokens beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from .byte_level_file import byte_level_file
from .errors import ConfigError, EncodingError
from .tokenizer import TextTokenizer
from .vocabulary import (
    BEGIN_IMAGE,
    BEGIN_OF_STREAM,
    END_IMAGE,
    END_OF_STREAM,
    IMAGE_PLACEHOLDER,
    PAD,
    SEPARATOR,
    picture_name,
)

NUM_BYTES = 256
FIRST_SPECIALS = (BEGIN_OF_STREAM, PAD, END_OF_STREAM, "<unk>")
LAST_SPECIALS = (END_IMAGE, BEGIN_IMAGE, SEPARATOR, IMAGE_PLACEHOLDER)


def train_tokenizer(
    texts: Iterable[str], *, num_codes: int, text_size: int = 32_768, min_frequency: int = 2
) -> TextTokenizer:
    """Train a tokenizer on texts, for an image tokenizer with ``num_codes`` codes.

    It is a byte-level BPE, which has an id for every byte and so encodes any text. ``text_size`` is the largest number
    of ids of text, 256 of them bytes; there are fewer where no pair of pieces occurs ``min_frequency`` times. The ids
    are ordered as in the published file: ``<s>``, ``<pad>``, ``</s>``, ``<unk>``, codes, other special tokens, text.
    The same texts in the same order give the same ids.

    Raises ``ConfigError`` for impossible numbers, ``EncodingError`` for what isn't a text.
    """
    for name, value, least in (
        ("num_codes", num_codes, 1),
        ("text_size", text_size, NUM_BYTES),
        ("min_frequency", min_frequency, 1),
    ):
        if type(value) is not int or value < least:
            raise ConfigError(f"{name} must be an integer ≥ {least}; got {value!r}.")
    if isinstance(texts, str):
        raise ConfigError("texts must be a list or an iterator of texts; got one str.")
    merges = _learn_merges(texts, text_size, min_frequency)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = list(dict.fromkeys([*alphabet, *(first + second for first, second in merges)]))
    names = [*FIRST_SPECIALS, *map(picture_name, range(num_codes)), *LAST_SPECIALS, *text]
    ids = {name: id_ for id_, name in enumerate(names)}
    bos = {"SpecialToken": {"id": BEGIN_OF_STREAM, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    data = byte_level_file(
        ids,
        merges,
        special=(*FIRST_SPECIALS, *LAST_SPECIALS),
        post_processor={
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {
                BEGIN_OF_STREAM: {"id": BEGIN_OF_STREAM, "ids": [ids[BEGIN_OF_STREAM]], "tokens": [BEGIN_OF_STREAM]}
            },
        },
    )
    return TextTokenizer(data, source="the trained tokenizer")


def _learn_merges(texts: Iterable[str], text_size: int, min_frequency: int) -> list[tuple[str, str]]:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=text_size,
        min_frequency=min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_checked(texts), trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    return [(first, second) for first, second in learned]


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise EncodingError(f"text {number} is a {type(text).__name__}, expected a str.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(f"text {number} has half of a surrogate pair, which is not a character.") from error
        yield text
