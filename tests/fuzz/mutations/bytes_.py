"""Mutations that know nothing of a format: bytes are flipped, inserted, removed, repeated, cut off and mixed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ..engine import Files, Mutate

ODD_BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7)


def mutate_bytes(name: str) -> Mutate:
    """Break one file's bytes, once or a few times."""

    def mutate(random: Random, files: Files) -> list[str]:
        notes = []
        for _ in range(how_many(random)):
            files[name], note = change_bytes(random, files[name])
            notes.append(f"{name}: {note}")
        return notes

    return mutate


def how_many(random: Random) -> int:
    """The number of changes: mostly one, which says most clearly what an error comes from."""
    return random.choices((1, 2, 3, 8), (70, 15, 10, 5))[0]


def change_bytes(random: Random, data: bytes) -> tuple[bytes, str]:
    """The bytes with one change, and what it was."""
    return random.choice(_CHANGES)(random, data)


def _flip(random: Random, data: bytes) -> tuple[bytes, str]:
    if not data:
        return _insert(random, data)
    place, bit = random.randrange(len(data)), random.randrange(8)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :], f"bit {bit} of byte {place} flipped"


def _overwrite(random: Random, data: bytes) -> tuple[bytes, str]:
    place, odd = random.randrange(len(data) + 1), random.choice(ODD_BYTES)
    return data[:place] + odd + data[place + len(odd) :], f"{odd!r} written at byte {place}"


def _insert(random: Random, data: bytes) -> tuple[bytes, str]:
    place, odd = random.randrange(len(data) + 1), random.choice((*ODD_BYTES, random.randbytes(random.randint(1, 16))))
    return data[:place] + odd + data[place:], f"{odd!r} inserted at byte {place}"


def _delete(random: Random, data: bytes) -> tuple[bytes, str]:
    start, end = _span(random, data)
    return data[:start] + data[end:], f"bytes {start}:{end} removed"


def _repeat(random: Random, data: bytes) -> tuple[bytes, str]:
    start, end = _span(random, data)
    times = random.choice((1, 2, 50))
    return data[:end] + data[start:end] * times + data[end:], f"bytes {start}:{end} repeated {times} times"


def _cut_off(random: Random, data: bytes) -> tuple[bytes, str]:
    end = random.choice((0, 1, 7, 8, random.randrange(len(data) + 1), max(0, len(data) - random.randint(1, 9))))
    return data[:end], f"cut off after {min(end, len(data))} bytes"


def _append(random: Random, data: bytes) -> tuple[bytes, str]:
    odd = random.choice((*ODD_BYTES, b"}", b"\n", b"{}", b"\x00" * 4096))
    return data + odd, f"{odd[:16]!r} appended ({len(odd)} bytes)"


def _mix(random: Random, data: bytes) -> tuple[bytes, str]:
    """A piece from one place over another place."""
    start, end = _span(random, data)
    place = random.randrange(len(data) + 1)
    return data[:place] + data[start:end] + data[place + end - start :], f"bytes {start}:{end} copied over byte {place}"


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 64, 1024)))


_CHANGES: tuple[Callable[[Random, bytes], tuple[bytes, str]], ...] = (
    _flip,
    _flip,
    _overwrite,
    _insert,
    _delete,
    _repeat,
    _cut_off,
    _append,
    _mix,
)
