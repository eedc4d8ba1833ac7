"""Text to ids and back: the byte-level BPE of a ``tokenizer.json``, in which text is only ever text.

The ``tokenizers`` library matches added tokens in the raw text, and its BPE may know names such as ``<eoss>`` or
``IMGIMGBZ`` as words. Both would let a user's text forge a picture or end the stream. So text is split by the file's
own pre-tokenizer and model without its added tokens, and a word that comes out as a special token or a picture code is
spelled letter by letter instead. Every other text gets the ids that the file intends.
"""

from __future__ import annotations

import codecs
import copy
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from ._files import read_json, replacing
from .errors import EncodingError, FileFormatError, VocabularyError
from .vocabulary import code_of_name, special_names


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


class TextTokenizer:
    """A byte-level BPE whose text is only ever text.

    ``decode(encode(text)) == text`` for every text, and ``encode`` never returns a special token's id or a picture
    code's, whatever the text spells. (A file with a normalizer of its own gives back the normalized text.) Made by
    ``from_file`` or ``from_json``. Immutable.
    """

    def __init__(self, data: Mapping[str, Any], *, source: str = "tokenizer.json") -> None:
        """Make the tokenizer of the JSON object in a ``tokenizer.json``, which errors call ``source``.

        Raises ``FileFormatError`` where it isn't a byte-level BPE.
        """
        self._data = dict(data)
        model = data.get("model")
        model = model if isinstance(model, dict) else {}
        kind = model.get("type")
        if kind != "BPE":
            raise FileFormatError(f"{source} has a model of type {kind!r}, expected 'BPE'. Is it a tokenizer.json?")
        if not _byte_level_steps(data.get("pre_tokenizer")):
            raise FileFormatError(
                f"{source} is a BPE over characters; only a byte-level one, whose pre-tokenizer has a 'ByteLevel' "
                "step, gives every text back."
            )
        self._bpe = _load(_bare(data), source)
        added = _added_tokens(data, source)
        self.token_ids: dict[str, int] = model["vocab"] | {token.content: token.id for token in added}
        """The id of every name, added tokens included."""
        self.names: dict[int, str] = {token_id: name for name, token_id in self.token_ids.items()}
        """The name of every id."""
        self.special_ids = _special_ids(self.token_ids, added, model["merges"])
        """Every special id, by the rule that the module ``chameleon_text.vocabulary`` states."""
        self.reserved_ids = self.special_ids | {
            token_id for name, token_id in self.token_ids.items() if code_of_name(name) is not None
        }
        """Every id that no text is ever encoded to: those of special tokens and of picture codes."""
        self.prefix_ids, self.suffix_ids = _ids_around(self._bpe)
        """What the file's post-processor puts before and after a text, often ``<s>`` and nothing."""

        added_ids = {token.id for token in added}
        self._bytes = {
            token_id: name.encode() if token_id in added_ids or token_id in self.special_ids else _bytes_of(name)
            for token_id, name in self.names.items()
        }
        self._letter_ids = {
            letter: self.token_ids[letter]
            for letter in BYTE_LETTERS.values()
            if letter in self.token_ids and self.token_ids[letter] not in self.special_ids
        }
        self._missing_bytes = {byte for byte, letter in BYTE_LETTERS.items() if letter not in self._letter_ids}
        # Added tokens that aren't special are ordinary words which the file wants matched before the BPE.
        words = [token.content for token in added if token.id not in self.reserved_ids]
        self._words = name_pattern(words)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TextTokenizer:
        """Read a ``tokenizer.json``. Raises ``FileNotFoundError``, or ``FileFormatError`` with what is wrong."""
        return cls(read_json(path), source=os.fspath(path))

    @classmethod
    def from_json(cls, text: str) -> TextTokenizer:
        """Read the text of a ``tokenizer.json``. Raises ``FileFormatError`` with what is wrong."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileFormatError(f"the tokenizer is not valid JSON: {error}.") from error
        if not isinstance(data, dict):
            raise FileFormatError(f"the tokenizer is a JSON {type(data).__name__}, expected an object.")
        return cls(data)

    def to_json(self) -> str:
        """Return the text of a ``tokenizer.json``, with everything that was in the one that was read."""
        return json.dumps(self._data, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``, which replaces the file only once it is complete."""
        with replacing(path) as temporary:
            Path(temporary).write_text(self.to_json(), encoding="utf-8")

    def __repr__(self) -> str:
        specials = [self.names[token_id] for token_id in sorted(self.special_ids)]
        names = ", ".join(specials[:8]) + (", …" if len(specials) > 8 else "")
        pictures = len(self.reserved_ids) - len(specials)
        return (
            f"TextTokenizer({len(self.names):,} tokens: {pictures:,} picture codes, {len(specials):,} special: {names})"
        )

    def __len__(self) -> int:
        """The number of rows that an embedding needs: the highest id plus one."""
        return max(self.names) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without ``<s>``, and never a special token's or a picture code's.

        Raises ``EncodingError`` for half a surrogate pair, and for a byte that the vocabulary has no letter for.
        """
        self._check_covered(text)
        if self._words is None:
            return self._encode_words(text)
        ids: list[int] = []
        # The pattern has one group, so that the odd parts are the words that it found.
        for index, part in enumerate(self._words.split(text)):
            if index % 2:
                ids.append(self.token_ids[part])
            elif part:
                ids.extend(self._encode_words(part))
        return ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of ids. Bytes that are not UTF-8 become U+FFFD.

        Special tokens and picture codes are written by their names, or left out with ``skip_special_tokens``.
        Raises ``VocabularyError`` for an id without a name.
        """
        return b"".join(self.token_bytes(each, skip_special_tokens) for each in ids).decode("utf-8", "replace")

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Return a decoder that takes one id at a time."""
        return StreamDecoder(self, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        """Return the UTF-8 bytes that an id stands for, which may be a part of a character."""
        try:
            data = self._bytes[token_id]
        except KeyError:
            raise VocabularyError(
                f"id {token_id} has no name in this vocabulary, whose highest id is {len(self) - 1}."
            ) from None
        return b"" if skip_special_tokens and token_id in self.reserved_ids else data

    def _encode_words(self, text: str) -> list[int]:
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        if self.reserved_ids.isdisjoint(ids):
            return ids
        spelled: list[int] = []
        for token_id in ids:
            if token_id in self.reserved_ids:
                spelled.extend(self._letter_ids[letter] for letter in self.names[token_id])
            else:
                spelled.append(token_id)
        return spelled

    def _check_covered(self, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(
                f"character {error.start} of the text is {text[error.start]!r}, half of a surrogate pair, "
                "which is not a character."
            ) from error
        if self._missing_bytes and not self._missing_bytes.isdisjoint(data):
            missing = sorted(self._missing_bytes.intersection(data))
            raise EncodingError(
                f"the vocabulary has no letter for the bytes {', '.join(f'0x{byte:02X}' for byte in missing)} of the "
                "text, so that they would be lost."
            )


class StreamDecoder:
    """Text from ids that arrive one at a time: a character is returned once all its bytes have arrived.

    What ``push`` and the final ``flush`` return, joined, is ``TextTokenizer.decode`` of the same ids.
    """

    def __init__(self, tokenizer: TextTokenizer, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this id completes, often none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id, self._skip_special_tokens))

    def flush(self) -> str:
        """Return what is left of a character that was never completed, as U+FFFD, and start anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class _AddedToken(msgspec.Struct, frozen=True):
    """The fields of an added token that are used here. It is matched as it is spelled, without spaces around it."""

    id: int
    content: str
    special: bool = False


def name_pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern with one group that finds any of the names, the longest first, or None where there are none."""
    alternatives = sorted(set(names), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, alternatives))})") if alternatives else None


def _load(data: Mapping[str, Any], source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises plain Exception for every fault in the file
        raise FileFormatError(f"{source} is JSON but not a tokenizer: {error}") from error


def _added_tokens(data: Mapping[str, Any], source: str) -> list[_AddedToken]:
    try:
        return msgspec.convert(data.get("added_tokens") or [], list[_AddedToken])
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{source}: its added_tokens are not understood: {error}.") from error


def _special_ids(token_ids: Mapping[str, int], added: Iterable[_AddedToken], merges: Iterable[Any]) -> frozenset[int]:
    flagged = {token.content for token in added if token.special}
    words = {token.content for token in added if not token.special}
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges}
    return frozenset(token_ids[name] for name in special_names(token_ids, flagged=flagged, text=words | merged))


def _ids_around(tokenizer: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    encoding = tokenizer.encode("a", add_special_tokens=True)
    ids, special = encoding.ids, encoding.special_tokens_mask
    first = special.index(0) if 0 in special else len(ids)
    last = len(ids) - (special[::-1].index(0) if 0 in special else 0)
    return tuple(ids[:first]), tuple(ids[last:])


def _bare(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer for text alone: no added tokens, no truncation, no padding, no prefix."""
    pre_tokenizer = copy.deepcopy(data["pre_tokenizer"])
    for step in _byte_level_steps(pre_tokenizer):
        step["add_prefix_space"] = False  # a space that the text didn't have would come back with it
    return {**data, "added_tokens": [], "truncation": None, "padding": None, "pre_tokenizer": pre_tokenizer}


def _byte_level_steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    if not isinstance(pre_tokenizer, dict):
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [found for step in pre_tokenizer.get("pretokenizers", ()) for found in _byte_level_steps(step)]
    return [pre_tokenizer] if pre_tokenizer.get("type") == "ByteLevel" else []


def _bytes_of(name: str) -> bytes:
    if all(letter in _LETTER_BYTES for letter in name):
        return bytes(_LETTER_BYTES[letter] for letter in name)
    return name.encode()
