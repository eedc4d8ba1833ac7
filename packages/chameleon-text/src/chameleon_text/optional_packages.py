"""What chameleon-vq does for a processor if it is installed, found by name so that this package needs it for nothing.

It is imported when the first picture is read.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import MissingPackageError

_PICTURES = "chameleon_vq"
_INSTALL = "From the toolkit's folder: python -m pip install ./packages/chameleon-vq"


def reads_pictures() -> bool:
    """Whether chameleon-vq is installed."""
    return importlib.util.find_spec(_PICTURES) is not None


def image_processor_of(folder: Path, config: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Any:
    """Return the image processor of a model's folder, or the default one at the resolution that its config has.

    ``changes`` are settings that replace the folder's. Raises ``MissingPackageError`` without chameleon-vq,
    and its errors for broken files.
    """
    package = _package()
    try:
        return package.ChameleonImageProcessor.from_pretrained(folder, **(changes or {}))
    except FileNotFoundError:
        image_processor = package.ChameleonImageProcessor()
        vq_config = config.get("vq_config")
        resolution = vq_config.get("resolution") if isinstance(vq_config, Mapping) else None
        sized = image_processor.at_resolution(resolution) if isinstance(resolution, int) else image_processor
        return sized.replace(**(changes or {}))


def image_tokenizer_of(folder: Path) -> Any:
    """Return the image tokenizer of a model's folder. Raises ``MissingPackageError`` without chameleon-vq."""
    return _package().ImageTokenizer.from_pretrained(folder)


def no_image_reader() -> MissingPackageError:
    """Return the error of a processor that can't read pictures: what to pass, or what to install."""
    passes = (
        "Pass image_tokenizer=ImageTokenizer.from_pretrained(...) to get their ids, or "
        "image_processor=ChameleonImageProcessor() to get placeholders and pixel_values; both are in chameleon_vq"
    )
    installed = "." if reads_pictures() else f", which isn't installed. {_INSTALL}"
    return MissingPackageError(f"this processor can't read pictures. {passes}{installed}")


def _package() -> Any:
    if not reads_pictures():
        raise MissingPackageError(f"reading pictures needs chameleon-vq, which isn't installed. {_INSTALL}")
    return importlib.import_module(_PICTURES)
