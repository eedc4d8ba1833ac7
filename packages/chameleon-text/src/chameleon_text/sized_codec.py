"""The codec of pictures of several sizes: the image tokenizer reads and the picture format writes each at its own.

Shapes: B pictures, N codes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from .codecs import (
    CodecContext,
    Decoded,
    ImageCodec,
    PictureFormatLike,
    SizedImageTokenizerLike,
    run_end,
)
from .errors import ConfigError, DocumentError
from .optional_packages import no_image_reader
from .segments import Image


class SizedImageCodec:
    """The codec of pictures whose ids say their size, as the picture format writes them.

    A picture that generation left unfinished has the codes that were written, and its grid where that was known.
    """

    def __init__(self, context: CodecContext) -> None:
        vocabulary = context.vocabulary
        self._begin_id, self._end_id = vocabulary.begin_image_id, vocabulary.end_image_id
        self._vocabulary = vocabulary
        self._format = cast(PictureFormatLike, context.picture_format)
        self._image_tokenizer = cast(SizedImageTokenizerLike | None, context.image_tokenizer)
        self._code_ids = frozenset(vocabulary.code_to_id.tolist())
        others = {self._begin_id, self._end_id, vocabulary.image_placeholder_id}
        self.ids = self._code_ids | self._format.marker_ids | others

    def __repr__(self) -> str:
        reads = "" if self._image_tokenizer is None else ", reads and draws pictures"
        return f"SizedImageCodec({len(self._code_ids):,} codes, by {self._format!r}{reads})"

    def encode(self, segments: Sequence[Image]) -> list[list[int]]:
        """Return the ids of each picture; those of one size that have no codes yet are read as one batch.

        Raises ``MissingPackageError`` where pixels are given and there is no image tokenizer, and ``DocumentError`` for
        codes that make no picture of this model.
        """
        return [self._written(segment) for segment in self._read(segments)]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """Return the picture at ``start``, complete or not; of ids without a begin-image, their codes."""
        if ids[start] != self._begin_id:
            end = max(start + 1, run_end(ids, start, self.ids - {self._begin_id}))
            codes = [token_id for token_id in ids[start:end] if token_id in self._code_ids]
            return Decoded(Image(codes=tuple(self._vocabulary.ids_to_codes(codes))), end)
        read, grid, end = self._format.read(ids, start)
        return Decoded(Image(codes=read, grid=None if grid is None else (grid[0], grid[1])), end)

    def _written(self, segment: Image) -> list[int]:
        if not segment.codes and segment.grid is None:
            return [self._begin_id, self._end_id]
        try:
            return self._format.write(segment.codes or (), segment.grid)
        except ValueError as error:
            raise DocumentError(str(error)) from error

    def _read(self, segments: Sequence[Image]) -> list[Image]:
        """Return the pictures with their codes."""
        import numpy as np

        read = list(segments)
        places: dict[tuple[int, int], list[int]] = {}
        for place, segment in enumerate(segments):
            if segment.codes is None:
                places.setdefault(self._grid_of(segment), []).append(place)
        for grid, of_grid in places.items():
            assert self._image_tokenizer is not None
            images = [segments[place].image for place in of_grid]
            codes_BN = np.asarray(self._image_tokenizer.encode(images, size=self._format.pixels(grid)))
            if codes_BN.shape != (len(images), self._format.num_codes(grid)) or codes_BN.dtype.kind not in "iu":
                raise DocumentError(
                    f"the image tokenizer returned codes of shape {codes_BN.shape} and dtype {codes_BN.dtype} for "
                    f"{len(images)} pictures, expected integers [{len(images)}, {self._format.num_codes(grid)}]."
                )
            for place, codes in zip(of_grid, codes_BN.tolist(), strict=True):
                read[place] = Image(codes=codes, grid=grid)
        return read

    def _grid_of(self, segment: Image) -> tuple[int, int]:
        if segment.image is None:
            raise DocumentError(
                "a picture has neither pixels nor codes. Placeholders, which stand for pictures of one size, can't be "
                "used with a model whose pictures have several: pass the picture and an image_tokenizer."
            )
        if self._image_tokenizer is None:
            raise no_image_reader()
        # Not before a picture is there: an image tokenizer may be loaded when it is first asked.
        if not callable(getattr(self._image_tokenizer, "picture_size", None)):
            raise ConfigError(
                "this model's pictures have several sizes, and the image tokenizer, a "
                f"{type(self._image_tokenizer).__name__}, has no picture_size(): it reads one. Use one such as "
                "chameleon_vq.ImageTokenizer."
            )
        height, width = self._format.fit(*self._image_tokenizer.picture_size(segment.image))
        return height, width


def image_codec(context: CodecContext) -> ImageCodec | SizedImageCodec:
    """Return the codec of a processor's pictures."""
    return ImageCodec(context) if context.picture_format is None else SizedImageCodec(context)
