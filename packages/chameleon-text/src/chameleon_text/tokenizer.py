"""Text to ids and back: the byte-level BPE of a ``tokenizer.json``, in which text is only ever text.

The ``tokenizers`` library matches added tokens in the raw text, and its BPE may know names such as ``<eoss>`` or
``IMGIMGBZ`` as words. Both would let a user's text forge a picture or end the stream. So the library is told to match
no special token and no picture code, and a word that its BPE makes one of is spelled letter by letter instead. Every
other text gets the ids that the library gives it.
"""

from __future__ import annotations

import codecs
import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import tokenizers

from . import tokenizer_file as file
from ._files import parse_json, read_json, replacing, writing
from ._hub import push_saved
from ._moved import moved_names
from .batch import one_id, one_row
from .compat.loading import requested_folder, save
from .compat.missing_names import OF_TOKENIZERS
from .compat.special_tokens import NAMED, TokenizerSettings
from .compat.tokenizer_chat import TokenizerChat
from .errors import ConfigError, EncodingError, FileFormatError, TokenizerWarning, VocabularyError
from .folder import ProcessorFolder, write_tokenizer
from .sealed import Sealed
from .vocabulary import check_one_to_one, code_of_name


class TextTokenizer(TokenizerChat, Sealed):
    """A byte-level BPE whose text is only ever text.

    ``decode(encode(text)) == text`` for every text, and ``encode`` never returns a special token's id or a picture
    code's, whatever the text spells. Where a file changes texts on purpose, by a normalizer for instance, ``losses``
    says so, and making the tokenizer warns of it once. Made by ``from_file`` or ``from_json``.

    Called as a function it does what a tokenizer of ``transformers`` does: ``tokenizer(texts, padding=True)``. What
    users set there may be set: ``padding_side``, ``model_max_length``, ``pad_token``, …; nothing else may.
    """

    _instead = OF_TOKENIZERS
    _elsewhere: ClassVar[Mapping[str, str]] = {
        "image_processor": "set it on the processor.",
        "additional_special_tokens": "special tokens are those of the tokenizer.json. Add others by add_tokens().",
    }

    def __init__(self, data: Mapping[str, Any], *, source: str = "tokenizer.json") -> None:
        """Make the tokenizer of the JSON object in a ``tokenizer.json``, which errors call ``source``.

        Raises ``FileFormatError`` where it isn't a byte-level BPE, or one that drops parts of texts, and
        ``VocabularyError`` where its ids are too high or not one to one with the names. Emits a ``TokenizerWarning``
        for what the file asks for and isn't done here, and where texts don't come back as they were.
        """
        if not isinstance(data, Mapping):
            raise FileFormatError(f"{source} holds a {type(data).__name__}, expected a JSON object.")
        self._source = source
        self._settings = TokenizerSettings()
        self._lock = threading.Lock()
        self._read(dict(data))
        self._seal(TextTokenizer)

    def _read(self, data: dict[str, Any]) -> None:
        """Fill this tokenizer from the JSON object of its file."""
        source = self._source
        self._backend = None
        self._json = file.as_json(data, source)
        file.check_model(data, source)
        added = file.added_tokens(data, source)
        plain = file.load(data, source)
        file.check_ids(plain, added, source)
        model = data["model"]
        self.token_ids: dict[str, int] = model["vocab"] | {token.content: token.id for token in added}
        """The id of every name, added tokens included."""
        check_one_to_one(self.token_ids)
        self.names: dict[int, str] = {token_id: name for name, token_id in self.token_ids.items()}
        """The name of every id."""
        self.special_ids = file.special_ids(self.token_ids, added, model["merges"])
        """Every special id, by the rule that the module ``chameleon_text.vocabulary`` states."""
        self.reserved_ids = self.special_ids | {
            token_id for name, token_id in self.token_ids.items() if code_of_name(name) is not None
        }
        """Every id that no text is ever encoded to: those of special tokens and of picture codes."""
        self.prefix_ids, self.suffix_ids = file.ids_around(plain, source)
        """What the file's post-processor puts before and after a text, often ``<s>`` and nothing."""
        unknown = [each for each in (*self.prefix_ids, *self.suffix_ids) if each not in self.names]
        if unknown:
            raise FileFormatError(f"{source}: its post_processor adds the id {unknown[0]}, which has no name.")

        added_ids = {token.id for token in added}
        self._bytes = {
            token_id: name.encode()
            if token_id in added_ids or token_id in self.special_ids
            else file.bytes_of_name(name)
            for token_id, name in self.names.items()
        }
        self._letter_ids = {
            letter: self.token_ids[letter]
            for letter in file.BYTE_LETTERS.values()
            if letter in self.token_ids and self.token_ids[letter] not in self.special_ids
        }
        self._missing_bytes = {byte for byte, letter in file.BYTE_LETTERS.items() if letter not in self._letter_ids}
        # Added tokens that aren't special are ordinary words, which the file wants matched before the BPE.
        words = [token for token in added if token.id not in self.reserved_ids]
        reserved = {token.content for token in added if token.id in self.reserved_ids}
        # The library leaves out the special ones by itself, but not all are flagged as such.
        unflagged = any(not token.special for token in added if token.id in self.reserved_ids)
        self._bpe = file.load(data, source, never_matched=reserved) if unflagged else plain
        self.losses = tuple(file.losses(data, words))
        """What changes texts, a clause each. Empty where every text comes back as it was."""
        if self.losses:
            warnings.warn(
                f"{source}: texts don't come back from their ids exactly as they were: {'; '.join(self.losses)}.",
                TokenizerWarning,
                stacklevel=2,
            )
        left_out = tuple(file.left_out(data))
        if left_out:
            warnings.warn(f"{source}: {'; '.join(left_out)}.", TokenizerWarning, stacklevel=2)

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew, because a copy of the library's tokenizer would match special tokens.
        return _again, (self._json, self._source, msgspec.structs.replace(self._settings))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TextTokenizer:
        """Read a ``tokenizer.json``. Raises ``FileNotFoundError``, or ``FileFormatError`` with what is wrong."""
        return cls(read_json(path), source=os.fspath(path))

    @classmethod
    def from_json(cls, text: str) -> TextTokenizer:
        """Read the text of a ``tokenizer.json``. Raises ``FileFormatError`` with what is wrong."""
        return cls(parse_json(text, "the tokenizer", an_object=True))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str] | None = None, **settings: Any) -> TextTokenizer:
        """Load the tokenizer of a folder, a registered name ("emoji") or a Hub id, as ``tokenizer_config.json`` says.

        ``settings`` are fields of ``TokenizerSettings``, which win, and where in the Hub (``revision``, ``subfolder``,
        …). Raises ``MissingFileError`` without a folder or its ``tokenizer.json``, ``FileFormatError`` for a broken
        file, ``ConfigError`` for other settings, and ``MissingPackageError`` where a Hub id needs the extra ``hub``.
        """
        path = requested_folder(
            folder,
            settings,
            what="the tokenizer",
            known=("use_fast", *NAMED, *TokenizerSettings.__struct_fields__),
        )
        tokenizer = cls.of_folder(ProcessorFolder(path))
        tokenizer.configure(settings)
        return tokenizer

    @classmethod
    def of_folder(cls, files: ProcessorFolder) -> TextTokenizer:
        """Return the tokenizer of a folder that was read."""
        tokenizer = cls(files.tokenizer_data, source=files.source)
        files.set_up(tokenizer)
        tokenizer.name_or_path = os.fspath(files.path)
        return tokenizer

    def save_pretrained(
        self, save_directory: str | os.PathLike[str] | None = None, **arguments: Any
    ) -> tuple[str, ...]:
        """Write the tokenizer's files to a folder, in one commit, and return their paths.

        ``push_to_hub=True`` uploads them, too, to ``repo_id`` or the folder's name. Raises ``FileAccessError`` where
        the system doesn't let them be written.
        """
        return save(self._write, save_directory, arguments)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the tokenizer's files to a repository of the Hub, and return the commit's address."""
        return push_saved(self._write, repo_id, options)

    def _write(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        return write_tokenizer(folder, self)

    def added_tokens(self) -> list[dict[str, Any]]:
        """Return the added tokens as the file has them, with their flags."""
        tokens: list[dict[str, Any]] = json.loads(self._json).get("added_tokens") or []
        return tokens

    def to_json(self) -> str:
        """Return the text of a ``tokenizer.json``, with everything that was in the one that was read."""
        return json.dumps(json.loads(self._json), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``, which replaces the file only once it is complete.

        Raises ``FileAccessError`` where the system doesn't let it be written.
        """
        with writing(path), replacing(path) as temporary:
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

    def encode(self, text: str, text_pair: Any = None, **arguments: Any) -> Any:
        """Return the ids of a text, without ``<s>``, and never a special token's or a picture code's.

        With any argument of ``transformers`` (``add_special_tokens``, ``return_tensors``, …) it is ``encode`` as there:
        the ``input_ids`` of a call with these arguments. Raises ``EncodingError`` for half a surrogate pair, and for a
        byte that the vocabulary has no letter for.
        """
        if text_pair is not None or arguments:
            return self(text, text_pair, **arguments)["input_ids"]
        self._check_covered(text)
        with file.library("a text can't be encoded", error=EncodingError):
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

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **arguments: Any,
    ) -> Any:
        """Return the text of ids, an id or a row of them as a list, array or tensor; of several rows, their texts.

        Bytes that are not UTF-8 become U+FFFD. Special tokens and picture codes are written by their names, or left
        out with ``skip_special_tokens``. ``clean_up_tokenization_spaces`` is accepted for callers of ``transformers``
        and can't be True. Raises ``VocabularyError`` for an id without a name, and ``ConfigError`` for what isn't one
        row of integers, or several.
        """
        if clean_up_tokenization_spaces:
            raise ConfigError("clean_up_tokenization_spaces=True would change the text. Leave it out.")
        if arguments:
            raise ConfigError(f"decode has no argument {next(iter(arguments))!r}; skip_special_tokens is the only one.")
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if (
            isinstance(ids, (list, tuple))
            and ids
            and (isinstance(ids[0], (list, tuple)) or getattr(ids[0], "ndim", None))
        ):
            return [self._text_of(row, skip_special_tokens) for row in ids]
        return self._text_of([ids] if type(ids) is int else ids, skip_special_tokens)

    def _text_of(self, ids: Any, skip_special_tokens: bool) -> str:
        row = one_row(ids)
        try:
            data = b"".join(self.token_bytes(each, skip_special_tokens) for each in row)
        except VocabularyError as error:
            place = next(place for place, each in enumerate(row) if each not in self._bytes)
            raise VocabularyError(f"at position {place}: {error}") from None
        return data.decode("utf-8", "replace")

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Return a decoder that takes one id at a time."""
        return StreamDecoder(self, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        """Return the UTF-8 bytes that an id stands for, which may be a part of a character."""
        if type(token_id) is not int:  # 1.0 and True would be found under 1
            token_id = one_id(token_id)
        try:
            data = self._bytes[token_id]
        except KeyError:
            raise VocabularyError(
                f"id {token_id} has no name in this vocabulary, whose highest id is {len(self) - 1}."
            ) from None
        return b"" if skip_special_tokens and token_id in self.reserved_ids else data

    def _bytes_of_name(self, name: str) -> bytes:
        token_id = self.token_ids.get(name)
        return name.encode() if token_id is None else self._bytes[token_id]

    def _make_backend(self) -> tokenizers.Tokenizer:
        return file.load(json.loads(self._json), self._source)

    def _renew(self, data: Mapping[str, Any]) -> None:
        sealed = self.__dict__.pop("_sealed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TokenizerWarning)  # it was warned of when this tokenizer was made
            self._read(dict(data))
        self.__dict__["_sealed"] = sealed
        self._put_around()

    def _check_covered(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"a text must be a str, not {type(text).__name__}.")
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(
                f"character {error.start} of the text is {text[error.start]!r}, half of a surrogate pair, "
                "which is not a character."
            ) from error
        if self._missing_bytes and self._bpe.normalizer is not None:
            with file.library("a text can't be normalized", error=EncodingError):
                data = self._bpe.normalizer.normalize_str(text).encode()
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

    __slots__ = ("_decoder", "_skip_special_tokens", "_tokenizer")

    def __init__(self, tokenizer: TextTokenizer, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __repr__(self) -> str:
        waiting = len(self._decoder.getstate()[0])
        return f"StreamDecoder(skip_special_tokens={self._skip_special_tokens}, bytes waiting: {waiting})"

    def push(self, token_id: int) -> str:
        """Return the characters that this id completes, often none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id, self._skip_special_tokens))

    def flush(self) -> str:
        """Return what is left of a character that was never completed, as U+FFFD, and start anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _again(text: str, source: str, settings: TokenizerSettings) -> TextTokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenizerWarning)  # it was warned of when the original was made
        tokenizer = TextTokenizer(json.loads(text), source=source)
    tokenizer._settings = settings
    tokenizer._put_around()
    return tokenizer


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"BYTE_LETTERS": "chameleon_text.tokenizer_file:BYTE_LETTERS"})
