"""Small tokenizers, built in memory, with everything that a Chameleon model's has."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from ..byte_level_file import byte_level_file
from ..tokenizer import TextTokenizer
from ..tokenizer_file import BYTE_LETTERS
from ..vocabulary import (
    BEGIN_IMAGE,
    BEGIN_OF_STREAM,
    END_IMAGE,
    END_OF_STREAM,
    IMAGE_PLACEHOLDER,
    PAD,
    SEPARATOR,
    picture_name,
)

WORDS = ("the", " the", " a", " of", " in", " red", " apple", " picture", "What", " is", " this", "ing", "\n\n", "é")


def make_tokenizer(
    num_codes: int = 64,
    *,
    seed: int | None = None,
    words: Sequence[str] = WORDS,
    added_tokens: bool = True,
    adds_bos: bool = True,
    placeholder: str = IMAGE_PLACEHOLDER,
    more_specials: Sequence[str] = (),
) -> TextTokenizer:
    """Return a byte-level BPE with all special tokens, the names of ``num_codes`` codes, every byte and a few words.

    - ``seed`` shuffles the ids. Without one, they are in the order of the published file (``<s>``, ``<pad>``,
      ``</s>``, ``<unk>``, the codes, end-image, begin-image, ...).
    - ``words`` are built by merges from left to right.
    - ``added_tokens=False`` makes special tokens and the codes' names words of the BPE alone, which the pre-tokenizer
      isolates, instead of added tokens.
    - ``adds_bos`` gives the file a post-processor that begins a text with ``<s>``.
    - ``placeholder`` is the name of the image placeholder.
    - ``more_specials`` are further special tokens, for another modality.
    """
    specials = [BEGIN_OF_STREAM, PAD, END_OF_STREAM, "<unk>"]
    markers = [END_IMAGE, BEGIN_IMAGE, "<sentinel:0>", SEPARATOR, placeholder, *more_specials]
    merges, merged = _merges(words)
    pictures = [picture_name(code) for code in range(num_codes)]
    names = [*specials, *pictures, *markers, *BYTE_LETTERS.values(), *merged]
    names = list(dict.fromkeys(names))
    if seed is not None:
        random.Random(seed).shuffle(names)
    ids = {name: token_id for token_id, name in enumerate(names)}
    reserved = sorted([*specials, *markers], key=ids.__getitem__)
    data = byte_level_file(
        ids,
        merges,
        special=reserved if added_tokens else (),
        before=[
            _isolate("<[a-z0-9:/]+>"),
            _isolate("IMGIMG[A-J]{1,4}Z"),
            {"type": "Digits", "individual_digits": True},
        ],
        post_processor=_template(ids[BEGIN_OF_STREAM]) if adds_bos else None,
        ignore_merges=not added_tokens,
    )
    return TextTokenizer(data, source="make_tokenizer()")


def _merges(words: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    merges: dict[tuple[str, str], str] = {}
    for word in words:
        letters = [BYTE_LETTERS[byte] for byte in word.encode()]
        whole = letters[0]
        for letter in letters[1:]:
            merges.setdefault((whole, letter), whole + letter)
            whole += letter
    return [list(pair) for pair in merges], list(merges.values())


def _isolate(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _template(bos_id: int) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": BEGIN_OF_STREAM, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, {"SpecialToken": {"id": BEGIN_OF_STREAM, "type_id": 1}}, second],
        "special_tokens": {
            BEGIN_OF_STREAM: {"id": BEGIN_OF_STREAM, "ids": [bos_id], "tokens": [BEGIN_OF_STREAM]},
        },
    }
