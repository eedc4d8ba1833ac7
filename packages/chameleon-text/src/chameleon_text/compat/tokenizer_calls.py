"""The tokenizer as ``transformers`` users call it: texts to rows of ids, names to ids, and ids to texts.

Here the names of special tokens in a text are their ids, as there; ``TextTokenizer.encode(text)`` alone and the
processor never do that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import tokenizers

from ..batch import TensorKind, one_id, one_row
from ..errors import ConfigError, EncodingError, VocabularyError
from ..tokenizer_file import library
from .encodings import TokenizerBatch, tensors_of
from .special_tokens import NAMED, SpecialTokens, TokenizerSettings
from .text_arguments import TextArguments, text_arguments

_OF_TEXT = (
    "return_offsets_mapping",
    "return_overflowing_tokens",
    "is_split_into_words",
    "split_special_tokens",
    "stride",
)
_PER_ID = frozenset((
    "input_ids", "attention_mask", "special_tokens_mask", "token_type_ids", "mm_token_type_ids", "assistant_masks",
))  # fmt: skip
"""Columns with a value for each id, which are padded with them."""


class TokenizerCalls(SpecialTokens):
    """The part of ``TextTokenizer`` that is called as in ``transformers``."""

    is_fast = True
    backend = "tokenizers"
    vocab_files_names: ClassVar[Mapping[str, str]] = {"tokenizer_file": "tokenizer.json"}
    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[Sequence[str]] = tuple(NAMED)
    name_or_path: str = ""
    """The folder that the tokenizer was loaded from, "" of others."""
    _lock: threading.Lock

    def __call__(self, text: Any = None, text_pair: Any = None, **arguments: Any) -> TokenizerBatch:
        """Return the ids of a text, of several, or of pairs, as in ``transformers``: ``input_ids``, ``attention_mask``.

        The arguments are the fields of ``TextArguments``, under the names of ``transformers``. One text gives rows
        without a batch unless ``return_tensors`` is given. Names of special tokens in a text are their ids, unless
        ``split_special_tokens=True``. Raises ``ConfigError`` for arguments that aren't understood, ``EncodingError``
        for texts that can't be encoded.
        """
        options = text_arguments(arguments, known=("text", "text_pair"), caller="the tokenizer")
        words = options.is_split_into_words
        several = isinstance(text, (list, tuple)) and not (words and all(isinstance(each, str) for each in text))
        rows = list(text) if several else [text]
        pairs = None if text_pair is None else list(text_pair) if several else [text_pair]
        _check_texts(rows, "text", words=words)
        if pairs is not None:
            _check_texts(pairs, "text_pair", words=words)
            if len(pairs) != len(rows):
                raise ConfigError(f"there are {len(rows)} texts and {len(pairs)} in text_pair. Pass one for each.")
        encodings = self._encodings(rows, pairs, options) if rows else []
        batch = TokenizerBatch(_columns(encodings, options), encodings)
        if options.return_overflowing_tokens:
            batch, rows = _with_overflow(batch, encodings, options), []
        if not several and options.return_tensors is None and rows:
            return TokenizerBatch({name: column[0] for name, column in batch.items()}, batch.encodings)
        for name, column in batch.items():
            batch[name] = tensors_of(name, column, options.return_tensors)
        return batch

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **arguments: Any) -> Any:
        """Return the names of the ids of a text, as the BPE writes them."""
        return self(text, pair, add_special_tokens=add_special_tokens, **arguments).tokens()

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **arguments: Any,
    ) -> list[str]:
        """Return the text of each row of ids, as ``decode`` gives it."""
        if isinstance(sequences, (str, bytes, Mapping)) or not isinstance(sequences, Iterable):
            raise ConfigError(f"batch_decode takes rows of ids, not a {type(sequences).__name__}.")
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **arguments)
        return [texts] if isinstance(texts, str) else texts

    if TYPE_CHECKING:

        def decode(
            self,
            token_ids: Any,
            skip_special_tokens: bool = False,
            clean_up_tokenization_spaces: bool | None = None,
            **arguments: Any,
        ) -> Any:
            """Return the text of a row of ids: see ``TextTokenizer.decode``."""

        def added_tokens(self) -> list[dict[str, Any]]:
            """Return the added tokens as the file has them, with their flags."""

        def to_json(self) -> str:
            """Return the text of a ``tokenizer.json``."""

        def _bytes_of_name(self, name: str) -> bytes:
            """Return the bytes that a name stands for."""

        def _make_backend(self) -> tokenizers.Tokenizer:
            """Return the tokenizer of the library."""

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token's name, or those of several; that of ``<unk>`` (or None) for unknown names."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            return self.token_ids.get(tokens, self.unk_token_id)
        return [self.token_ids.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the name of an id, or those of several. Raises ``VocabularyError`` for an id without a name."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        if isinstance(ids, int):
            return self._name_of(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._name_of(each) for each in one_row(ids) if each not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text that names of tokens stand for."""
        return b"".join(self._bytes_of_name(name) for name in tokens).decode("utf-8", "replace")

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every name, added tokens included."""
        return dict(self.token_ids)

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every name."""
        return self.get_vocab()

    @property
    def vocab_size(self) -> int:
        """The number of names of the BPE, without added tokens that it doesn't have; ``len(tokenizer)`` has all."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=False))

    @property
    def added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]:
        """The added tokens of the tokenizer file, by id."""
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the added tokens of the tokenizer file, by name."""
        return {token.content: token_id for token_id, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the added tokens of the tokenizer file, by name."""
        return self.added_tokens_encoder

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call returns."""
        return ["input_ids", "attention_mask"]

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """A tokenizer of the ``tokenizers`` library that matches special tokens in a text, made when first used."""
        if self._backend is None:
            backend = self._make_backend()
            backend.encode_special_tokens = False
            around = self._post_processor()
            if around is not None:
                backend.post_processor = around
            self._backend = backend
        return self._backend

    @property
    def init_kwargs(self) -> Mapping[str, Any]:
        """What the tokenizer is set to, under the names of ``transformers``; each is an attribute that may be set."""
        settings = {name: getattr(self, name) for name in (*TokenizerSettings.__struct_fields__, "name_or_path")}
        return MappingProxyType({**self.special_tokens_map, **settings})

    @property
    def decoder(self) -> Any:
        """What turns names of tokens into text, of the ``tokenizers`` library."""
        return self.backend_tokenizer.decoder

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many ids are put around a text, or a pair of texts."""
        return int(self.backend_tokenizer.num_special_tokens_to_add(pair))

    def get_special_tokens_mask(
        self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return for each id of a row whether it is special (1) or not (0).

        Raises ``ConfigError`` for ids without special tokens, which have none to find.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise ConfigError(
                "pass one row of ids with its special tokens, and already_has_special_tokens=True; a call with "
                "return_special_tokens_mask=True makes the mask of texts."
            )
        special = set(self.all_special_ids)
        return [int(each in special) for each in one_row(token_ids_0)]

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Any = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> TokenizerBatch:
        """Pad rows of ids, or one, to one length, as in ``transformers``; ``labels`` must be padded by their owner.

        ``encoded_inputs`` is a mapping of columns, or a list of mappings, each with ``input_ids``. Masks are padded
        too. Raises ``ConfigError`` for anything else.
        """
        if isinstance(encoded_inputs, (list, tuple)) and encoded_inputs and isinstance(encoded_inputs[0], Mapping):
            encoded_inputs = {name: [each[name] for each in encoded_inputs] for name in encoded_inputs[0]}
        if not isinstance(encoded_inputs, Mapping) or "input_ids" not in encoded_inputs:
            raise ConfigError("pad takes a mapping with 'input_ids', or a list of such mappings.")
        options = text_arguments(
            {
                "padding": padding,
                "max_length": max_length,
                "pad_to_multiple_of": pad_to_multiple_of,
                "padding_side": padding_side,
                "return_attention_mask": return_attention_mask,
                "return_tensors": return_tensors,
            },
            caller="pad",
        )
        columns = {name: _plain(column) for name, column in encoded_inputs.items()}
        kinds = _kinds(encoded_inputs["input_ids"])
        one = not columns["input_ids"] or not isinstance(columns["input_ids"][0], list)
        columns = {name: [column] for name, column in columns.items()} if one else columns
        padded = _padded(columns, options, self)
        padded = {name: column[0] for name, column in padded.items()} if one else padded
        kind = options.return_tensors or next(iter(kinds), None)
        return TokenizerBatch({name: tensors_of(name, column, kind) for name, column in padded.items()})

    def batch_of_ids(self, columns: Mapping[str, Any], *, several: bool, **arguments: Any) -> TokenizerBatch:
        """Return rows of ``input_ids``, and of what else each id has, as a call returns them: cut, padded, with masks.

        Raises ``ConfigError`` for columns that only a text has.
        """
        options = text_arguments(arguments, caller="the tokenizer")
        for name in _OF_TEXT:
            if getattr(options, name) not in (False, None, 0):
                raise ConfigError(
                    f"{name} is of a text, and these ids have special tokens between their texts. Leave it out."
                )
        if arguments.get("add_special_tokens"):
            raise ConfigError("add_special_tokens=True has no effect: the format begins with <s>. Leave it out.")
        cut_to, _, _ = options.lengths(self.model_max_length)
        columns = {name: [list(row) for row in rows] for name, rows in columns.items()}
        for name in ("special_tokens_mask", "token_type_ids"):
            if getattr(options, f"return_{name}"):
                columns[name] = [[0] * len(row) for row in columns["input_ids"]]
        if cut_to is not None:
            kept = slice(-cut_to, None) if self._cuts_left(options) else slice(cut_to)
            columns = {name: [row[kept] for row in rows] for name, rows in columns.items()}
        columns = _padded(columns, options, self)
        if options.return_length:
            columns["length"] = [len(row) for row in columns["input_ids"]]
        if not several and options.return_tensors is None:
            return TokenizerBatch({name: column[0] for name, column in columns.items()})
        return TokenizerBatch({name: tensors_of(name, each, options.return_tensors) for name, each in columns.items()})

    def _cuts_left(self, options: TextArguments) -> bool:
        return (options.truncation_side or self._settings.truncation_side) == "left"

    def _encodings(self, rows: list[Any], pairs: list[Any] | None, options: TextArguments) -> list[Any]:
        """Return the library's encodings of texts, cut and padded."""
        cut_to, pad_to, pads = options.lengths(self.model_max_length)
        split = options.split_special_tokens
        inputs = rows if pairs is None else list(zip(rows, pairs, strict=True))
        with self._lock, library("texts can't be encoded", error=EncodingError):
            backend = self.backend_tokenizer
            backend.encode_special_tokens = self._settings.split_special_tokens if split is None else split
            backend.no_truncation()
            backend.no_padding()
            if cut_to is not None:
                strategy = options.truncation if isinstance(options.truncation, str) else "longest_first"
                side = options.truncation_side or self._settings.truncation_side
                backend.enable_truncation(cut_to, stride=options.stride, strategy=strategy, direction=side)
            if pads:
                backend.enable_padding(
                    direction=options.padding_side or self._settings.padding_side,
                    pad_id=self.pad_token_id,
                    pad_token=self.pad_token,
                    length=pad_to,
                    pad_to_multiple_of=options.pad_to_multiple_of,
                )
            return list(
                backend.encode_batch(
                    inputs, is_pretokenized=options.is_split_into_words, add_special_tokens=options.add_special_tokens
                )
            )

    def _name_of(self, token_id: int) -> str:
        try:
            return self.names[one_id(token_id)]
        except KeyError:
            raise VocabularyError(f"id {token_id} has no name in this vocabulary.") from None


def _columns(encodings: Sequence[Any], options: TextArguments) -> dict[str, Any]:
    columns: dict[str, Any] = {"input_ids": [each.ids for each in encodings]}
    if options.return_attention_mask is not False:
        columns["attention_mask"] = [each.attention_mask for each in encodings]
    if options.return_token_type_ids:
        columns["token_type_ids"] = [each.type_ids for each in encodings]
    if options.return_special_tokens_mask:
        columns["special_tokens_mask"] = [each.special_tokens_mask for each in encodings]
    if options.return_offsets_mapping:
        columns["offset_mapping"] = [each.offsets for each in encodings]
    if options.return_length:
        columns["length"] = [len(each.ids) for each in encodings]
    return columns


def _with_overflow(batch: TokenizerBatch, encodings: Sequence[Any], options: TextArguments) -> TokenizerBatch:
    """Return a batch in which what was cut off has rows of its own."""
    every = [(row, part) for row, each in enumerate(encodings) for part in (each, *each.overflowing)]
    columns = _columns([part for _, part in every], options)
    columns["overflow_to_sample_mapping"] = [row for row, _ in every]
    return TokenizerBatch(columns, [part for _, part in every])


def _check_texts(texts: Sequence[Any], name: str, *, words: bool) -> None:
    for text in texts:
        parts = text if words and isinstance(text, (list, tuple)) else [text]
        for part in parts:
            if not isinstance(part, str):
                expected = "a list of words each" if words else "a str or a list of them"
                raise ConfigError(f"{name} has a {type(part).__name__}, expected {expected}.")
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise EncodingError(f"{name} has half of a surrogate pair, which is not a character.") from error


def _plain(column: Any) -> Any:
    if hasattr(column, "tolist"):
        return column.tolist()
    return [_plain(each) for each in column] if isinstance(column, (list, tuple)) else column


def _kinds(column: Any) -> list[TensorKind]:
    """Return the kind of tensor that a column is, or that its first row is; nothing for lists."""
    if not hasattr(column, "tolist"):
        column = column[0] if len(column) else None
    return [] if not hasattr(column, "tolist") else ["pt" if hasattr(column, "layout") else "np"]


def _padded(columns: Mapping[str, list[Any]], options: TextArguments, tokenizer: SpecialTokens) -> dict[str, Any]:
    """Return rows of one length, with their masks."""
    rows = columns["input_ids"]
    _, pad_to, pads = options.lengths(tokenizer.model_max_length)
    lengths = [len(row) for row in rows]
    columns = dict(columns)
    if options.return_attention_mask is not False:
        columns.setdefault("attention_mask", [[1] * length for length in lengths])
    if not pads:
        return columns
    multiple = options.pad_to_multiple_of or 1
    longest = max([pad_to or 0, *(lengths if pad_to is None else ())])
    target = -(-longest // multiple) * multiple
    fillers = {"input_ids": tokenizer.pad_token_id, "special_tokens_mask": 1}
    left = (options.padding_side or tokenizer.padding_side) == "left"
    padded = {}
    for name, column in columns.items():
        padded[name] = column
        if name in _PER_ID:
            filler = [fillers.get(name, 0)]
            missing = [filler * max(0, target - len(row)) for row in column]
            padded[name] = [more + row if left else row + more for row, more in zip(column, missing, strict=True)]
    return padded
