"""What a ``tokenizer.json`` says: which parts are honoured, which are left out with a warning, which are refused.

The ``tokenizers`` library does the work, so that texts get the ids that a model was trained with. It panics for some
broken files, with an exception that isn't even an ``Exception``; every call goes through ``library``.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import tokenizers

from ._files import check_depth
from .errors import ChameleonTextError, FileFormatError
from .vocabulary import special_names


def _byte_letters() -> dict[int, str]:
    """Return the letter that byte-level BPE writes for each byte.

    Printable bytes stand for themselves, the others for the characters that begin at U+0100, in order
    (``bytes_to_unicode`` of GPT-2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) if byte in printable else chr(0x100 + rest.index(byte)) for byte in range(256)}


BYTE_LETTERS = _byte_letters()
_LETTER_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}

KEEPING_STEPS = ("ByteLevel", "Digits", "Punctuation", "Split")
"""The pre-tokenizers that keep every character, ``Split`` and ``Punctuation`` unless their behavior is ``Removed``.
``UnicodeScripts`` isn't one of them: it drops spaces at the beginning."""


class AddedToken(msgspec.Struct, frozen=True):
    """An added token: a word that is matched before the BPE, or a special token."""

    id: int
    """Its id, ≥ 0."""
    content: str
    """The word."""
    special: bool = False
    """Whether it is a special token; by default not."""
    lstrip: bool = False
    """Whether it takes the spaces before it; by default not."""
    rstrip: bool = False
    """Whether it takes the spaces after it; by default not."""


@contextlib.contextmanager
def library(what: str, *, error: type[ChameleonTextError] = FileFormatError) -> Iterator[None]:
    """Raise ``error`` for whatever the ``tokenizers`` library raises in the block; ``what`` begins its message."""
    try:
        yield
    except (ChameleonTextError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # The library raises Exception for faults that it knows, and pyo3's PanicException, a BaseException, for others.
    except BaseException as fault:
        text = str(fault)
        raise error(f"{what}: {text if len(text) <= 300 else f'{text[:300]}…'}") from fault


def as_json(data: Mapping[str, Any], source: str) -> str:
    """Return the JSON text of a tokenizer. Raises ``FileFormatError`` for values that aren't JSON."""
    try:
        check_depth(data)
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
        text.encode()
    except RecursionError as error:
        raise FileFormatError(f"{source} nests objects and arrays too deep to be a tokenizer.json.") from error
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise FileFormatError(f"{source} has values that JSON can't hold, or halves of surrogate pairs.") from error
    return text


def check_model(data: Mapping[str, Any], source: str) -> None:
    """Raise ``FileFormatError`` where a file isn't a byte-level BPE, or one whose steps drop parts of texts."""
    model = data.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type")
    if kind != "BPE":
        raise FileFormatError(f"{source} has a model of type {kind!r:.80}, expected 'BPE'. Is it a tokenizer.json?")
    steps = list(_steps(data.get("pre_tokenizer")))
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if not byte_level:
        raise FileFormatError(
            f"{source} is a BPE over characters; only a byte-level one, whose pre-tokenizer has a 'ByteLevel' "
            "step, gives every text back."
        )
    if len(byte_level) > 1 or any(step.get("type") == "ByteLevel" for step in _steps(data.get("normalizer"))):
        raise FileFormatError(f"{source} writes bytes as letters twice; expected one 'ByteLevel' step.")
    for step in steps:
        if step.get("type") not in KEEPING_STEPS or step.get("behavior") == "Removed":
            behavior = f" with the behavior {step['behavior']!r:.80}" if "behavior" in step else ""
            raise FileFormatError(
                f"{source} has the pre-tokenizer {step.get('type')!r:.80}{behavior}, which drops or replaces parts of "
                f"a text, so that they couldn't be given back. Supported are {', '.join(KEEPING_STEPS)}, without "
                "'Removed'."
            )
    for field in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise FileFormatError(
                f"{source} marks parts of words ({field} is {model[field]!r:.80}), which a byte-level BPE can't give "
                "back as text. Expected null."
            )


def load(data: Mapping[str, Any], source: str, *, never_matched: Collection[str] = ()) -> tokenizers.Tokenizer:
    """Return the library's tokenizer for text alone: no truncation, no padding, no prefix, no dropout.

    Added tokens in ``never_matched`` are never found in a text, the others are. Raises ``FileFormatError``.
    """
    pre_tokenizer = copy.deepcopy(data["pre_tokenizer"])
    for step in _steps(pre_tokenizer):
        if step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False  # a space that the text didn't have would come back with it
    added = data.get("added_tokens")
    if isinstance(added, list):
        added = [
            {**token, "special": True} if isinstance(token, dict) and token.get("content") in never_matched else token
            for token in added
        ]
    model = data["model"]
    if isinstance(model.get("dropout"), (int, float)):
        model = {**model, "dropout": None}
    bare = {
        **data,
        "model": model,
        "added_tokens": added or [],
        "truncation": None,
        "padding": None,
        "pre_tokenizer": pre_tokenizer,
    }
    with library(f"{source} is JSON but not a tokenizer"):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
        tokenizer.encode_special_tokens = True  # which means that their names are encoded as text
    return tokenizer


def added_tokens(data: Mapping[str, Any], source: str) -> list[AddedToken]:
    """Return the added tokens of a file. Raises ``FileFormatError`` for broken ones."""
    try:
        return msgspec.convert(data.get("added_tokens") or [], list[AddedToken])
    except (msgspec.ValidationError, OverflowError) as error:
        raise FileFormatError(f"{source}: its added_tokens are not understood: {error}.") from error


def check_ids(tokenizer: tokenizers.Tokenizer, added: Iterable[AddedToken], source: str) -> None:
    """Raise ``FileFormatError`` where an added token's id isn't the one that the library gives it.

    The library goes by the order of the tokens alone, so that a model was trained with other ids than the file states.
    """
    for token in added:
        with library(f"{source}: the added token {token.content!r:.80} is not understood"):
            found = tokenizer.token_to_id(token.content)
        if found != token.id:
            raise FileFormatError(
                f"{source} says that the added token {token.content!r:.80} has the id {token.id}; the tokenizers "
                f"library, which counts on from the vocabulary, gives it {found}. One of them is wrong: correct the "
                "file."
            )


def special_ids(token_ids: Mapping[str, int], added: Iterable[AddedToken], merges: Iterable[Any]) -> frozenset[int]:
    """Return the special ids, by the rule that the module ``chameleon_text.vocabulary`` states."""
    flagged = {token.content for token in added if token.special}
    words = {token.content for token in added if not token.special}
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges}
    return frozenset(token_ids[name] for name in special_names(token_ids, flagged=flagged, text=words | merged))


def ids_around(tokenizer: tokenizers.Tokenizer, source: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the post-processor puts before and after a text."""
    ids: list[int] = []
    special: list[int] = []
    with library(f"{source}: its post_processor can't be used"):
        for text in ("a", "0", ".", "\N{LATIN SMALL LETTER E WITH ACUTE}"):  # the first that isn't normalized away
            encoding = tokenizer.encode(text, add_special_tokens=True)
            ids, special = encoding.ids, encoding.special_tokens_mask
            if 0 in special:
                break
    first = special.index(0) if 0 in special else len(ids)
    last = len(ids) - (special[::-1].index(0) if 0 in special else 0)
    return tuple(ids[:first]), tuple(ids[last:])


def losses(data: Mapping[str, Any], words: Iterable[AddedToken]) -> Iterator[str]:
    """Yield a clause for each part of the file that changes texts, so that they don't come back as they were."""
    normalizers = [str(step.get("type")) for step in _steps(data.get("normalizer"))]
    if normalizers:
        yield f"its normalizer ({', '.join(normalizers)}) changes texts"
    words = list(words)
    stripping = [token.content for token in words if token.lstrip or token.rstrip]
    if stripping:
        yield f"spaces beside {_some(stripping)} are lost, which the file asks for (lstrip, rstrip)"
    vocab = data["model"]["vocab"]
    twice = [each for token in words if (each := token.content) in vocab and bytes_of_name(each) != each.encode()]
    if twice:
        yield f"{_some(twice)} are added tokens with the id of a byte-level word that stands for other text"


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"{name!r:.80}" for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def left_out(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a clause for each part of the file that isn't done here."""
    if any(step.get("add_prefix_space") for step in _steps(data["pre_tokenizer"]) if step.get("type") == "ByteLevel"):
        yield "no space is put before a text (add_prefix_space), because it would come back with it"
    if data["model"].get("dropout"):
        yield "the BPE drops no merges (dropout), so that a text always has the same ids"
    if data.get("truncation") is not None:
        yield "texts are never cut (truncation)"
    if data.get("padding") is not None:
        yield "texts aren't padded (padding); the processor pads batches by its own arguments"
    decoders = [str(step.get("type")) for step in _steps(data.get("decoder"), "decoders")]
    if any(kind != "ByteLevel" for kind in decoders):
        yield f"ids are decoded as byte-level ones, not by the file's decoder ({', '.join(decoders)})"


def bytes_of_name(name: str) -> bytes:
    """Return the bytes that a word of the BPE stands for; a name that isn't made of byte letters stands for itself."""
    if all(letter in _LETTER_BYTES for letter in name):
        return bytes(_LETTER_BYTES[letter] for letter in name)
    return name.encode()


def _steps(part: Any, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer or decoder, those within sequences included."""
    if not isinstance(part, dict):
        return
    inner = next((part[name] for name in (*names, "pretokenizers", "normalizers") if name in part), None)
    if inner is None:
        yield part
    elif isinstance(inner, list):
        for step in inner:
            yield from _steps(step, *names)
