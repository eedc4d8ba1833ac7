"""Documents of token ids, in memory and on disk.

A dataset is a folder of shards, each a safetensors file that is written completely or not at all. It holds documents
to train on, or the codes of pictures, each encoded once by the image tokenizer and looked up by key when documents are
composed.

Shapes: T ids of a document, M ids of all documents of a shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch
from msgspec import Meta

from .._files import check_is_file, parse_json, read_json, replacing, write_json
from ..errors import FileFormatError
from .errors import DatasetError

META_FILE = "dataset.json"
JOB_FILE = "tokenization.json"
"""What a job of ``chameleon_core.tokenization`` writes first, as it writes ``META_FILE`` last."""
SHARD_NAME = "tokens-{:05d}.safetensors"
FORMAT = 1
MAX_VOCABULARY = 1 << 16
SHARD_SIZE = 1 << 24
"""Ids of a shard before the next one begins: 32 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenDocument:
    """The ids of one document, and which of them are targets of the loss.

    Raises ``DatasetError`` for arrays of other shapes or types.
    """

    key: str
    """Unique in a dataset."""
    ids: np.ndarray
    """Integers [T]; uint16 when read from disk."""
    trained: np.ndarray | None = None
    """bool [T], True for ids that are targets of the loss; None for all. The first id is never a target."""

    def __post_init__(self) -> None:
        for name, array in (("ids", self.ids), ("trained", self.trained)):
            if not isinstance(array, np.ndarray) and (name == "ids" or array is not None):
                raise DatasetError(
                    f"document {self.key!r}: {name} must be a NumPy array, got a {type(array).__name__}. "
                    "TokenDocument.of takes a list of ids."
                )
        if self.ids.ndim != 1 or not np.issubdtype(self.ids.dtype, np.integer):
            raise DatasetError(
                f"document {self.key!r}: ids must be integers [T], got {self.ids.dtype} {self.ids.shape}."
            )
        if self.trained is not None and (self.trained.shape != self.ids.shape or self.trained.dtype != np.bool_):
            raise DatasetError(
                f"document {self.key!r}: trained must be bool {self.ids.shape}, "
                f"got {self.trained.dtype} {self.trained.shape}."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, key: str, ids: Sequence[int]) -> TokenDocument:
        """Return a document of which all ids are targets."""
        return cls(key, _integers(key, ids))

    @classmethod
    def with_answer(cls, key: str, ids: Sequence[int], *, separator_id: int) -> TokenDocument:
        """Return a document of a prompt, the separator and an answer, of which only the answer's ids are targets.

        Raises ``DatasetError`` unless the separator occurs exactly once.
        """
        ids_T = _integers(key, ids)
        places = np.flatnonzero(ids_T == separator_id)
        if len(places) != 1:
            raise DatasetError(
                f"document {key!r} has {len(places)} separators (id {separator_id}), expected one between prompt and "
                "answer. For several turns, construct TokenDocument with a mask."
            )
        return cls(key, ids_T, np.arange(len(ids_T)) > places[0])


class TokenDataset(Sequence[TokenDocument]):
    """The documents of a folder, memory-mapped, in the order in which they were written.

    ``tokenizer_hash`` identifies what the ids mean; if it is given, it must be that of the folder. Raises
    ``FileFormatError`` for damaged files, ``DatasetError`` for the ids of another tokenizer.
    """

    def __init__(self, folder: str | os.PathLike[str], *, tokenizer_hash: str | None = None) -> None:
        self.folder = Path(folder)
        self.meta = _read_meta(self.folder)
        if tokenizer_hash is not None:
            _check_hash(self.folder, self.meta.tokenizer_hash, tokenizer_hash)
        self._shards = [_Shard(path, vocab_size=self.meta.vocab_size) for path in _shard_paths(self.folder)]
        self._ends = list(accumulate(len(shard) for shard in self._shards))

    def __repr__(self) -> str:
        return f"TokenDataset({str(self.folder)!r}, <{len(self)} documents, {self.num_tokens} ids>)"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> TokenDocument:  # type: ignore[override]  # no slices
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder} has {len(self)} documents; index {index} is out of range.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        return shard.document(index - self._ends[number] + len(shard))

    def suspects(self, *, vocab_size: int, min_length: int, max_length: int) -> Iterator[int]:
        """Yield the index of a document in each shard that has an id ≥ ``vocab_size``, and of each of another length.

        All ids are read once; nothing is made of documents that are fine.
        """
        first = 0
        for shard in self._shards:
            lengths = np.diff(shard.offsets)
            yield from (first + np.flatnonzero((lengths < min_length) | (lengths > max_length))).tolist()
            if vocab_size < MAX_VOCABULARY and len(shard.ids_M) and shard.ids_M.max() >= vocab_size:
                place = int(np.argmax(shard.ids_M >= vocab_size))
                yield first + int(np.searchsorted(shard.offsets, place, side="right")) - 1
            first += len(shard)

    def find(self, key: str) -> TokenDocument:
        """Return the document with this key. Raises ``KeyError``."""
        try:
            return self[self._index_of[key]]
        except KeyError:
            raise KeyError(f"{self.folder} has no document {key!r}.") from None

    def keys(self) -> Iterator[str]:
        """Yield the keys, in the order of the documents."""
        for shard in self._shards:
            yield from shard.keys

    @property
    def num_tokens(self) -> int:
        """The number of ids of all documents."""
        return sum(len(shard.ids_M) for shard in self._shards)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        index_of = {key: index for index, key in enumerate(self.keys())}
        if len(index_of) != len(self):
            raise FileFormatError(f"{self.folder} has documents of one key in several shards. Write the dataset again.")
        return index_of


class TokenDatasetWriter:
    """Writes documents into a folder, and continues where an earlier process stopped.

    Use it in a ``with`` block. Documents that were added after the last complete shard are lost if the process is
    killed; check ``key in writer`` before computing a document. A folder takes one writer at a time.

    Ids take two bytes each, so ``vocab_size`` is at most 65,536. ``tokenizer_hash`` is any text that changes with the
    meaning of the ids: ``ImageTokenizer.fingerprint`` for codes, the hash of ``tokenizer.json`` for ids.
    Raises ``DatasetError`` where the folder has the ids of another tokenizer.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, tokenizer_hash: str, vocab_size: int, shard_size: int = SHARD_SIZE
    ) -> None:
        if not 1 <= vocab_size <= MAX_VOCABULARY:
            raise DatasetError(f"ids are stored in two bytes: vocab_size must be 1…{MAX_VOCABULARY}; got {vocab_size}.")
        self.folder = Path(folder)
        self.vocab_size = vocab_size
        self.shard_size = shard_size
        if os.path.exists(self.folder / META_FILE):
            found = _read_meta(self.folder)
            _check_hash(self.folder, found.tokenizer_hash, tokenizer_hash)
            if found.vocab_size != vocab_size:
                raise DatasetError(
                    f"{self.folder} was written for a vocabulary of {found.vocab_size} ids, not {vocab_size}."
                )
        else:
            _check_complete(self.folder)
            write_meta(self.folder, tokenizer_hash=tokenizer_hash, vocab_size=vocab_size)
        paths = _shard_paths(self.folder)
        self._num_shards = len(paths)
        self._known = {key for path in paths for key in _Shard(path, vocab_size=vocab_size).keys}
        self._pending: list[TokenDocument] = []
        self._pending_size = 0

    def __repr__(self) -> str:
        return f"TokenDatasetWriter({str(self.folder)!r}, <{len(self)} documents>, vocab_size={self.vocab_size})"

    def __enter__(self) -> TokenDatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Documents that were added are complete, even if the block raised.
        self.flush()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, document: TokenDocument) -> None:
        """Add a document. Raises ``DatasetError`` for a key that exists or an id outside the vocabulary."""
        if document.key in self._known:
            raise DatasetError(f"{self.folder} already has a document {document.key!r}; check `key in writer` first.")
        check_ids(document, self.vocab_size)
        self._known.add(document.key)
        self._pending.append(document)
        self._pending_size += len(document)
        if self._pending_size >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write the documents that were added since the last shard as a shard of their own."""
        if not self._pending:
            return
        write_shard(self.folder, self._num_shards, self._pending)
        self._num_shards += 1
        self._pending = []
        self._pending_size = 0


def write_meta(folder: Path, *, tokenizer_hash: str, vocab_size: int) -> None:
    """Write what makes a folder of shards a dataset."""
    write_json(folder / META_FILE, {"format": FORMAT, "tokenizer_hash": tokenizer_hash, "vocab_size": vocab_size})


def write_shard(folder: Path, number: int, documents: Sequence[TokenDocument]) -> None:
    """Write documents as the shard of that number, counted from 0; what was there is replaced once it is whole."""
    tensors = {
        "ids": np.concatenate([np.empty(0, np.uint16), *(document.ids for document in documents)]).astype(np.uint16),
        "offsets": np.cumsum([0, *map(len, documents)], dtype=np.int64),
        "keys": np.frombuffer(json.dumps([document.key for document in documents]).encode(), dtype=np.uint8),
    }
    if any(document.trained is not None for document in documents):
        masks = (np.ones(len(each), dtype=np.bool_) if each.trained is None else each.trained for each in documents)
        tensors["trained"] = np.packbits(np.concatenate(list(masks)))
    with replacing(folder / SHARD_NAME.format(number)) as temporary:
        safetensors.torch.save_file({name: torch.tensor(array) for name, array in tensors.items()}, temporary)


def check_ids(document: TokenDocument, vocab_size: int) -> None:
    """Raise ``DatasetError`` where a document has an id outside the vocabulary."""
    if len(document) and not 0 <= document.ids.min() <= document.ids.max() < vocab_size:
        raise DatasetError(
            f"document {document.key!r} has ids from {document.ids.min()} to {document.ids.max()}; "
            f"expected 0…{vocab_size - 1}."
        )


def _integers(key: str, ids: Sequence[int]) -> np.ndarray:
    """Return ids as int64 [T]. Raises ``DatasetError`` where they aren't integers."""
    try:
        array = np.asarray(ids)
        if array.size == 0 or np.issubdtype(array.dtype, np.integer):
            return array.astype(np.int64)
        found = str(array.dtype)
    # Lists of different lengths, integers beyond 64 bits, tensors on other devices.
    except (ValueError, TypeError, OverflowError) as error:
        found = str(error)
    raise DatasetError(f"document {key!r}: ids must be integers [T]; got {found}.")


class _Meta(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    tokenizer_hash: str
    vocab_size: Annotated[int, Meta(ge=1, le=MAX_VOCABULARY)]


_SHARD_TYPES = {"ids": "U16", "offsets": "I64", "keys": "U8", "trained": "U8"}


class _Shard:
    """One file: ids uint16 [M], offsets int64 [documents + 1], keys as JSON, and a target bit per id if some aren't."""

    def __init__(self, path: Path, *, vocab_size: int) -> None:
        self.path = path
        self.vocab_size = vocab_size
        check_is_file(path)
        try:
            # The reader for torch maps the file into memory; the one for numpy copies it.
            with safetensors.safe_open(path, framework="pt") as file:
                names = file.keys()
                found = {name: file.get_slice(name) for name in names}
                types = {name: view.get_dtype() for name, view in found.items() if len(view.get_shape()) == 1}
                if types != {name: _SHARD_TYPES[name] for name in ("ids", "offsets", "keys", *names)}:
                    listed = ", ".join(f"{name} {view.get_dtype()} {view.get_shape()}" for name, view in found.items())
                    raise ValueError(f"it holds {listed:.300}")
                arrays = {name: file.get_tensor(name).numpy() for name in names}
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            reason = f"it has a tensor {error}" if isinstance(error, KeyError) else error
            raise FileFormatError(
                f"{path} is not a shard of token ids: {reason}. Remove it and write it again."
            ) from error
        self.ids_M = arrays["ids"]
        self.offsets = arrays["offsets"]
        self.keys = _keys(arrays["keys"].tobytes(), path)
        self.trained_bits = arrays.get("trained")
        self.ids_M.flags.writeable = False
        consistent = (
            len(self.offsets) == len(self.keys) + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.ids_M)
            and bool((np.diff(self.offsets) >= 0).all())
            and (self.trained_bits is None or len(self.trained_bits) == -(-len(self.ids_M) // 8))
        )
        if not consistent:
            raise FileFormatError(
                f"{path}: {len(self.ids_M)} ids, {len(self.keys)} keys and {len(self.offsets)} offsets are "
                "inconsistent. Remove it and write it again."
            )

    def __len__(self) -> int:
        return len(self.keys)

    def document(self, index: int) -> TokenDocument:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        # Here and not for the whole file, which stays unread on disk until its documents are taken.
        if end > start and self.ids_M[start:end].max() >= self.vocab_size:
            raise FileFormatError(
                f"{self.path}: document {self.keys[index]!r} has the id {self.ids_M[start:end].max()}, expected ids "
                f"below the vocab_size {self.vocab_size} of {META_FILE}. Write the dataset again."
            )
        trained_T = None
        if self.trained_bits is not None:
            bits = np.unpackbits(self.trained_bits[start // 8 : -(-end // 8)])
            trained_T = bits[start % 8 : start % 8 + end - start].astype(np.bool_)
        return TokenDocument(self.keys[index], self.ids_M[start:end], trained_T)


def _keys(data: bytes, path: Path) -> list[str]:
    """Return the keys of a shard's documents. Raises ``FileFormatError`` where they aren't different texts."""
    keys = parse_json(data, f"{path}: the list of keys")
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise FileFormatError(f"{path}: the keys aren't a list of different texts. Remove it and write it again.")
    return keys


def _check_complete(folder: Path) -> None:
    """Raise ``DatasetError`` where a folder has the shards of a job that was stopped and hasn't been resumed."""
    if os.path.exists(folder / JOB_FILE) and not os.path.exists(folder / META_FILE):
        raise DatasetError(
            f"{folder} isn't complete: the job that tokenizes into it was stopped. Start it again with the same "
            "sources and options; it does what is left."
        )


def _read_meta(folder: Path) -> _Meta:
    _check_complete(folder)
    path = folder / META_FILE
    try:
        meta = msgspec.convert(read_json(path), _Meta)
    except msgspec.ValidationError as error:
        raise FileFormatError(
            f"{path} doesn't describe a dataset of token ids: {error}. Write the dataset again."
        ) from error
    if meta.format != FORMAT:
        raise FileFormatError(f"{path} has format {meta.format}; this version reads {FORMAT}. Write the dataset again.")
    return meta


def _check_hash(folder: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DatasetError(
            f"{folder} holds ids of the tokenizer {found!r}, expected {expected!r}. "
            "Encode the documents again, into another folder."
        )


def _shard_paths(folder: Path) -> list[Path]:
    """Return the shards, which are numbered from 0. Raises ``FileFormatError`` where one is missing."""
    # Beyond 99,999 their numbers have more digits.
    paths = sorted(folder.glob("tokens-*.safetensors"), key=lambda path: (len(path.name), path.name))
    for number, path in enumerate(paths):
        if path.name != SHARD_NAME.format(number):
            raise FileFormatError(
                f"{folder} lacks {SHARD_NAME.format(number)}, but has {path.name}. Restore the missing file."
            )
    return paths
