"""Segments: the parts that a document is made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
import numpy as np

from .errors import DocumentError


class Segment(msgspec.Struct, frozen=True):
    """Base of all segments. A plugin's segment type derives from it, frozen, with fields of its own.

    frozen: a segment may be shared by documents and serve as a key.
    """


class Text(Segment, frozen=True):
    """A run of text. What it spells is text, whatever it spells: ``Text("</s>")`` ends nothing."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(f"Text holds a str, not {type(self.text).__name__}.")


class Image(Segment, frozen=True, eq=False):
    """A picture: its pixels, its codes, or both.

    ``image`` is a PIL image, a path, or a uint8 array H W C. ``codes`` are its codes in reading order, fewer than a
    whole picture's where generation stopped early; any sequence of integers is taken and kept as a tuple.
    With neither it stands for a picture that the model gets as ``pixel_values`` beside the ids.
    Where both are set, the codes are what is written as ids.
    """

    image: Any = None
    codes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.image is not None and not isinstance(self.image, str) and not is_picture(self.image):
            raise DocumentError(
                f"Image holds a PIL image, a path or a uint8 array H W C, not {type(self.image).__name__}."
            )
        if self.codes is None:
            return
        codes = np.asarray(self.codes if len(self.codes) else np.empty(0, np.int64))
        if codes.ndim != 1 or codes.dtype.kind not in "iu" or (codes < 0).any():
            raise DocumentError(
                f"a picture's codes are one row of integers from 0, not shape {codes.shape} of {codes.dtype}"
                f"{', with negative ones' if codes.dtype.kind == 'i' and (codes < 0).any() else ''}."
            )
        msgspec.structs.force_setattr(self, "codes", tuple(codes.tolist()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return self.codes == other.codes and _same_picture(self.image, other.image)

    def __hash__(self) -> int:
        return hash(self.codes)


class Special(Segment, frozen=True):
    """One special token, by its name: what a template puts between turns.

    In a document it is the way to ask for a special on purpose. ``decode_document`` leaves specials out.
    """

    name: str


Document: TypeAlias = list[Segment]


def is_picture(value: object) -> bool:
    """Whether a value is a picture: a PIL image, an array, or a path that is not a plain str."""
    if isinstance(value, (os.PathLike, np.ndarray)):
        return True
    # A PIL image can only exist once PIL is imported, so there is no need to import it here.
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


def as_document(value: object) -> Document:
    """A document from what people write: a str is text; a PIL image, an array or a ``Path`` is a picture.

    ``value`` is one of these, a segment, or a list or tuple of them. Raises ``DocumentError`` for anything else.
    """
    if isinstance(value, (list, tuple)):
        return [_as_segment(part) for part in value]
    return [_as_segment(value)]


def normalized(document: Iterable[Segment]) -> Document:
    """The normal form of a document: adjacent texts are one, empty ones are left out.

    It is what comes back from ids, which do not tell where one text ended and the next began.
    """
    result: Document = []
    for segment in document:
        if not isinstance(segment, Text):
            result.append(segment)
        elif result and isinstance(result[-1], Text):
            result[-1] = Text(result[-1].text + segment.text)
        elif segment.text:
            result.append(segment)
    return result


def _as_segment(value: object) -> Segment:
    if isinstance(value, Segment):
        return value
    if isinstance(value, str):
        return Text(value)
    if is_picture(value):
        return Image(value)
    raise DocumentError(
        f"a document is made of text (str), pictures (PIL images, uint8 arrays, Path objects) and segments "
        f"(Text, Image, ...), not {type(value).__name__}."
    )


def _same_picture(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other)
    return bool(one == other)
