"""PNG and JPEG files without their metadata, for files whose pixels are intact and whose metadata isn't."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_LARGEST = 512 * 2**20
"""The largest file, in bytes, that is copied."""
_LARGEST_KEPT = 2**16
"""The largest block of orientation, in bytes, that is copied."""
_XMP = b"XML:com.adobe.xmp\0"
_TRANSPARENCY = {0: 2, 2: 6, 3: 1}
"""The least bytes of a PNG's transparency, by its colour type."""


def without_metadata(path: Path) -> io.BytesIO | None:
    """Return a copy with the pixels, the transparency and the orientation; None for other formats or damaged pixels.

    Of an animated PNG the copy has the default image. Raises ``OSError``.
    """
    if path.stat().st_size > _LARGEST:
        return None
    data = path.read_bytes()
    try:
        if data.startswith(_PNG):
            return io.BytesIO(_PNG + b"".join(_png_chunks(data)))
        if data.startswith(_JPEG):
            return io.BytesIO(data[:2] + b"".join(_jpeg_segments(data)))
    except (struct.error, IndexError):  # the structure itself is damaged
        pass
    return None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks to keep, each with its length and checksum."""
    place, colour_type = len(_PNG), -1
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        chunk = data[place:end]
        body = chunk[8 : 8 + length]
        if kind == b"IHDR":
            colour_type = body[9]
        # A lower-case first letter marks a chunk that isn't needed for the pixels.
        if kind[0:1].isupper() or (_is_kept(kind, body, colour_type) and _is_intact(chunk)):
            yield chunk
        if kind == b"IEND":
            return
        place = end


def _is_kept(kind: bytes, body: bytes, colour_type: int) -> bool:
    if kind == b"tRNS":
        return len(body) >= _TRANSPARENCY.get(colour_type, len(body) + 1)
    if len(body) > _LARGEST_KEPT:
        return False
    return kind == b"eXIf" or (kind == b"iTXt" and body.startswith(_XMP + b"\0"))


def _is_intact(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yield the segments to keep, and everything from the first scan on."""
    place = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        if marker == 0xFFDA:
            yield data[place:]
            return
        if marker == 0xFFFF:  # padding
            place += 1
            continue
        segment = data[place : place + 2 + length]
        is_exif = marker == 0xFFE1 and segment[4:10] == b"Exif\0\0"
        # Adobe's segment says which colours the channels are.
        if not (0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE) or is_exif or marker == 0xFFEE:
            yield segment
        place += 2 + length
