"""The vocabulary of the embedded model: every byte, pieces of the recipe's words, the names of the codes and specials.

It is small, so that the output layer costs little: at most ``TEXT_SIZE`` ids of text besides the codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from chameleon_text import TextTokenizer, picture_name
from chameleon_text.vocabulary import (
    BEGIN_IMAGE,
    BEGIN_OF_STREAM,
    END_IMAGE,
    END_OF_STREAM,
    IMAGE_PLACEHOLDER,
    PAD,
    SEPARATOR,
)

TEXT_SIZE = 768


def make_vocabulary(sentences: Iterable[str], *, num_codes: int, text_size: int = TEXT_SIZE) -> TextTokenizer:
    """Train a byte-level BPE with ``text_size`` ids of text (256 of them bytes) on sentences.

    Ids are ordered as in the published file: ``<s>``, ``<pad>``, ``</s>``, ``<unk>``, codes, other specials, text. The
    same sentences give the same file, in any order.
    """
    merges = _learn_merges(sorted(sentences), text_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = list(dict.fromkeys([*alphabet, *(first + second for first, second in merges)]))
    first_specials = [BEGIN_OF_STREAM, PAD, END_OF_STREAM, "<unk>"]
    last_specials = [END_IMAGE, BEGIN_IMAGE, SEPARATOR, IMAGE_PLACEHOLDER]
    names = [*first_specials, *(picture_name(code) for code in range(num_codes)), *last_specials, *text]
    ids = {name: id_ for id_, name in enumerate(names)}
    bos = {"SpecialToken": {"id": BEGIN_OF_STREAM, "type_id": 0}}
    data: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, ids[name]) for name in (*first_specials, *last_specials)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                BEGIN_OF_STREAM: {"id": BEGIN_OF_STREAM, "ids": [ids[BEGIN_OF_STREAM]], "tokens": [BEGIN_OF_STREAM]}
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(pair) for pair in merges],
        },
    }
    return TextTokenizer(data, source="the emoji recipe's vocabulary")


def _learn_merges(sentences: list[str], text_size: int) -> list[tuple[str, str]]:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=text_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences, trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    return [(first, second) for first, second in learned]


def _added(name: str, id_: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": name, **flags}
