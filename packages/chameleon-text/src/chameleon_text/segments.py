"""Segments, the parts that a document is made of, and the document, a list of them."""

from __future__ import annotations

import difflib
import os
import reprlib
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from .errors import DocumentError, MissingPackageError
from .notebook import LONGEST_SIDE, MOST_ENTRIES, HtmlWriter, grid_of
from .png import png_of

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxtuple = _SHORT.maxlist = 8


class SegmentMeta(msgspec.StructMeta):
    """Makes an unknown or missing field of a segment a ``DocumentError``, in place of a ``TypeError``."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805
        """Make a segment from its fields."""
        try:
            return super().__call__(*args, **fields)
        except TypeError as error:
            known = cls.__struct_fields__
            for name in fields:
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"Did you mean {close[0]!r}?" if close else f"The fields are {', '.join(known) or 'none'}."
                    raise DocumentError(f"{cls.__name__} has no field {name!r}. {hint}") from None
            if str(error).startswith(("Missing required", "Extra positional")):  # msgspec's own
                raise DocumentError(f"{cls.__name__}({', '.join(known)}) can't be made: {error}.") from error
            raise


class Segment(msgspec.Struct, frozen=True, metaclass=SegmentMeta):
    """Base of all segments. A plugin's segment type derives from it, frozen, with fields of its own.

    Frozen, because documents may share a segment and a segment may be a key.
    """

    def __repr__(self) -> str:
        fields = (f"{name}={_SHORT.repr(getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(fields)})"


class Text(Segment, frozen=True):
    """A run of text. It is text whatever it spells: ``Text("</s>")`` ends nothing."""

    text: str
    """The text."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(f"Text holds a str, not {type(self.text).__name__}.")


class Image(Segment, frozen=True, eq=False):
    """A picture: its pixels, its codes, or both.

    Where both are set, the codes are what is written as ids. With neither, it stands for a picture whose
    ``pixel_values`` the model gets beside the ids.
    """

    image: Any = None
    """The picture: a PIL image, a path, or a uint8 array of shape (H, W, C)."""
    codes: tuple[int, ...] | None = None
    """The codes in reading order, fewer than a full picture's where generation stopped early. Any sequence of integers
    ≥ 0 is accepted and kept as a tuple."""
    grid: tuple[int, int] | None = None
    """The height and width of the grid of codes, each ≥ 1, for a model whose pictures have several sizes; None, the
    default, is that of the model's only size."""

    def __post_init__(self) -> None:
        import numpy as np

        if self.image is not None and not isinstance(self.image, str) and not is_picture(self.image):
            raise DocumentError(
                f"Image holds a PIL image, a path or a uint8 array of shape (H, W, C), not {type(self.image).__name__}."
            )
        if self.grid is not None:
            msgspec.structs.force_setattr(self, "grid", self._checked_grid(self.grid))
        if self.codes is None:
            return
        try:
            codes = np.asarray(self.codes if len(self.codes) else np.empty(0, np.int64))
        except (TypeError, ValueError, RuntimeError) as error:  # a number, ragged lists, a tensor of another device
            raise DocumentError(
                f"a picture's codes must be one row of integers ≥ 0, not {type(self.codes).__name__}: {error}."
            ) from error
        if codes.ndim != 1 or codes.dtype.kind not in "iu" or (codes < 0).any():
            raise DocumentError(
                f"a picture's codes must be one row of integers ≥ 0, not shape {codes.shape} of {codes.dtype}"
                f"{', with negative ones' if codes.dtype.kind == 'i' and (codes < 0).any() else ''}."
            )
        msgspec.structs.force_setattr(self, "codes", tuple(codes.tolist()))

    def _checked_grid(self, grid: Any) -> tuple[int, int]:
        sides = tuple(grid) if isinstance(grid, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
            raise DocumentError(f"the grid of a picture is its height and width in codes, each ≥ 1; got {grid!r:.80}.")
        if self.codes is None:
            raise DocumentError("a picture has a grid and no codes. Give the codes, or leave the grid out.")
        return sides[0], sides[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        same_codes = self.codes == other.codes and self.grid == other.grid
        return same_codes and _same_picture(self.image, other.image)

    def __hash__(self) -> int:
        return hash(self.codes)

    def __repr__(self) -> str:
        import numpy as np

        parts = []
        if isinstance(self.image, (str, os.PathLike)):
            parts.append(repr(os.fspath(self.image)))
        elif self.image is not None:
            array = isinstance(self.image, np.ndarray)
            size = f"shape {self.image.shape}" if array else "{}×{} pixels".format(*self.image.size)
            parts.append(f"<{type(self.image).__name__} of {size}>")
        if self.codes is not None:
            parts.append(f"codes={self.codes if len(self.codes) <= 8 else f'<{len(self.codes):,} codes>'}")
        if self.grid is not None:
            parts.append(f"grid={self.grid}")
        return f"Image({', '.join(parts)})"

    def _repr_png_(self) -> bytes | None:
        """Return the pixels as PNG, for a notebook. None where there are none, or none that can be written.

        A path is not opened, and a picture of more than 512 pixels a side is reduced.
        """
        if self.image is None or isinstance(self.image, (str, os.PathLike)):
            return None
        try:
            return png_of(self.image, longest_side=LONGEST_SIDE)
        except (MissingPackageError, OSError, TypeError, ValueError):  # an array that is no picture, for instance
            return None


class Special(Segment, frozen=True):
    """One special token, by its name.

    Templates put these between turns. In a document, it is the way to ask for a special token on purpose;
    ``decode_document`` leaves special tokens out.
    """

    name: str
    """The token's name, for instance ``</s>``."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DocumentError(f"Special holds the name of a token, a str, not {type(self.name).__name__}.")


class Document(list[Segment]):
    """A document: a list of segments, which a notebook shows as text and pictures.

    It is equal to any list of the same segments.
    """

    def __repr__(self) -> str:
        shown = [repr(segment) for segment in self[:20]]
        more = [f"… {len(self) - 20:,} more"] if len(self) > 20 else []
        return f"Document([{', '.join(shown + more)}])"

    def _repr_html_(self) -> str:
        """Return the document as HTML: its texts as they are, its pictures in the place where they stand.

        It refers to no other file. Of a long document it has the first 20,000 characters and 64 pictures.
        """
        return _html_of_document(self, HtmlWriter())


class Results(list[T]):
    """What came of several prompts: a list of documents or of pictures, which a notebook shows beside each other.

    It is equal to any list of the same values.
    """

    def __repr__(self) -> str:
        shown = [repr(value) for value in self[:20]]
        more = [f"… {len(self) - 20:,} more"] if len(self) > 20 else []
        return f"Results([{', '.join(shown + more)}])"

    def _repr_html_(self) -> str:
        """Return the first 32 values as HTML that refers to no other file; a value that is no document as its repr."""
        writer = HtmlWriter()
        entries = [_html_of_value(value, writer) for value in self[:MOST_ENTRIES]]
        return grid_of(entries, left_out=max(0, len(self) - MOST_ENTRIES))


def is_picture(value: object) -> bool:
    """Return whether a value is a picture: a PIL image, an array, or a path that is not a plain str."""
    import numpy as np

    if isinstance(value, (os.PathLike, np.ndarray)):
        return True
    # A PIL image can only exist once PIL is imported, so there is no need to import it here. Another thread may be
    # importing it: then the module has no class yet.
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return kind is not None and isinstance(value, kind)


def as_document(value: object) -> Document:
    """Make a document of plain values: a str is text; a PIL image, an array or a ``Path`` is a picture.

    ``value`` is one of these, a segment, or a list or tuple of them. Raises ``DocumentError`` for anything else.
    """
    return Document(map(_as_segment, value if isinstance(value, (list, tuple)) else [value]))


def normalized(document: Iterable[Segment]) -> Document:
    """Return the normal form of a document: adjacent texts are joined, empty ones are left out.

    This is what comes back from ids, which don't tell where one text ended and the next began.
    """
    result = Document()
    texts: list[str] = []  # joined once, because joining two at a time takes quadratic time
    for segment in document:
        if isinstance(segment, Text):
            texts.append(segment.text)
            continue
        if any(texts):
            result.append(Text("".join(texts)))
        texts = []
        result.append(segment)
    if any(texts):
        result.append(Text("".join(texts)))
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
    import numpy as np

    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other)
    return bool(one == other)


def _html_of_value(value: object, writer: HtmlWriter) -> str:
    try:
        return _html_of_document(as_document(value), writer)
    except DocumentError:
        return writer.name(_SHORT.repr(value))


def _html_of_document(document: Iterable[Segment], writer: HtmlWriter) -> str:
    return f"<div>{''.join(_html(segment, writer) for segment in document)}</div>"


def _html(segment: Segment, writer: HtmlWriter) -> str:
    if isinstance(segment, Text):
        return writer.text(segment.text)
    png = segment._repr_png_() if isinstance(segment, Image) else None
    return writer.name(repr(segment)) if png is None else writer.picture(png, _described(segment))


def _described(picture: Any) -> str:
    """Return what stands for a picture where it isn't seen."""
    pixels = picture.image
    width, height = pixels.size if hasattr(pixels, "mode") else (pixels.shape[1], pixels.shape[0])
    codes = "" if picture.codes is None else f", {len(picture.codes):,} codes"
    return f"picture of {width}×{height} pixels{codes}"
