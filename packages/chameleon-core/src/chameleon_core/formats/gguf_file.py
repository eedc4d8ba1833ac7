"""GGUF files: their metadata, and their tensors, memory-mapped.

The header is read here, because the reader of the package ``gguf`` trusts the counts of a file: of a damaged one it
never ends. Here each count is held against what is left of the file before anything is made of it. The package has the
writer, the sizes of the types and what dequantizes them.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._files import check_is_file, reading
from ..errors import FileFormatError
from ..optional_packages import gguf_package
from .contract import StoredTensor

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The ``struct`` codes of the types of values; 8 is text, 9 a list."""
_TEXT, _LIST = 8, 9
_ALIGNMENT = "general.alignment"
_MAX_DIMS = 4
_MAX_ENTRIES = 2**24
"""The most entries of a list: 256 times the tokens of the published models."""
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_INTEGERS = ("I8", "I16", "I32", "I64")
_ROWS_AT_ONCE = 2**22
"""Values that are dequantized together, so that the package's intermediate results stay small."""
_AGAIN = "It was probably truncated by an interrupted download or copy; download it again."


@dataclass(slots=True)
class GGUFTensor:
    """A tensor in a file, by what its header says."""

    shape: tuple[int, ...]
    """Its shape, the rows first, as in torch."""
    kind: Any
    """Its type, a ``gguf.GGMLQuantizationType``."""
    offset: int
    """Where its data begins in the file."""
    num_bytes: int
    """The size of its data."""


@dataclass(slots=True)
class GGUFFile:
    """What a file holds."""

    path: Path
    """The path of the file."""
    content: mmap.mmap
    """The mapped file."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Its values by key: numbers, texts, truth values and lists of them."""
    tensors: dict[str, GGUFTensor] = field(default_factory=dict)
    """Its tensors by name."""

    def stored(self, name: str, *, dtype: torch.dtype) -> StoredTensor:
        """Return a tensor as it is stored, or of ``dtype`` where it is quantized: dequantized when it is loaded.

        Raises ``FileFormatError`` where its type is one of integers, which no weight is.
        """
        tensor = self.tensors[name]
        kind = tensor.kind.name
        if kind in _INTEGERS:
            raise FileFormatError(f"{self.path}: {name} has the type {kind}; expected floats, or a quantized type.")
        if kind in _FLOATS:
            return StoredTensor(tensor.shape, _FLOATS[kind], partial(_view, self, tensor))
        return StoredTensor(tensor.shape, dtype, partial(_dequantized, self, name, dtype))


def is_float(tensor: GGUFTensor) -> bool:
    """Return whether a tensor is stored in a floating type, not quantized."""
    return tensor.kind.name in _FLOATS


def open_gguf(path: Path) -> GGUFFile:
    """Read the header of a file and map the rest.

    Raises ``MissingPackageError`` without the package ``gguf``, ``MissingFileError``, ``FileAccessError``, and
    ``FileFormatError`` where the file isn't GGUF of version 2 or 3, or states more than it holds.
    """
    package = gguf_package()
    check_is_file(path)
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < len(MAGIC):
            raise FileFormatError(f"{path} has {size} bytes, too few for a GGUF file. {_AGAIN}")
        # A private mapping: torch wants memory that can be written to, and writes never reach the file.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    reader = _Reader(path, content)
    found = GGUFFile(path, content)
    _check_version(reader)
    num_tensors, num_values = reader.number("Q"), reader.number("Q")
    for _ in range(reader.bounded(num_values, 8 + 4 + 1, "values")):
        key = reader.text()
        if key in found.metadata:
            reader.fail(f"it has two values {key!r:.80}")
        found.metadata[key] = reader.value()
    headers: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(reader.bounded(num_tensors, 8 + 4 + 8 + 4 + 8, "tensors")):
        name = reader.text()
        if name in headers:
            reader.fail(f"it has two tensors {name!r:.80}")
        headers[name] = (reader.shape(name), reader.number("I"), reader.number("Q"))
    alignment = found.metadata.get(_ALIGNMENT, package.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment not in {2**power for power in range(3, 17)}:
        reader.fail(f"{_ALIGNMENT} is {alignment!r:.80}, expected a power of two, at least 8")
    start = -(-reader.place // alignment) * alignment
    for name, (shape, number, offset) in headers.items():
        found.tensors[name] = _checked(reader, name, shape, number, start + offset, alignment)
    return found


def _check_version(reader: _Reader) -> None:
    """Raise ``FileFormatError`` where a file isn't GGUF of a known version, in the byte order of this format."""
    path = reader.path
    magic = reader.take(len(MAGIC))
    if magic != MAGIC:
        raise FileFormatError(f"{path} begins with {magic!r}, expected {MAGIC!r}: it isn't a GGUF file.")
    version = reader.number("I")
    if version & 0xFFFF == 0:
        raise FileFormatError(
            f"{path} is a GGUF file in big-endian order, which isn't read. Take, or convert, a little-endian one."
        )
    if version not in _VERSIONS:
        raise FileFormatError(
            f"{path} is GGUF of version {version}; expected {' or '.join(map(str, _VERSIONS))}. Convert it again with "
            "a current llama.cpp."
        )


def _checked(reader: _Reader, name: str, shape: tuple[int, ...], number: int, begin: int, alignment: int) -> GGUFTensor:
    package = gguf_package()
    try:
        kind = package.GGMLQuantizationType(number)
        block, num_bytes = package.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        reader.fail(f"the tensor {name!r:.80} has the type {number}, which the installed package gguf doesn't know")
    size = prod(shape) // block * num_bytes
    if shape[-1] % block:
        reader.fail(f"rows of {name!r:.80} have {shape[-1]:,} values, no multiple of the {block} of {kind.name}")
    if begin % alignment or begin + size > len(reader.content):
        reader.fail(
            f"the tensor {name!r:.80}, {kind.name} {list(shape)}, should be the {size:,} bytes at {begin:,}, and the "
            f"file has {len(reader.content):,}"
        )
    return GGUFTensor(shape, kind, begin, size)


class _Reader:
    """Reads the header of a file from its beginning on, and nothing beyond its end."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.place = 0

    def fail(self, reason: str) -> NoReturn:
        raise FileFormatError(f"{self.path} is not a complete GGUF file: {reason}. {_AGAIN}")

    def take(self, size: int) -> bytes:
        if size > len(self.content) - self.place:
            self.fail(f"its header goes on beyond its end, {len(self.content):,} bytes")
        self.place += size
        return self.content[self.place - size : self.place]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def bounded(self, count: int, least: int, what: str) -> int:
        """Return a count of things of at least so many bytes, for which there is room in the file."""
        if count > (len(self.content) - self.place) // least:
            self.fail(f"it states {count:,} {what}, for which it has no room")
        return count

    def text(self) -> str:
        length = self.number("Q")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"the text before byte {self.place:,} isn't UTF-8")

    def value(self) -> Any:
        kind = self.number("I")
        if kind == _TEXT:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _LIST:
            self.fail(f"a value has the type {kind}, which GGUF doesn't have")
        return self.entries()

    def entries(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind not in _SCALARS and kind != _TEXT:
            self.fail(f"a list has entries of the type {kind}; expected numbers or texts")
        code = _SCALARS.get(kind)
        least = 8 if code is None else struct.calcsize(f"<{code}")
        if self.bounded(count, least, "entries") > _MAX_ENTRIES:
            self.fail(f"a list has {count:,} entries; at most {_MAX_ENTRIES:,} are read")
        if code is None:
            return [self.text() for _ in range(count)]
        return list(struct.unpack(f"<{count}{code}", self.take(least * count)))

    def shape(self, name: str) -> tuple[int, ...]:
        count = self.number("I")
        if not 1 <= count <= _MAX_DIMS:
            self.fail(f"the tensor {name!r:.80} has {count:,} axes; expected 1 to {_MAX_DIMS}")
        sizes = struct.unpack(f"<{count}Q", self.take(8 * count))
        if not all(sizes) or prod(sizes) >= 2**62:
            self.fail(f"the tensor {name!r:.80} has the impossible shape {list(sizes)[::-1]!s:.120}")
        return tuple(reversed(sizes))


def _view(file: GGUFFile, tensor: GGUFTensor) -> Tensor:
    dtype = _FLOATS[tensor.kind.name]
    flat = torch.frombuffer(file.content, dtype=dtype, count=prod(tensor.shape), offset=tensor.offset)
    return flat.view(tensor.shape)


def _dequantized(file: GGUFFile, name: str, dtype: torch.dtype) -> Tensor:
    package = gguf_package()
    tensor = file.tensors[name]
    width = tensor.shape[-1]
    rows = prod(tensor.shape[:-1])
    raw = torch.frombuffer(file.content, dtype=torch.uint8, count=tensor.num_bytes, offset=tensor.offset)
    blocks = raw.view(rows, -1).numpy()
    values = torch.empty(rows, width, dtype=dtype)
    step = max(1, _ROWS_AT_ONCE // width)
    for first in range(0, rows, step):
        try:
            part = package.dequantize(blocks[first : first + step], tensor.kind)
        except NotImplementedError as error:
            raise FileFormatError(
                f"{file.path}: {name} has the type {tensor.kind.name}, which the package gguf doesn't dequantize. Take "
                "a file of another type, such as Q8_0."
            ) from error
        values[first : first + step] = torch.from_numpy(part)
    return values.view(tensor.shape)
