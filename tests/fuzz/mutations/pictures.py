"""Mutations of picture files of every kind that Pillow writes: bytes, PNG chunks, metadata, sizes that aren't true."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from ..engine import Files, Mutate
from .bytes_ import change_bytes, how_many

PNG = b"\x89PNG\r\n\x1a\n"
ODD_SIZES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65_535, 20_000, 100_000, 1_000_000)
KINDS = (
    *(b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST", b"tRNS"),
    *(b"pHYs", b"sPLT", b"tIME", b"acTL", b"fcTL", b"fdAT", b"PLTE", b"IDAT", b"IEND", b"xxXx", b"\xff\xff\xff\xff"),
)
EXIF = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"


def mutate_picture(name: str, seeds: Callable[[], dict[str, bytes]]) -> Mutate:
    """Break a picture that is chosen among ``seeds``, by their kind."""

    def mutate(random: Random, files: Files) -> list[str]:
        kind = random.choice(sorted(seeds()))
        data = seeds()[kind]
        notes = [kind]
        for _ in range(how_many(random)):
            if data.startswith(PNG) and random.random() < 0.7:
                data, note = _change_png(random, data)
            elif random.random() < 0.15:
                data, note = _odd_size(random, data)
            else:
                data, note = change_bytes(random, data)
            notes.append(note)
        files[name] = data
        return [f"{name}: {'; '.join(notes)}"]

    return mutate


def _change_png(random: Random, data: bytes) -> tuple[bytes, str]:
    """A change of chunks whose checksums stay right, so that a reader goes on to what they hold."""
    chunks = _chunks(data)
    if not chunks:
        return change_bytes(random, data)
    place = random.randrange(len(chunks))
    kind, body = chunks[place]
    change = random.choice(("header", "body", "new", "new", "removed", "repeated", "swapped"))
    if change == "header":
        index = next((index for index, (each, _) in enumerate(chunks) if each == b"IHDR"), place)
        body = bytearray(chunks[index][1].ljust(13, b"\0"))
        if random.random() < 0.5:
            field = random.choice((0, 4))
            body[field : field + 4] = struct.pack(">I", random.choice(ODD_SIZES))
        else:
            body[random.randrange(8, 13)] = random.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 32, 255))
        chunks[index] = (chunks[index][0], bytes(body))
        return _png(chunks), f"IHDR is {bytes(body).hex()}"
    if change == "body":
        chunks[place] = (kind, changed := change_bytes(random, body)[0])
        return _png(chunks), f"{kind!r} holds {changed[:16]!r}"
    if change == "removed":
        del chunks[place]
    elif change == "repeated":
        chunks.insert(place, chunks[place])
    elif change == "swapped":
        other = random.randrange(len(chunks))
        chunks[place], chunks[other] = chunks[other], chunks[place]
    else:
        kind = random.choice(KINDS)
        body = random.choice(_BODIES)
        chunks.insert(random.randrange(1, len(chunks) + 1), (kind, body))
        return _png(chunks), f"a chunk {kind!r} with {body[:16]!r} ({len(body)} bytes)"
    return _png(chunks), f"{kind!r} {change}"


_BODIES = (
    *(b"", b"\0", b"\0" * 6, b"\0" * 256, b"\xff" * 13, b"notes\0\0" + zlib.compress(b"x" * (2 << 20)), b"p\0\0\0\0"),
    *(b"p\0\0" + zlib.compress(b"\0" * (2 << 20)), b"name\0text \xff", b"\0\0\0\0\0" + b"x", b"k\0\1\0en\0k\0notzlib"),
    *(
        EXIF,
        EXIF[6:],
        b"Exif\0\0b'Exif\\x00\\x00MM'",
        b"Exif\0\0II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
        EXIF[:-9],
        EXIF * 40,
    ),
    *(struct.pack(">II", 2**31, 0), struct.pack(">IIIII", 0, 16, 16, 2**31, 2**31) + b"\0" * 6, b"\x00\x01" * 3),
)


def _odd_size(random: Random, data: bytes) -> tuple[bytes, str]:
    """An odd number where a header may state a size."""
    place = random.randrange(min(len(data), 64) + 1)
    order, form = random.choice("<>"), random.choice("HI")
    number = random.choice(ODD_SIZES) % (2**16 if form == "H" else 2**32)
    packed = struct.pack(order + form, number)
    return data[:place] + packed + data[place + len(packed) :], f"{number} at byte {place} ({order}{form})"


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], len(PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return PNG + b"".join(parts)
