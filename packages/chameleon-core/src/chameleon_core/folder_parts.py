"""The image tokenizer and the processor in a model's folder, whatever its format.

chameleon-vq and chameleon-text read the layout of ``transformers``. Of a folder in another format they get the tensors
and the files that the format reads, so that neither knows of formats.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from . import optional_packages
from ._boundary import translates_errors
from ._commits import read_whole, stored
from ._files import parse_json, read_json, writing
from .checkpoints import IMAGE_PREFIX, read_checkpoint
from .checkpoints.published import is_canonical
from .config import CONFIG_FILE
from .errors import CheckpointWarning, FileFormatError, MissingFileError
from .formats.hf import PROCESSOR_FILES, open_weights
from .formats.meta_words import find_words, processor_files
from .optional_packages import text_package, vq_package
from .protocols import ImageTokenizerLike, ProcessorLike

_TOKENIZER, _PREPROCESSOR = PROCESSOR_FILES[0], "preprocessor_config.json"
_ATTACH = (
    "Pass image_tokenizer= to Chameleon.from_pretrained (on the command line --image-tokenizer): another folder of the "
    "family that has one, a registered name, or a folder with Meta's vqgan.yaml and vqgan.ckpt."
)


@translates_errors
def load_image_tokenizer(folder: Path, *, device: torch.device | str, check_finite: bool = True) -> ImageTokenizerLike:
    """Load the image tokenizer of a model's folder.

    Raises ``MissingPackageError`` without chameleon-vq, ``MissingFileError`` where the folder has none.
    """
    if os.path.isfile(stored(folder, CONFIG_FILE)):
        names = _tensor_names(folder)
        # chameleon-vq knows no names that wrappers changed, and no leftovers.
        if all(IMAGE_PREFIX not in name or is_canonical(name) for name in names):
            has_layers = any(name.startswith("model.layers.") for name in names)
            if has_layers and not any(name.startswith(IMAGE_PREFIX) for name in names):
                raise MissingFileError(f"{folder} has no image tokenizer: no tensors named {IMAGE_PREFIX}*. {_ATTACH}")
            return optional_packages.load_image_tokenizer(folder, device=device, check_finite=check_finite)
    package = vq_package()  # without it nothing needs to be read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # loading the model listed what isn't read
        checkpoint = read_checkpoint(folder, rotary_layout="halves")
    tensors = {
        name.removeprefix(IMAGE_PREFIX): tensor.load()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(IMAGE_PREFIX)
    }
    if not tensors:
        raise MissingFileError(f"{folder} has no image tokenizer. {_ATTACH}")
    settings = checkpoint.processor_files.get(_PREPROCESSOR)
    made: ImageTokenizerLike = package.image_tokenizer_of(
        tensors,
        dict(checkpoint.config.vq_config or {}),
        image_processor=None if settings is None else parse_json(settings(), f"{folder} ({_PREPROCESSOR})"),
        source=str(folder),
        device=device,
        check_finite=check_finite,
    )
    return made


def _tensor_names(folder: Path) -> Collection[str]:
    """Return the names of a folder's tensors; none where they can't be read, of which chameleon-vq says why."""
    try:
        return read_whole(folder, lambda: open_weights(folder)).keys()
    except FileFormatError:
        return ()


@translates_errors
def picture_settings(folder: Path) -> dict[str, Any] | None:
    """Return the constants that a model's folder prepares pictures by, None where it has none."""
    if os.path.isfile(stored(folder, _PREPROCESSOR)):
        return read_json(stored(folder, _PREPROCESSOR))
    if os.path.isfile(stored(folder, CONFIG_FILE)):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # loading the model listed what isn't read
        settings = read_checkpoint(folder, rotary_layout="halves").processor_files.get(_PREPROCESSOR)
    data = None if settings is None else parse_json(settings(), f"{folder} ({_PREPROCESSOR})")
    return data if isinstance(data, dict) else None


@translates_errors
def load_processor(
    folder: Path, *, image_tokenizer: ImageTokenizerLike | None = None, picture_format: Any = None
) -> ProcessorLike:
    """Load the processor of a model's folder.

    ``picture_format`` says how pictures of several sizes are written; None where all have one. Raises
    ``MissingPackageError`` without chameleon-text, ``MissingFileError`` where the folder has no tokenizer.
    """
    load = optional_packages.load_processor
    if os.path.isfile(stored(folder, CONFIG_FILE)) or os.path.isfile(stored(folder, _TOKENIZER)):
        return load(folder, image_tokenizer=image_tokenizer, picture_format=picture_format)
    text_package()  # without it nothing needs to be read
    files = read_checkpoint(folder).processor_files
    if _TOKENIZER not in files:
        raise MissingFileError(f"{folder} has no tokenizer: no {_TOKENIZER}, and no text_tokenizer.json of Meta's.")
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), files)
        return load(Path(scratch), image_tokenizer=image_tokenizer, picture_format=picture_format)


@translates_errors
def load_words(
    folder: Path, *, image_tokenizer: ImageTokenizerLike | None = None, picture_format: Any = None
) -> ProcessorLike | None:
    """Load a processor of Meta's ``text_tokenizer.json`` in a folder of tokenizers alone; None where there is none."""
    path = find_words([folder, folder / "tokenizer"])
    if path is None:
        return None
    tokens = 1024 if image_tokenizer is None else image_tokenizer.tokens_per_image  # the published number
    files = processor_files(path, image_seq_length=tokens, resolution=16 * math.isqrt(tokens))
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), files)
        load = optional_packages.load_processor
        return load(Path(scratch), image_tokenizer=image_tokenizer, picture_format=picture_format)


def write_files(folder: Path, files: Mapping[str, Callable[[], bytes]]) -> None:
    """Write a processor's files. Raises ``FileAccessError`` where the folder can't be written."""
    for name, content in files.items():
        with writing(folder / name):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content())
