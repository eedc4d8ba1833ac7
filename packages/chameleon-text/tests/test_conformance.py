"""The built-in codecs pass the published conformance class, and the class can't be weakened unseen."""

from __future__ import annotations

import pytest

from chameleon_text import Image, Segment, Text
from chameleon_text.testing import SegmentCodecConformance


class TestTextCodec(SegmentCodecConformance):
    name = "text"
    not_applicable = {"test_a_segment_is_found_amid_text": "text amid text is one text"}

    def segments(self) -> list[Segment]:
        return [Text("the apple"), Text(""), Text("é😀<image></s>IMGIMGAZ\x00")]


class TestImageCodec(SegmentCodecConformance):
    name = "image"

    def segments(self) -> list[Segment]:
        return [Image(codes=(0, 63, 5, 5)), Image(codes=(1,)), Image(codes=()), Image()]


def test_a_standard_test_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match=r"replaces .'test_a_segment_survives_json'"):

        class Weak(SegmentCodecConformance):
            def test_a_segment_survives_json(self) -> None:
                pass


def test_only_a_standard_test_can_be_left_out() -> None:
    with pytest.raises(TypeError, match=r"unknown .'test_nothing'"):

        class Weak(SegmentCodecConformance):
            not_applicable = {"test_nothing": "there is no such test"}
