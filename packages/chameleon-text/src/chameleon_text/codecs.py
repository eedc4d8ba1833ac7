"""Segments to ids and back: the contract, and the codecs of text and pictures.

A processor has one codec for each segment type. Each id belongs to at most one codec; ids that belong to none are
special tokens. To decode, the processor gives each id that belongs to a codec to that codec, with its position, and the
codec says where its segment ends.

Shapes: B pictures, N codes of a picture, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from .errors import DocumentError
from .optional_packages import no_image_reader
from .segments import Image, Segment, Text
from .tokenizer import TextTokenizer
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ImageTokenizerLike(Protocol):
    """What this package needs of an image tokenizer; ``chameleon_vq.ImageTokenizer`` is one."""

    @property
    def num_codes(self) -> int:
        """How many codes there are."""

    @property
    def tokens_per_image(self) -> int:
        """N, how many codes one picture takes."""

    def encode(self, images: Any) -> Any:
        """Return codes [B, N] of a list of pictures: PIL images, paths or uint8 arrays [H, W, C]."""

    def decode(self, codes: Any) -> Sequence[Any]:
        """Return a picture for each row of codes [B, N]."""


class SizedImageTokenizerLike(ImageTokenizerLike, Protocol):
    """What this package needs of an image tokenizer where pictures have several sizes."""

    def picture_size(self, image: Any) -> tuple[int, int]:
        """Return the height and width of a picture as it is, in pixels."""

    def encode(self, images: Any, *, size: tuple[int, int] | None = None) -> Any:
        """Return codes [B, N] of a list of pictures, read at a height and width in pixels."""

    def decode(self, codes: Any, *, latent_size: tuple[int, int] | None = None) -> Sequence[Any]:
        """Return a picture for each row of codes [B, N] of a grid of this height and width."""


class ImageProcessorLike(Protocol):
    """What this package needs of an image processor; ``chameleon_vq.ChameleonImageProcessor`` is one."""

    def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Mapping[str, Any]:
        """Return ``{"pixel_values": pixels_BCHW}`` of a list of pictures, as arrays ("np") or tensors ("pt")."""


class PictureFormatLike(Protocol):
    """How a model writes pictures of several sizes; ``pictures`` of chameleon-core's ``TokenLayout`` is one.

    A grid is the height and width of a picture in codes.
    """

    @property
    def marker_ids(self) -> frozenset[int]:
        """The ids that it writes besides codes, begin-image and end-image."""

    def write(self, codes: Sequence[int], grid: tuple[int, int] | None) -> list[int]:
        """Return the ids of a picture with its markers. Raises ``ValueError`` where there is no such picture."""

    def read(self, ids: Sequence[int], start: int) -> tuple[tuple[int, ...], tuple[int, int] | None, int]:
        """Return the codes and the grid of the picture whose begin-image is at ``start``, and where it ends."""

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid for a picture of a height and width."""

    def pixels(self, grid: Any) -> tuple[int, int]:
        """Return the height and width in pixels of a picture of a grid."""

    def num_codes(self, grid: Any) -> int:
        """Return how many codes a picture of a grid has."""


class CodecContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a codec is made from: the parts of the processor that it belongs to."""

    tokenizer: TextTokenizer
    """The text tokenizer, with the names and ids of all tokens."""
    vocabulary: Vocabulary
    """Which of these ids are text, special, or picture codes."""
    image_tokenizer: ImageTokenizerLike | None
    """What reads and draws pictures, if there is anything."""
    image_seq_length: int
    """N, how many placeholders stand for one picture."""
    picture_format: PictureFormatLike | None = None
    """How pictures of several sizes are written; None, the default, where all have one."""


class Decoded(NamedTuple):
    """A segment that was read from ids."""

    segment: Segment
    """The segment."""
    end: int
    """The position of the first id after it."""


class SegmentCodec(Protocol):
    """How one segment type becomes ids and comes back. ``chameleon_text.testing.SegmentCodecConformance`` checks one.

    - ``ids`` are all the ids that the codec may write, markers included. No other codec may have any of them, and
      text has all that aren't special, so a new modality is made of special tokens.
    - ``encode`` gets all segments of its type in a request together, so that they can be encoded as one batch.
    - ``decode`` gets ids of which ``ids[start]`` belongs to the codec, and takes at least that one. The ids may be a
      model's, which may begin or end anywhere: ``decode`` raises nothing and drops nothing.
    - ``decode`` of what ``encode`` returned is the segment in its normal form.
    - A codec whose segments a model may write has an attribute ``grammar``, a ``SegmentGrammar``. Segments of one
      without it are only read.
    """

    @property
    def ids(self) -> Collection[int]:
        """All ids that belong to this codec."""

    def encode(self, segments: Sequence[Any]) -> Sequence[Sequence[int]]:
        """Return the ids of each segment."""

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """Return the segment that begins at ``start``, and where it ends."""


class TextCodec:
    """The codec of text: the tokenizer's BPE. A segment is the longest run of text ids."""

    def __init__(self, context: CodecContext) -> None:
        self.ids = context.vocabulary.text_ids
        self._tokenizer = context.tokenizer

    def __repr__(self) -> str:
        return f"TextCodec({len(self.ids):,} ids)"

    def encode(self, segments: Sequence[Text]) -> list[list[int]]:
        """Return the ids of each text."""
        return [self._tokenizer.encode(segment.text) for segment in segments]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """Return the text of the run of text ids that begins at ``start``."""
        end = run_end(ids, start, self.ids)
        return Decoded(Text(self._tokenizer.decode(ids[start:end])), end)


class ImageCodec:
    """The codec of pictures: begin-image, the ids of the codes, end-image.

    A picture without pixels and codes is written as ``image_seq_length`` placeholders between the two markers. A
    picture that generation left unfinished has the codes that were written.
    """

    def __init__(self, context: CodecContext) -> None:
        vocabulary = context.vocabulary
        self._vocabulary = vocabulary
        self._image_tokenizer = context.image_tokenizer
        self._placeholders = [vocabulary.image_placeholder_id] * context.image_seq_length
        self._code_ids = frozenset(vocabulary.code_to_id.tolist())
        markers = {vocabulary.begin_image_id, vocabulary.end_image_id, vocabulary.image_placeholder_id}
        self.ids = self._code_ids | markers

    def __repr__(self) -> str:
        reads = "" if self._image_tokenizer is None else ", reads and draws pictures"
        return f"ImageCodec({len(self._code_ids):,} codes, {len(self._placeholders):,} for each picture{reads})"

    def encode(self, segments: Sequence[Image]) -> list[list[int]]:
        """Return the ids of each picture; those that have no codes yet are read as one batch.

        Raises ``MissingPackageError`` where pixels are given and there is no image tokenizer, and ``VocabularyError``
        for a code out of range.
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
        """Return the picture at ``start``, with or without its markers, complete or not."""
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
        import numpy as np

        if not images:
            return iter(())
        if self._image_tokenizer is None:
            raise no_image_reader()
        codes_BN = np.asarray(self._image_tokenizer.encode(images))
        if codes_BN.ndim != 2 or len(codes_BN) != len(images) or codes_BN.dtype.kind not in "iu":
            raise DocumentError(
                f"the image tokenizer returned codes of shape {codes_BN.shape} and dtype {codes_BN.dtype} for "
                f"{len(images)} pictures, expected integers [{len(images)}, N]."
            )
        return iter(codes_BN)


def run_end(ids: Sequence[int], start: int, members: Collection[int]) -> int:
    """Return the position after the longest run of ids from ``start`` that are all in ``members``, a set."""
    end = start
    while end < len(ids) and ids[end] in members:
        end += 1
    return end
