"""Segments to ids and back: the contract, and the codecs of text and pictures.

A processor holds one codec for each segment type. Each id belongs to at most one codec; ids that belong to none are
specials. Going back, the processor hands every id that belongs to a codec to that codec, with its position, and the
codec says how far its segment reaches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import DocumentError, MissingPackageError
from .segments import Image, Segment, Text
from .tokenizer import TextTokenizer
from .vocabulary import Vocabulary

NO_IMAGE_READER = (
    "this processor can't read pictures. Pass image_tokenizer=ImageTokenizer.from_pretrained(...) to get their ids, "
    "or image_processor=ChameleonImageProcessor() to get placeholders and pixel_values; both are in chameleon-vq: "
    "pip install ./packages/chameleon-vq"
)


class ImageTokenizerLike(Protocol):
    """What this package needs of an image tokenizer; ``chameleon_vq.ImageTokenizer`` is one."""

    @property
    def num_codes(self) -> int:
        """How many codes there are."""

    @property
    def tokens_per_image(self) -> int:
        """N, the number of codes of one picture."""

    def encode(self, images: Any) -> Any:
        """Codes of shape B N for a list of pictures: PIL images, paths or uint8 arrays H W C."""

    def decode(self, codes: Any) -> Sequence[Any]:
        """A picture for each row of codes B N."""


class CodecContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a codec is made from: the parts of the processor that it will serve."""

    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    image_tokenizer: ImageTokenizerLike | None
    image_seq_length: int
    """N, the number of placeholders that stand for one picture."""


class Decoded(NamedTuple):
    """A segment read from ids, and the position of the first id after it."""

    segment: Segment
    end: int


class SegmentCodec(Protocol):
    """How one segment type becomes ids and comes back. ``SegmentCodecConformance`` in the testing module checks one.

    - ``ids`` are all the ids that the codec may write, markers included. No other codec may have any of them, and
      text has all that aren't special, so a modality of one's own is made of special tokens.
    - ``encode`` gets all segments of its type in a request at once, so that they can be encoded as one batch.
    - ``decode`` gets ids of which ``ids[start]`` belongs to the codec, and takes at least that one. It is given what
      a model generated, which may begin or end anywhere: it raises nothing and loses nothing.
    - ``decode`` of what ``encode`` gave is the segment in its normal form.
    """

    @property
    def ids(self) -> Collection[int]:
        """The ids that belong to this codec."""

    def encode(self, segments: Sequence[Any]) -> Sequence[Sequence[int]]:
        """The ids of each segment."""

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """The segment that begins at ``start``, and where it ends."""


class TextCodec:
    """Text through the tokenizer's BPE. A segment is the longest run of text ids."""

    def __init__(self, context: CodecContext) -> None:
        self.ids = context.vocabulary.text_ids
        self._tokenizer = context.tokenizer

    def encode(self, segments: Sequence[Text]) -> list[list[int]]:
        """The ids of each text."""
        return [self._tokenizer.encode(segment.text) for segment in segments]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """The text of the run of text ids from ``start`` on."""
        end = run_end(ids, start, self.ids)
        return Decoded(Text(self._tokenizer.decode(ids[start:end])), end)


class ImageCodec:
    """A picture as begin-image, the ids of its codes, end-image.

    A picture without pixels and codes is written as ``image_seq_length`` placeholders between the two markers. A
    picture that generation left unfinished has the codes that it got to.
    """

    def __init__(self, context: CodecContext) -> None:
        vocabulary = context.vocabulary
        self._vocabulary = vocabulary
        self._image_tokenizer = context.image_tokenizer
        self._placeholders = [vocabulary.image_placeholder_id] * context.image_seq_length
        self._code_ids = frozenset(vocabulary.code_to_id.tolist())
        markers = {vocabulary.begin_image_id, vocabulary.end_image_id, vocabulary.image_placeholder_id}
        self.ids = self._code_ids | markers

    def encode(self, segments: Sequence[Image]) -> list[list[int]]:
        """The ids of each picture; those that have no codes yet are read as one batch.

        Raises ``MissingPackageError`` where pixels are given and there is no image tokenizer, ``VocabularyError`` for
        a code out of range.
        """
        codes_of_read = self._read([each.image for each in segments if each.codes is None and each.image is not None])
        vocabulary = self._vocabulary
        rows: list[list[int]] = []
        for segment in segments:
            if segment.codes is not None:
                inner = vocabulary.codes_to_ids(segment.codes)
            elif segment.image is not None:
                inner = vocabulary.codes_to_ids(next(codes_of_read))
            else:
                inner = self._placeholders
            rows.append([vocabulary.begin_image_id, *inner, vocabulary.end_image_id])
        return rows

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """The picture at ``start``, with or without its markers, whole or not."""
        vocabulary = self._vocabulary
        first = start + (ids[start] == vocabulary.begin_image_id)
        end = run_end(ids, first, self._code_ids)
        codes = tuple(vocabulary.ids_to_codes(ids[first:end]))
        last = run_end(ids, end, {vocabulary.image_placeholder_id})
        segment = Image() if last > end and not codes else Image(codes=codes)
        if last < len(ids) and ids[last] == vocabulary.end_image_id:
            last += 1
        return Decoded(segment, last)

    def _read(self, images: list[Any]) -> Iterator[npt.NDArray[np.int64]]:
        if not images:
            return iter(())
        if self._image_tokenizer is None:
            raise MissingPackageError(NO_IMAGE_READER)
        codes_BN = np.asarray(self._image_tokenizer.encode(images))
        if codes_BN.ndim != 2 or len(codes_BN) != len(images):
            raise DocumentError(
                f"the image tokenizer gave codes of shape {codes_BN.shape} for {len(images)} pictures, expected B N."
            )
        return iter(codes_BN)


def run_end(ids: Sequence[int], start: int, members: Collection[int]) -> int:
    """The position after the longest run from ``start`` on whose ids are all in ``members``, a set."""
    end = start
    while end < len(ids) and ids[end] in members:
        end += 1
    return end
