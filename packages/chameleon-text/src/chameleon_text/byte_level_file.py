"""A ``tokenizer.json`` of a byte-level BPE, as one is written here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def byte_level_file(
    ids: Mapping[str, int],
    merges: Iterable[Sequence[str]],
    *,
    special: Iterable[str],
    post_processor: Mapping[str, Any] | None,
    before: Sequence[Mapping[str, Any]] = (),
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """Return what the file says.

    ``ids`` are those of all names and ``merges`` the pairs of pieces that the BPE joins, in order. ``special`` are the
    names that are special tokens, and ``post_processor`` is what puts some of them around a text. ``before`` are steps
    of the pre-tokenizer before bytes become letters. ``ignore_merges`` makes a piece that is a name one id, whatever
    the merges.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(name, ids[name]) for name in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, byte_level]} if before else byte_level,
        "post_processor": post_processor,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": ids,
            "merges": [list(pair) for pair in merges],
        },
    }


def _special_token(name: str, token_id: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": name, **flags}
