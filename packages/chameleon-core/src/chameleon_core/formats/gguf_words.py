"""The tokenizer in a GGUF file, as llama.cpp reads it, and as the ``tokenizer.json`` of other layouts.

llama.cpp has the names of the ids, their kinds and the merges of the BPE; how a text is cut before that it knows by the
name of a pre-tokenizer, here "chameleon". A file of ours has the ``tokenizer.json`` itself, too, under the key that
GGUF has for it. Of a file without it, the tokenizer is put together again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._files import parse_json
from ..config import ChameleonConfig
from ..errors import FileFormatError, InterchangeWarning
from .meta_words import TOKENIZER_FILE, Files, picture_sizes, settings_files

MODEL_KEY, PRE_KEY = "tokenizer.ggml.model", "tokenizer.ggml.pre"
TOKENS_KEY, KINDS_KEY, MERGES_KEY = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
JSON_KEY = "tokenizer.huggingface.json"
ADD_BOS_KEY, ADD_EOS_KEY = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
ID_KEYS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
"""The fields of a configuration that name special ids, and llama.cpp's keys."""
BPE, NO_WORDS, PRE = "gpt2", "none", "chameleon"
"""What llama.cpp calls a byte-level BPE, a file without a tokenizer, and the pre-tokenizer of these models."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's kinds of tokens: of the BPE, special, added without being special, and ids without a name."""

_PATTERNS = (r"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )")
"""What the published tokenizer isolates before digits and punctuation, as llama.cpp has it."""
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        *(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in _PATTERNS
        ),
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Isolated"},
        _BYTE_LEVEL,
    ],
}


def words_of(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of a configuration that a file's tokenizer says: the names of ids, and special ids.

    Raises ``FileFormatError`` for values of another type.
    """
    fields: dict[str, Any] = {}
    for field, key in ID_KEYS.items():
        value = metadata.get(key)
        if value is not None and type(value) is not int:
            raise FileFormatError(f"{path}: {key} is {value!r:.80}, expected an id.")
        fields[field] = value
    tokens = metadata.get(TOKENS_KEY)
    if tokens is None:
        return {field: value for field, value in fields.items() if value is not None}
    return {**fields, "vocabulary_map": _named(metadata, path)}


def processor_files(metadata: Mapping[str, Any], path: Path, config: ChameleonConfig) -> Files:
    """Return the processor's files that a file's tokenizer gives; none where it has none that is known here."""
    if isinstance(metadata.get(JSON_KEY), str):
        content: Callable[[], bytes] = partial(str.encode, metadata[JSON_KEY])
    elif metadata.get(MODEL_KEY) == BPE and metadata.get(PRE_KEY) == PRE and TOKENS_KEY in metadata:
        content = partial(_tokenizer_json, metadata, path)
    else:
        return {}
    codes = picture_sizes(config, path)["image_seq_length"]
    return {TOKENIZER_FILE: content, **settings_files(image_seq_length=codes)}


def values_of(config: ChameleonConfig, files: Mapping[str, Callable[[], bytes]]) -> dict[str, Any]:
    """Return llama.cpp's values for the tokenizer among a processor's files, by their keys.

    Without one, llama.cpp is told that there is none. An ``InterchangeWarning`` says where the tokenizer cuts texts
    otherwise than llama.cpp does. Raises ``FileFormatError`` for a file that isn't a tokenizer's.
    """
    ids: dict[str, Any] = {key: getattr(config, field) for field, key in ID_KEYS.items()}
    ids[ID_KEYS["eos_token_id"]] = next(iter(config.eos_token_ids), None)
    ids = {key: id_ for key, id_ in ids.items() if id_ is not None}
    if TOKENIZER_FILE not in files:
        return {MODEL_KEY: NO_WORDS, **ids}
    text = files[TOKENIZER_FILE]()
    data = parse_json(text, TOKENIZER_FILE)
    model = data.get("model") if isinstance(data, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not isinstance(model, dict):
        raise FileFormatError(f"{TOKENIZER_FILE} has no model.vocab; expected the file of a tokenizer.")
    if data.get("pre_tokenizer") != _PRE_TOKENIZER or data.get("normalizer"):
        warnings.warn(
            f"{TOKENIZER_FILE} cuts texts otherwise than the published tokenizer, the only one of the family that "
            "llama.cpp knows, so that llama.cpp may give a text other ids. This toolkit reads the tokenizer as it is.",
            InterchangeWarning,
            stacklevel=5,
        )
    added = {each["content"]: each for each in data.get("added_tokens") or []}
    names = {**{id_: name for name, id_ in vocab.items()}, **{each["id"]: name for name, each in added.items()}}
    kinds = {id_: _kind(added.get(name)) for id_, name in names.items()}
    merges = [each if isinstance(each, str) else " ".join(each) for each in model.get("merges") or []]
    return {
        MODEL_KEY: BPE,
        PRE_KEY: PRE,
        TOKENS_KEY: [names.get(id_, f"[PAD{id_}]") for id_ in range(config.vocab_size)],
        KINDS_KEY: [kinds.get(id_, UNUSED) for id_ in range(config.vocab_size)],
        MERGES_KEY: merges,
        ADD_BOS_KEY: _begins_with_special(data.get("post_processor")),
        JSON_KEY: text.decode(),
        **ids,
    }


def named(values: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the ids by their names of values that are written, None where there is no tokenizer among them."""
    if TOKENS_KEY not in values:
        return None
    kinds = values[KINDS_KEY]
    return {name: id_ for id_, name in enumerate(values[TOKENS_KEY]) if kinds[id_] != UNUSED}


def _begins_with_special(step: Any) -> bool:
    """Return whether a post-processor puts a special token before a text."""
    first = step.get("single") if isinstance(step, dict) else None
    return isinstance(first, list) and bool(first) and isinstance(first[0], dict) and "SpecialToken" in first[0]


def _kind(added: Mapping[str, Any] | None) -> int:
    if added is None:
        return NORMAL
    return CONTROL if added.get("special") else USER_DEFINED


def _named(metadata: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Return the ids by their names, without those that have none."""
    tokens = metadata.get(TOKENS_KEY)
    kinds = metadata.get(KINDS_KEY, [NORMAL] * len(tokens) if isinstance(tokens, list) else None)
    if not isinstance(tokens, list) or not all(isinstance(name, str) for name in tokens):
        raise FileFormatError(f"{path}: {TOKENS_KEY} is no list of names.")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise FileFormatError(f"{path}: {KINDS_KEY} has no entry for each of the {len(tokens):,} tokens.")
    names = [name for name, kind in zip(tokens, kinds, strict=True) if kind != UNUSED]
    ids = {name: id_ for id_, (name, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    if len(ids) < len(names):
        raise FileFormatError(f"{path}: {TOKENS_KEY} has {len(names) - len(ids):,} names that are another id's, too.")
    return ids


def _tokenizer_json(metadata: Mapping[str, Any], path: Path) -> bytes:
    """Return the ``tokenizer.json`` of a file that has none: the published steps, with this file's names and merges."""
    ids, kinds = _named(metadata, path), metadata.get(KINDS_KEY, [])
    merges = metadata.get(MERGES_KEY, [])
    if not isinstance(merges, list) or not all(isinstance(each, str) for each in merges):
        raise FileFormatError(f"{path}: {MERGES_KEY} is no list of texts.")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": id_, "content": name, **flags, "special": kind == CONTROL}
        for name, id_ in ids.items()
        if (kind := kinds[id_] if kinds else NORMAL) in (CONTROL, USER_DEFINED)
    ]
    names = {id_: name for name, id_ in ids.items()}
    # As in llama.cpp, a text of these models begins with <s> unless the file says otherwise.
    around = [
        names.get(metadata.get(ID_KEYS[field], -1)) if metadata.get(key, default) is True else None
        for field, key, default in (("bos_token_id", ADD_BOS_KEY, True), ("eos_token_id", ADD_EOS_KEY, False))
    ]
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": _template(around[0], around[1], ids) if any(around) else None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
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
            "merges": merges,
        },
    }
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _template(first: str | None, last: str | None, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the step that puts special tokens around a text."""

    def around(sequence: str, kind: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": name, "type_id": kind}}] if name is not None else [] for name in (first, last)
        )
        return [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *after]

    names = [name for name in (first, last) if name is not None]
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names},
    }
