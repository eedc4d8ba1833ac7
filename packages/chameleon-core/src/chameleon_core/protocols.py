"""What core needs of an image tokenizer, a processor and their parts, which optional packages provide.

Any object with these methods will do; no class of another package is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

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
        """How many different codes there are."""
        ...

    @property
    def tokens_per_image(self) -> int:
        """N: how many codes a picture takes."""
        ...

    @property
    def image_processor(self) -> ImageProcessorLike:
        """Pictures to the pixels that it reads."""
        ...

    def encode(self, images: Sequence[Any], /) -> Tensor:
        """Codes [B, N] of pictures: paths, PIL images or uint8 arrays."""
        ...

    def encode_pixels(self, pixels_BCHW: Tensor, /) -> Tensor:
        """Codes [B, N] of preprocessed pixels."""
        ...

    def decode(self, codes_BN: Tensor, /) -> list[PILImage]:
        """A picture for each row of codes."""
        ...

    def preview(self, codes_n: Tensor, /) -> PILImage:
        """A picture of the first n < N codes."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights, under upstream's names."""
        ...

    def config_dict(self) -> Mapping[str, Any]:
        """The entry ``vq_config`` of a model's config."""
        ...


class StreamDecoderLike(Protocol):
    """Text from ids that arrive one at a time."""

    def push(self, token_id: int, /) -> str:
        """The characters that this id completes, often none."""
        ...

    def flush(self) -> str:
        """What is left of a character that was never completed."""
        ...


class TextTokenizerLike(Protocol):
    """What core needs of a text tokenizer; ``chameleon_text.TextTokenizer`` is one."""

    @property
    def token_ids(self) -> Mapping[str, int]:
        """The id of every name."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of some ids."""
        ...

    def stream_decoder(self) -> StreamDecoderLike:
        """A decoder that takes one id at a time."""
        ...


class ProcessorLike(Protocol):
    """What core needs of a processor; ``chameleon_text.ChameleonProcessor`` is one."""

    @property
    def tokenizer(self) -> TextTokenizerLike:
        """Text to ids and back."""
        ...

    @property
    def image_tokenizer(self) -> Any:
        """What reads its pictures, or None."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a batch of prompts for ``generate`` of the model; the pipeline's users call it, core doesn't."""
        ...

    def encode(self, document: Any, /, *, template: str) -> list[int]:
        """Return the ids of a prompt, in the named format."""
        ...

    def decode_document(self, ids: Sequence[int], /) -> Any:
        """The document of some ids, pictures as their codes."""
        ...

    def draw(self, document: Any, /) -> Any:
        """The document with its pictures painted from their codes."""
        ...

    def save_pretrained(self, folder: Path, /) -> object:
        """Write its files into a folder."""
        ...
