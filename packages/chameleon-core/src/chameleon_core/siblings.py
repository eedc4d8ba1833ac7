"""The sibling packages, which are optional: what core needs of them, and a clear error where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .errors import MissingPackageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


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


def load_image_tokenizer(folder: Path, *, device: torch.device | str) -> ImageTokenizerLike:
    """The image tokenizer in a model's folder. Raises ``MissingPackageError`` where chameleon-vq isn't installed."""
    try:
        from chameleon_vq import ImageTokenizer
    except ImportError as error:
        raise missing_package("chameleon-vq", "reading and drawing pictures", error) from error
    tokenizer: ImageTokenizerLike = ImageTokenizer.from_pretrained(folder, device=device)
    return tokenizer


def missing_package(distribution: str, purpose: str, error: ImportError) -> MissingPackageError:
    """The error for a sibling that isn't installed, or the cause where it is there and broken."""
    module = distribution.replace("-", "_")
    if error.name != module:
        return MissingPackageError(f"{distribution}, which {purpose} needs, can't be imported: {error}")
    return MissingPackageError(
        f"{purpose} needs {distribution}, which isn't installed. "
        f"From the toolkit's folder: python -m pip install ./packages/{distribution}"
    )
