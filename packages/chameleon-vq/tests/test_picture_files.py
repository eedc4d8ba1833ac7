"""Picture files: metadata that can't be read, transparency, formats, and what a folder has."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from chameleon_vq import (
    ChameleonImageProcessor,
    ImageError,
    ImageTokenizer,
    ImageWarning,
    MissingFileError,
    picture_files,
)
from chameleon_vq.picture_files import FORMATS, SUFFIXES, open_file
from chameleon_vq.pictures import pictures_in

BYTES = ChameleonImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)


def first_row(path: Path) -> list[Any]:
    pixels_CHW = BYTES.preprocess(path, "np")["pixel_values"][0]
    return list(np.moveaxis(pixels_CHW, 0, 2)[0].tolist())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour_type: int, depth: int, row: bytes, width: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A picture of two equal rows, with more chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, 2, depth, colour_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * 2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


RED = b"\xff\0\0"
BAD_CHUNKS = {
    "text": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**21)),
    "international text": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 2**21)),
    "profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 2**21)),
    "method": chunk(b"zTXt", b"a\0\7rubbish"),
    "gamma": chunk(b"gAMA", b"\0\0"),
    "chromaticities": chunk(b"cHRM", b"\0"),
    "resolution": chunk(b"pHYs", b"\1\2\3"),
    "rendering": chunk(b"sRGB", b""),
    "animation": chunk(b"acTL", b"\0"),
    "checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "transparency": chunk(b"tRNS", b"\0"),
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_png_is_read_whatever_is_wrong_with_a_chunk_that_its_pixels_don_t_need(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(png(2, 8, RED * 3, 3, before=BAD_CHUNKS[name]))
    with pytest.warns(ImageWarning, match=r"metadata of .*a\.png can't be read .*; the pixels are complete\."):
        assert first_row(tmp_path / "a.png") == [[255, 0, 0]] * 3


@pytest.mark.parametrize("name", ["text", "method", "resolution"])
def test_chunks_after_the_pixels_do_no_harm_either(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(png(2, 8, RED * 3, 3, after=BAD_CHUNKS[name]))
    with pytest.warns(ImageWarning, match="the pixels are complete"):
        assert first_row(tmp_path / "a.png") == [[255, 0, 0]] * 3


def test_transparency_and_orientation_are_kept_when_the_rest_is_left_out(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    kept = chunk(b"tRNS", struct.pack(">3H", 255, 0, 0)) + chunk(b"eXIf", exif.tobytes()[6:])
    (tmp_path / "a.png").write_bytes(png(2, 8, RED * 3, 3, before=BAD_CHUNKS["text"] + kept))
    with pytest.warns(ImageWarning, match="the pixels are complete"):
        assert BYTES.preprocess(tmp_path / "a.png")["pixel_values"].shape[2:] == (3, 2)
    with pytest.warns(ImageWarning, match="the pixels are complete"):
        assert first_row(tmp_path / "a.png") == [[255, 255, 255]] * 2


def test_a_png_whose_pixels_are_damaged_is_refused(tmp_path: Path) -> None:
    whole = png(2, 8, bytes(range(256)) * 3, 256, before=BAD_CHUNKS["gamma"])
    (tmp_path / "a.png").write_bytes(whole[:-120])
    with pytest.raises(ImageError, match=r"a\.png"):
        BYTES.preprocess(tmp_path / "a.png")


def test_a_jpeg_with_a_short_header_segment_is_read(tmp_path: Path) -> None:
    saved = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(saved, "JPEG")
    data = saved.getvalue()
    length = struct.unpack(">H", data[4:6])[0]
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe0\0\4JF" + b"\xff\xe0\0\7JFIF\0" + data[4 + length :])
    with pytest.warns(ImageWarning, match="the pixels are complete"):
        [red, *_] = first_row(tmp_path / "a.jpg")
    assert red[0] > 250


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("block", [b"Exif\0\0'Exif\\x00'", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_rubbish_exif_leaves_the_pixels_alone(tmp_path: Path, suffix: str, block: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    if suffix != "tiff":
        options["exif"] = block
    PIL.Image.new("RGB", (3, 2), "red").save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert first_row(path) == [[255, 0, 0]] * 3


def test_the_raw_exif_text_of_old_programs_is_rubbish_too(tmp_path: Path) -> None:
    text = chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  9\nnot hexadecimal\n")
    (tmp_path / "a.png").write_bytes(png(2, 8, RED * 3, 3, before=text))
    with pytest.warns(ImageWarning, match=r"the EXIF data of .*a\.png can't be read"):
        assert first_row(tmp_path / "a.png") == [[255, 0, 0]] * 3


@pytest.mark.parametrize(
    ("colour_type", "depth", "row", "width", "key", "expected"),
    [
        # The key of 16 bits is compared with all 16: the second pixel differs in its last bit.
        (2, 16, struct.pack(">6H", 0x1234, 5, 9, 0x1235, 5, 9), 2, (0x1234, 5, 9), [255, 18]),
        (0, 16, struct.pack(">2H", 0x1234, 0x1235), 2, (0x1234,), [255, 18]),
        (0, 4, bytes([0x12]), 2, (2,), [17, 255]),
        (0, 2, bytes([0b01100000]), 2, (1,), [255, 170]),
        (0, 1, bytes([0b01000000]), 2, (0,), [255, 255]),
        (0, 8, bytes([7, 8]), 2, (8,), [7, 255]),
    ],
)
def test_a_transparent_colour_is_compared_at_the_depth_of_the_file(
    tmp_path: Path, colour_type: int, depth: int, row: bytes, width: int, key: tuple[int, ...], expected: list[int]
) -> None:
    transparency = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    (tmp_path / "a.png").write_bytes(png(colour_type, depth, row, width, before=transparency))
    assert [pixel[0] for pixel in first_row(tmp_path / "a.png")] == expected


def test_postscript_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match=r"is not a picture of a format that is read here \(JPEG"):
        BYTES.preprocess(tmp_path / "a.png")
    assert not {"EPS", "WMF", "FPX"} & set(FORMATS)


def test_every_suffix_of_a_format_that_is_read_is_taken_from_a_folder() -> None:
    PIL.Image.init()
    of_formats = {suffix for suffix, kind in PIL.Image.registered_extensions().items() if kind in FORMATS}
    assert of_formats - {".pfm", ".fit"} <= SUFFIXES | {".pfm"}


@pytest.mark.parametrize("text", ["iVBORw0KGgo" * 500, "a\0b.png"])
def test_a_text_that_is_no_path_is_refused(text: str) -> None:
    with pytest.raises((ImageError, MissingFileError)):
        BYTES.preprocess(text)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is not a regular file"):
        BYTES.preprocess(tmp_path / "a.png")


@pytest.fixture
def folder(tmp_path: Path, picture: PIL.Image.Image) -> Path:
    """A folder with two pictures of its own, one behind a link, a circle of links, and files that aren't pictures."""
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "pictures"
    picture.save(root / "a.PNG", "PNG")
    picture.save(root / "sub" / "b.jfif", "JPEG")
    picture.save(tmp_path / "elsewhere" / "c.webp")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub" / "circle").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "._a.PNG").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return root


def test_a_folder_is_read_through_links_once(folder: Path) -> None:
    skipped: dict[str, str] = {}

    def on_skip(path: Path, reason: str) -> None:
        skipped[path.relative_to(folder).as_posix()] = reason

    found = [path.relative_to(folder).as_posix() for path in pictures_in(folder, on_skip=on_skip)]
    assert found == ["a.PNG", "linked/c.webp", "sub/b.jfif"]
    assert skipped == {
        "._a.PNG": "metadata of macOS, not a picture",
        ".DS_Store": "not the suffix of a picture that is read",
        "gone.png": "a broken link",
        "sub/circle": "a link to a folder that is read already",
    }


def test_what_a_folder_has_beside_pictures_is_named(
    folder: Path, tokenizer: ImageTokenizer, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.warns(ImageWarning, match=r"left out of .*: \.DS_Store .*, \._a\.PNG .*, gone\.png \(a broken link\)"):
        encoded = list(tokenizer.encode_folder(folder))
    assert len(encoded) == 3


def test_pictures_that_a_name_alone_suggests_are_tried(folder: Path, picture: PIL.Image.Image) -> None:
    picture.save(folder / "._real.png")
    assert folder / "._real.png" in list(pictures_in(folder, on_skip=lambda *_: None))


ARRAYS: dict[str, Callable[[], Any]] = {
    "masked": lambda: np.ma.masked_less(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 3),
    "huge": lambda: np.broadcast_to(np.uint8(0), (10**6, 10**6, 3)),
    "objects": lambda: np.full((2, 2, 3), None, dtype=object),
    "complex": lambda: np.zeros((2, 2, 3), dtype=complex),
    "bool": lambda: np.zeros((2, 2, 3), dtype=bool),
    "0-d": lambda: np.array(3, dtype=np.uint8),
    "texts": lambda: np.array([["a"]]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_anything_else_is_refused(name: str) -> None:
    with pytest.raises(ImageError):
        BYTES.preprocess(ARRAYS[name]())


def test_lists_that_hold_themselves_are_refused() -> None:
    pictures: list[Any] = []
    pictures.append(pictures)
    with pytest.raises(ImageError, match="lists inside each other"):
        BYTES.preprocess(pictures)


def test_a_part_longer_than_the_file_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of a JPEG2000 says that it has more than a gigabyte; Pillow asks the file for all of it."""
    asked: list[int] = []

    class Raw(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            asked.append(len(memoryview(buffer)))
            return super().readinto(buffer)

    monkeypatch.setattr(picture_files, "FileIO", Raw)
    signature = struct.pack(">I4sI", 12, b"jP  ", 0x0D0A870A)
    brand = struct.pack(">I4s4sI4s", 20, b"ftyp", b"jp2 ", 0, b"jp2 ")
    path = tmp_path / "damaged.jp2"
    path.write_bytes(signature + brand + struct.pack(">I4s", 0x4E20002D, b"jp2h") + bytes(400))
    with pytest.raises(ImageError, match="can't be decoded"):
        open_file(path, pixel_limit=10**6, exif=True)
    assert asked
    assert max(asked) <= 2**17


def test_reads_of_a_bounded_file_equal_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(200)))
    with picture_files._BoundedReader(path) as file:
        assert file.read(3) == bytes(range(3))
        assert file.read(10**15) == bytes(range(3, 200))
        assert file.read(5) == b""
        file.seek(190)
        assert file.read() == file.read(None) + bytes(range(190, 200))
        file.seek(500)
        assert file.read(10) == b""


def test_scaling_a_deep_picture_takes_little_more_than_its_pixels() -> None:
    values_HW = np.arange(2000 * 3000, dtype=np.uint16).reshape(2000, 3000)
    picture = PIL.Image.fromarray(values_HW)
    tracemalloc.start()
    try:
        scaled = picture_files.eight_bits(picture, "the picture")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (np.asarray(scaled) == values_HW.astype(np.uint32) * 255 // 65535).all()
    assert peak < 2 * values_HW.nbytes, peak / values_HW.nbytes
