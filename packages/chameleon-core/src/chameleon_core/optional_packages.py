"""The optional packages: chameleon-vq, chameleon-text, chameleon-emoji, gguf: imported, or how to install them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ._boundary import translates_errors
from .errors import MissingPackageError
from .protocols import ImageTokenizerLike, ProcessorLike


@translates_errors
def load_image_tokenizer(folder: Path, *, device: torch.device | str, check_finite: bool = True) -> ImageTokenizerLike:
    """Load the image tokenizer of a model's folder. Raises ``MissingPackageError`` without chameleon-vq."""
    load = vq_package().ImageTokenizer.from_pretrained
    tokenizer: ImageTokenizerLike = load(folder, device=device, check_finite=check_finite)
    return tokenizer


@translates_errors
def load_processor(
    folder: Path, *, image_tokenizer: ImageTokenizerLike | None = None, picture_format: Any = None
) -> ProcessorLike:
    """Load the processor of a model's folder. Raises ``MissingPackageError`` without chameleon-text.

    ``picture_format`` says how pictures of several sizes are written; None where all have one.
    """
    processor_class = text_package().ChameleonProcessor
    processor: ProcessorLike = processor_class.from_pretrained(
        folder, image_tokenizer=image_tokenizer, picture_format=picture_format
    )
    return processor


def vq_package() -> ModuleType:
    """Import and return ``chameleon_vq``, which reads and draws pictures. Raises ``MissingPackageError``."""
    try:
        import chameleon_vq
    except ImportError as error:
        raise missing_package("chameleon-vq", "reading and drawing pictures", error) from error
    return chameleon_vq


def text_package() -> ModuleType:
    """Import and return ``chameleon_text``, which has documents and processors. Raises ``MissingPackageError``."""
    try:
        import chameleon_text
    except ImportError as error:
        raise missing_package("chameleon-text", "reading and writing documents", error) from error
    return chameleon_text


def emoji_package() -> ModuleType:
    """Import and return ``chameleon_emoji``, the embedded model. Raises ``MissingPackageError``."""
    try:
        import chameleon_emoji
    except ImportError as error:
        raise missing_package("chameleon-emoji", "the demo", error) from error
    return chameleon_emoji


def gguf_package() -> ModuleType:
    """Import and return ``gguf``, which knows the tensors and types of GGUF. Raises ``MissingPackageError``."""
    try:
        import gguf
    except ImportError as error:
        raise MissingPackageError(
            f"GGUF files are read and written with the package gguf, which can't be imported: {error}. From the "
            'toolkit\'s folder: python -m pip install ./packages/chameleon-backends "./packages/chameleon-core[gguf]"'
        ) from error
    package: ModuleType = gguf
    return package


def missing_package(distribution: str, purpose: str, error: ImportError) -> MissingPackageError:
    """Return the error for a package that isn't installed, or that is installed and can't be imported."""
    module = distribution.replace("-", "_")
    if not isinstance(error, ModuleNotFoundError) or error.name != module:
        return MissingPackageError(
            f"{distribution}, which {purpose} needs, can't be imported: {error}. Install it again."
        )
    return MissingPackageError(
        f"{purpose} needs {distribution}, which isn't installed. "
        f"From the toolkit's folder: python -m pip install ./packages/{distribution}"
    )
