"""What core needs of an image tokenizer, a processor and their parts, which optional packages provide.

Any object with these methods will do; no class of another package is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ._moved import moved_names

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class ImageProcessorLike(Protocol):
    """What core needs of an image processor; ``chameleon_vq.ChameleonImageProcessor`` is one."""

    def save_pretrained(self, folder: Path, /) -> object:
        """Write ``preprocessor_config.json`` into a folder."""
        ...


class ImageTokenizerLike(Protocol):
    """What core needs of an image tokenizer; ``chameleon_vq.ImageTokenizer`` is one.

    Shapes: B pictures, N codes a picture, C channels.
    """

    @property
    def num_codes(self) -> int:
        """The number of different codes."""
        ...

    @property
    def tokens_per_image(self) -> int:
        """N, the number of codes of a picture."""
        ...

    @property
    def image_processor(self) -> ImageProcessorLike:
        """What makes the pixels that it reads of pictures."""
        ...

    def encode(self, images: Sequence[Any], /) -> Tensor:
        """Return the codes of pictures (paths, PIL images or uint8 arrays), int64 [B, N]."""
        ...

    def encode_pixels(self, pixels_BCHW: Tensor, /) -> Tensor:
        """Return the codes of preprocessed pixels, int64 [B, N]."""
        ...

    def decode(self, codes_BN: Tensor, /) -> list[PILImage]:
        """Return a picture for each row of codes."""
        ...

    def preview(self, codes_n: Tensor, /) -> PILImage:
        """Return a picture of the first n < N codes."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights, by their names in ``transformers``."""
        ...

    def config_dict(self) -> Mapping[str, Any]:
        """Return the entry ``vq_config`` of a model's config."""
        ...


class SizedImageTokenizerLike(ImageTokenizerLike, Protocol):
    """What core needs of an image tokenizer whose pictures have several sizes; ``chameleon_vq.ImageTokenizer`` is one.

    Shapes: B pictures, N codes a picture, C channels, H W pixels.
    """

    def picture_size(self, image: Any, /) -> tuple[int, int]:
        """Return the height and width of a picture as it is, in pixels."""
        ...

    def encode(self, images: Sequence[Any], /, *, size: tuple[int, int] | None = None) -> Tensor:
        """Return the codes of pictures read at a height and width in pixels, int64 [B, N]."""
        ...

    def pixels(self, images: Sequence[Any], /, *, size: tuple[int, int] | None = None) -> Tensor:
        """Return the pixels of pictures as the model reads them, float32 [B, C, H, W]."""
        ...

    def decode(self, codes_BN: Tensor, /, *, latent_size: tuple[int, int] | None = None) -> list[PILImage]:
        """Return a picture for each row of codes, whose grid has this height and width."""
        ...

    def preview(self, codes_n: Tensor, /, *, latent_size: tuple[int, int] | None = None) -> PILImage:
        """Return a picture of the first n < N codes."""
        ...


class OpenSegmentLike(Protocol):
    """What core needs of a segment that is being written; ``chameleon_text.OpenSegment`` is one, and so is a picture.

    It never changes; ``accept`` returns the next one.
    """

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """The ids that may come next, at least one; None where any picture code may and nothing else."""
        ...

    @property
    def least_ids_left(self) -> int:
        """The smallest number of ids that still belong to it, ≥ 1."""
        ...

    @property
    def ids_left(self) -> int | None:
        """The largest number of ids that still belong to it; None for no limit."""
        ...

    def accept(self, token_id: int, /) -> OpenSegmentLike | None:
        """Return the segment after one more id, which is one that may come; None where that was its last."""
        ...


class SegmentGrammarLike(Protocol):
    """What core needs to write the segments of a codec; one of ``ChameleonProcessor.segment_grammars`` is one."""

    @property
    def ids(self) -> frozenset[int]:
        """All ids that its segments may have. Text can't have them."""
        ...

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The ids that begin a segment, at least one. They come nowhere else in one."""
        ...

    def open(self, begin_id: int, room: int | None, /) -> OpenSegmentLike | None:
        """Return the segment that an id begins and that ends within ``room`` more, None for no limit.

        Returns None where the segment consists of that id alone.
        """
        ...


class StreamDecoderLike(Protocol):
    """A decoder of ids that arrive one at a time."""

    def push(self, token_id: int, /) -> str:
        """Return the characters that this id completes, often none."""
        ...

    def flush(self) -> str:
        """Return what is left of a character that was never completed."""
        ...


class TextTokenizerLike(Protocol):
    """What core needs of a text tokenizer; ``chameleon_text.TextTokenizer`` is one."""

    @property
    def token_ids(self) -> Mapping[str, int]:
        """The id of every name."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of ids."""
        ...

    def stream_decoder(self) -> StreamDecoderLike:
        """Return a decoder that takes one id at a time."""
        ...


class ProcessorLike(Protocol):
    """What core needs of a processor; ``chameleon_text.ChameleonProcessor`` is one."""

    @property
    def tokenizer(self) -> TextTokenizerLike:
        """What turns text into ids and back."""
        ...

    @property
    def image_tokenizer(self) -> Any:
        """What reads and draws its pictures, or None."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a batch of prompts for ``generate`` of the model; the pipeline's users call it, core doesn't."""
        ...

    def encode(self, document: Any, /, *, template: str) -> list[int]:
        """Return the ids of a prompt, in the named format."""
        ...

    def decode_document(self, ids: Sequence[int], /) -> Any:
        """Return the document of ids, its pictures as codes."""
        ...

    def draw(self, document: Any, /) -> Any:
        """Return the document with its pictures drawn from their codes."""
        ...

    def save_pretrained(self, folder: Path, /) -> object:
        """Write its files into a folder."""
        ...


if not TYPE_CHECKING:
    # Of chameleon_core.siblings, which this module was a part of.
    __getattr__ = moved_names(
        __name__,
        {
            name: f"chameleon_core.optional_packages:{name}"
            for name in (
                "emoji_package",
                "load_image_tokenizer",
                "load_processor",
                "missing_package",
                "text_package",
                "vq_package",
            )
        },
    )
