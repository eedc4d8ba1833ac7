"""Mutations of safetensors files: lies in the header, odd numbers in the data, and what is inside tensors.

A file is the header's length (uint64), the header (JSON: name → dtype, shape, data_offsets; and ``__metadata__``),
the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from ..engine import Files, Mutate
from .bytes_ import change_bytes
from .json_ import change_json

DTYPES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "C64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F4": 1,
    "F6_E2M3": 1,
    "f32": 4,
    "": 1,
    "U128": 16,
}
ODD_FLOATS = tuple(
    struct.pack("<f", value) for value in (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, -0.0, 1e9)
)


def mutate_safetensors(name: str, *, json_tensors: Sequence[str] = (), json_metadata: Sequence[str] = ()) -> Mutate:
    """Break one safetensors file. Tensors and metadata named here hold JSON, which is broken as JSON, too."""

    def mutate(random: Random, files: Files) -> list[str]:
        kinds: list[Callable[..., str]] = [
            _header,
            _header,
            _dtype,
            _shape,
            _offsets,
            _length,
            _number,
            _number,
            _names,
        ]
        kinds += [_nested_tensor] * 6 * bool(json_tensors) + [_nested_metadata] * 6 * bool(json_metadata)
        if random.random() < 0.15:
            files[name], note = change_bytes(random, files[name])
            return [f"{name}: {note}"]
        file = _File(files[name])
        notes = []
        for _ in range(random.choices((1, 2), (80, 20))[0]):
            nested = json_tensors if (kind := random.choice(kinds)) is _nested_tensor else json_metadata
            notes.append(f"{name}: {kind(random, file, nested)}")
        files[name] = file.to_bytes()
        return notes

    return mutate


class _File:
    def __init__(self, data: bytes) -> None:
        (length,) = struct.unpack("<Q", data[:8])
        self.header: dict[str, Any] = json.loads(data[8 : 8 + length])
        self.data = data[8 + length :]
        self.raw_header: bytes | None = None
        self.stated_length: int | None = None

    @property
    def tensors(self) -> list[str]:
        return [name for name in self.header if name != "__metadata__"]

    def pick(self, random: Random) -> tuple[str, dict[str, Any]]:
        name = random.choice(self.tensors or ["empty"])
        return name, self.header.setdefault(name, {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})

    def replace(self, name: str, data: bytes) -> None:
        """Other bytes for a tensor, consistently: it moves to the end, as a row of bytes."""
        start, end = self.header[name]["data_offsets"]
        self.data = self.data[:start] + self.data[end:] + data
        for entry in (self.header[each] for each in self.tensors):
            if entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [place - (end - start) for place in entry["data_offsets"]]
        total = len(self.data)
        self.header[name] = {**self.header[name], "shape": [len(data)], "data_offsets": [total - len(data), total]}

    def to_bytes(self) -> bytes:
        header = json.dumps(self.header).encode() if self.raw_header is None else self.raw_header
        header += b" " * (-len(header) % 8)
        length = len(header) if self.stated_length is None else self.stated_length
        return struct.pack("<Q", length % 2**64) + header + self.data


def _header(random: Random, file: _File, _: Sequence[str]) -> str:
    source = json.dumps(file.header).encode() if file.raw_header is None else file.raw_header
    try:
        file.raw_header, notes = change_json(random, source, tuple(DTYPES))
    except (ValueError, RecursionError):  # no JSON any more, by the change before
        file.raw_header, note = change_bytes(random, source)
        notes = [note]
    return f"header: {'; '.join(notes)}"


def _dtype(random: Random, file: _File, _: Sequence[str]) -> str:
    name, entry = file.pick(random)
    old, entry["dtype"] = entry["dtype"], random.choice(list(DTYPES))
    ratio = DTYPES[entry["dtype"]] / DTYPES.get(old, 1)
    if entry["shape"] and random.random() < 0.7:  # the same bytes
        entry["shape"] = [*entry["shape"][:-1], int(entry["shape"][-1] / ratio)]
    return f"{name} is {old} → {entry['dtype']} {entry['shape']}"


def _shape(random: Random, file: _File, _: Sequence[str]) -> str:
    name, entry = file.pick(random)
    shape = list(entry["shape"])
    kind = random.choice(("reversed", "flat", "deeper", "huge", "empty", "no axes", "many axes"))
    if kind == "reversed":
        shape = shape[::-1]
    elif kind == "flat":
        shape = [_size(shape)]
    elif kind == "deeper":
        shape.insert(random.randrange(len(shape) + 1), 1)
    elif kind == "huge":
        shape = random.choice(([2**40, 0], [2**63, 0], [2**32, 2**32], [0, 2**62], [*shape, 2**20]))
    elif kind == "empty":
        shape, entry["data_offsets"] = [0, *shape[1:]], [entry["data_offsets"][0]] * 2
    elif kind == "no axes":
        shape = []
    else:
        shape = [1] * random.choice((30, 64, 65, 1_000)) + shape
    entry["shape"] = shape
    return f"{name} has the shape {str(shape)[:60]} ({kind})"


def _size(shape: Sequence[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _offsets(random: Random, file: _File, _: Sequence[str]) -> str:
    name, entry = file.pick(random)
    start, end = entry["data_offsets"]
    entry["data_offsets"] = random.choice(
        (
            [end, start],
            [start, end + 4],
            [start + 1, end + 1],
            [0, len(file.data)],
            [start, 2**63],
            [2**64 - 4, 2**64],
            [start, start],
        )
    )
    return f"{name} lies at {entry['data_offsets']}, was {[start, end]}"


def _length(random: Random, file: _File, _: Sequence[str]) -> str:
    file.stated_length = random.choice((0, 1, 7, 8, -1, 2**63, 100_000_000, 100_000_001, 2**32, len(file.data)))
    return f"the header states a length of {file.stated_length}"


def _number(random: Random, file: _File, _: Sequence[str]) -> str:
    name, entry = file.pick(random)
    # What an earlier change says of the place may be no place.
    start, end = (min(max(place, 0), len(file.data)) for place in entry["data_offsets"])
    if end - start < 4:
        return _dtype(random, file, ())
    place = start + random.randrange((end - start) // 4) * 4
    odd = random.choice(ODD_FLOATS)
    times = random.choice((1, 1, (end - place) // 4))
    file.data = file.data[:place] + odd * times + file.data[place + 4 * times :]
    return f"{name} holds {struct.unpack('<f', odd)[0]} at byte {place - start}, {times} times"


def _names(random: Random, file: _File, _: Sequence[str]) -> str:
    name, entry = file.pick(random)
    kind = random.choice(("renamed", "removed", "many", "metadata"))
    if kind == "renamed":
        new = random.choice(
            ("", "\x00", "a" * 10_000, "../x", "__metadata__", name + ".weight", name.upper(), "é", "\ud800")
        )
        file.header[new] = file.header.pop(name)
        return f"{name} is called {new[:20]!r}"
    if kind == "removed":
        del file.header[name]
        return f"{name} isn't in the header"
    if kind == "many":
        where = [entry["data_offsets"][1]] * 2
        count = random.choice((100, 5_000))
        file.header |= {f"extra.{each}": {"dtype": "F32", "shape": [0], "data_offsets": where} for each in range(count)}
        return f"{count} more tensors of no size"
    file.header["__metadata__"] = random.choice(
        (None, {}, {"format": "tf"}, {"format": 1}, [], "pt", {"format": "x" * 10_000})
    )
    return f"__metadata__ is {str(file.header['__metadata__'])[:40]}"


def _nested_tensor(random: Random, file: _File, names: Sequence[str]) -> str:
    present = [name for name in names if name in file.header]
    if not present:
        return _header(random, file, ())
    name = random.choice(present)
    start, end = file.header[name]["data_offsets"]
    try:
        changed, notes = change_json(random, file.data[start:end])
    except (ValueError, RecursionError):
        changed, notes = b"", ["empty"]
    file.replace(name, changed)
    return f"{name} as JSON: {'; '.join(notes)}"


def _nested_metadata(random: Random, file: _File, names: Sequence[str]) -> str:
    metadata = file.header.get("__metadata__")
    present = [name for name in names if isinstance(metadata, dict) and isinstance(metadata.get(name), str)]
    if not present:
        return _header(random, file, ())
    name = random.choice(present)
    try:
        changed, notes = change_json(random, metadata[name].encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        changed, notes = b"", ["empty"]
    metadata[name] = changed.decode("utf-8", "replace")
    return f"the metadata's {name} as JSON: {'; '.join(notes)}"
