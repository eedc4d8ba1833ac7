"""Safetensors files: memory-mapped reading, writing, and how tensors are split into shards."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._files import writing
from .._moved import moved_names
from ..errors import ConfigError, FileFormatError
from .contract import IMAGE_DECODER_PREFIX, StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_LARGEST_SIZE = 2**63 - 1
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})")


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file, in the order of their data.

    A loaded tensor is a view of the memory-mapped file. It takes no memory until it is written to (writes never reach
    the file), and stays valid when the file is deleted. Raises ``FileFormatError`` where the header doesn't match the
    file or a tensor has an unknown type.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: _stored(file, name, path) for name in file.offset_keys()}
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} ({path.stat().st_size} bytes) is not a complete safetensors file: {error}. "
            "It was probably truncated by an interrupted download or copy; download it again."
        ) from error


def write_safetensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a file, loading a tensor or a piece of one at a time; what is in memory already isn't copied.

    Raises ``FileAccessError`` where the system doesn't let it be written.
    """
    types = {dtype: name for name, dtype in _DTYPES.items()}
    # The widest types first keep every tensor aligned, as the format wants.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    # transformers refuses files without this entry.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        stored = tensors[name]
        if stored.dtype not in types:
            raise ConfigError(f"{name} is {stored.dtype}, which safetensors doesn't store. Convert it first.")
        begin, end = end, end + stored.num_bytes
        kind = {"dtype": types[stored.dtype], "shape": list(stored.shape)}
        header[name] = {**kind, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with writing(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for piece in tensors[name].in_pieces():
                whole = piece.contiguous()
                file.write(bytes_of(whole))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, which has to live as long as they do, without a copy of them."""
    if not tensor.nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr()))


def split_into_shards(tensors: Mapping[str, StoredTensor], max_shard_size: int) -> list[dict[str, StoredTensor]]:
    """Split tensors, in order, into shards of at most ``max_shard_size`` bytes unless a single tensor is larger.

    The decoder of the image tokenizer begins a shard of its own, because other readers don't need it.
    """
    decoder = {name for name in tensors if name.startswith(IMAGE_DECODER_PREFIX)}
    return [
        *_fill((name for name in tensors if name not in decoder), tensors, max_shard_size),
        *_fill((name for name in tensors if name in decoder), tensors, max_shard_size),
    ]


def parse_size(size: int | str) -> int:
    """Return a number of bytes, given as such or as a text like "5GB" (10⁹ bytes each) or "500MiB" (2²⁰ bytes each).

    Raises ``ConfigError`` for anything else, and for numbers below 1.
    """
    match = _SIZE.fullmatch(str(size).strip().upper())
    number = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if number < 1:
        raise ConfigError(
            f"max_shard_size must be a number of bytes ≥ 1 or a text like '5GB' or '500MiB'; got {size!r}."
        )
    return number


def _fill(
    names: Iterable[str], tensors: Mapping[str, StoredTensor], max_shard_size: int
) -> list[dict[str, StoredTensor]]:
    shards: list[dict[str, StoredTensor]] = []
    room = 0
    for name in names:
        size = tensors[name].num_bytes
        if not shards or size > room:
            shards.append({})
            room = max_shard_size
        shards[-1][name] = tensors[name]
        room -= size
    return shards


def _stored(file: Any, name: str, path: Path) -> StoredTensor:
    view = file.get_slice(name)
    dtype = _DTYPES.get(view.get_dtype())
    if dtype is None:
        raise FileFormatError(f"{path}: {name} has the type {view.get_dtype()}; expected one of {', '.join(_DTYPES)}.")

    shape = tuple(view.get_shape())
    if max(shape, default=0) > _LARGEST_SIZE:  # beside a size of 0 a file holds any other
        raise FileFormatError(f"{path}: {name} has the shape {list(shape)}, with a size that no tensor has.")

    def load() -> Tensor:
        tensor: Tensor = file.get_tensor(name)
        # Without padding of the header tensors are misaligned, which kernels may not support.
        return tensor.clone() if tensor.data_ptr() % dtype.itemsize else tensor

    return StoredTensor(shape, dtype, load)


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "deal_out": "chameleon_core.formats.safetensors_files:split_into_shards",
        },
    )
