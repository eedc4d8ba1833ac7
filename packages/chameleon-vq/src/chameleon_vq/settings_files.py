"""The files of an image processor's settings, in the folder of a model or of an image tokenizer."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Protocol

from ._commits import stored
from ._files import read_json, write_json
from .errors import ChameleonVQError, MissingFileError

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"


class ImageProcessor(Protocol):
    """What has settings."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""


def write_settings(image_processor: ImageProcessor, save: Path, *, beside: str | os.PathLike[str]) -> None:
    """Write an image processor's settings in the folder ``save``, whose files are to replace those of ``beside``."""
    settings = image_processor.to_dict()
    write_json(save / PREPROCESSOR, settings)
    # A file that can't be read is left to its own readers.
    with contextlib.suppress(ChameleonVQError):
        processor = read_json(stored(beside, PROCESSOR))
        if isinstance(processor.get("image_processor"), dict):
            write_json(save / PROCESSOR, {**processor, "image_processor": settings})


def settings_of(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], str] | None:
    """Return the settings of a folder's image processor and the file that has them, or None if none has.

    As in ``transformers``, ``image_processor`` of ``processor_config.json`` comes before ``preprocessor_config.json``.
    Raises ``FileFormatError``.
    """
    root = Path(folder)
    processor, preprocessor = stored(root, PROCESSOR), stored(root, PREPROCESSOR)
    if os.path.isfile(processor):
        nested = read_json(processor).get("image_processor")
        if isinstance(nested, dict):
            return nested, f"{processor} (image_processor)"
    if os.path.isfile(preprocessor):
        return read_json(preprocessor), str(preprocessor)
    return None


def required_settings_of(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Return what ``settings_of`` does. Raises ``MissingFileError`` where a folder has no settings."""
    settings = settings_of(folder)
    if settings is None:
        raise MissingFileError(
            f"{folder} has no {PREPROCESSOR}, and no {PROCESSOR} with an image_processor; expected one of them."
        )
    return settings
