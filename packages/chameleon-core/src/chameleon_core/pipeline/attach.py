"""Give a model an image tokenizer or a processor from elsewhere, where its folder lacks one, or a decoder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from .._commits import read_whole, stored
from ..checkpoints import IMAGE_PREFIX, read_checkpoint
from ..checkpoints.resolve import resolve_folder
from ..config import CONFIG_FILE
from ..errors import ConfigError, MissingFileError
from ..folder_parts import load_image_tokenizer, load_processor, load_words
from ..formats.hf import open_weights
from ..formats.vqgan_files import find_vqgan, read_vqgan
from ..model import ChameleonForConditionalGeneration
from ..optional_packages import vq_package
from ..protocols import ImageTokenizerLike, ProcessorLike
from .parts import check_image_tokenizer

Source = str | os.PathLike[str]

_META_PIXELS = {
    "resample": 1,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rounding": "meta",
}
"""How Meta's code makes pixels of a picture: −1 … 1."""


def attach_image_tokenizer(
    model: ChameleonForConditionalGeneration, given: Source | ImageTokenizerLike, *, check_finite: bool = True
) -> ImageTokenizerLike:
    """Load an image tokenizer, unless one is given itself, and make it the model's.

    ``given`` is a folder with ``vqgan.yaml`` and ``vqgan.ckpt``, a model's or an image tokenizer's folder, a
    registered name or a Hub id. Raises ``ConfigError`` where it isn't the one that the model's codes are of: it has
    another number of codes, or another encoder or codebook than the model's folder.
    """
    image_tokenizer = other_image_tokenizer(given, model.source, device=model.device, check_finite=check_finite)
    check_image_tokenizer(image_tokenizer, model.layout)
    model.image_tokenizer = image_tokenizer
    return image_tokenizer


def other_image_tokenizer(
    given: Source | ImageTokenizerLike, folder: Path | None, *, device: torch.device | str, check_finite: bool = True
) -> ImageTokenizerLike:
    """Load an image tokenizer, unless one is given itself, for the model in ``folder``.

    Raises ``ConfigError`` where the folder has one of another encoder or codebook.
    """
    if isinstance(given, str | os.PathLike):
        image_tokenizer = _loaded(given, device=device, check_finite=check_finite)
    else:
        image_tokenizer = given
    if folder is not None and _has_own(folder):
        own: Any = load_image_tokenizer(folder, device="cpu", check_finite=False)
        found = getattr(image_tokenizer, "fingerprint", None)
        if found != own.fingerprint:
            raise ConfigError(
                f"the image tokenizer {_named(given)} has another encoder or codebook than the one in {folder}, so its "
                "codes aren't the model's. Take the one that the model was trained with: Meta's for the published "
                "models."
            )
    return image_tokenizer


def find_processor(
    model: ChameleonForConditionalGeneration,
    given: Source | ProcessorLike | None,
    image_tokenizer: ImageTokenizerLike,
    beside: Source | ImageTokenizerLike | None,
) -> ProcessorLike:
    """Return the processor that is given, or that of the model's folder, or that beside its image tokenizer.

    Raises ``MissingFileError`` where there is none, with the argument that gives one.
    """
    assert model.source is not None
    return other_processor(model.source, given, image_tokenizer, beside, model.layout.sized_pictures)


def other_processor(
    folder: Path,
    given: Source | ProcessorLike | None,
    image_tokenizer: ImageTokenizerLike | None,
    beside: Source | ImageTokenizerLike | None,
    sizes: Any,
) -> ProcessorLike:
    """Return what ``find_processor`` does, for the model in ``folder``, whose pictures have ``sizes``."""
    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    if given is not None:
        return _processor_in(resolve_folder(given), image_tokenizer, sizes)
    try:
        return load_processor(folder, image_tokenizer=image_tokenizer, picture_format=sizes)
    except MissingFileError as error:
        places = [Path(beside)] if isinstance(beside, str | os.PathLike) and os.path.isdir(beside) else []
        for place in places:
            if any(os.path.isfile(stored(place, name)) for name in ("tokenizer.json", "text_tokenizer.json")):
                return _processor_in(place, image_tokenizer, sizes)
        raise MissingFileError(
            f"{str(error).rstrip('.')}. Pass processor= (on the command line --processor): another folder of the "
            "family, such as the published 7B model's, whose tokenizer all have."
        ) from error


def _processor_in(folder: Path, image_tokenizer: ImageTokenizerLike | None, sizes: Any) -> ProcessorLike:
    words = load_words(folder, image_tokenizer=image_tokenizer, picture_format=sizes)
    return words or load_processor(folder, image_tokenizer=image_tokenizer, picture_format=sizes)


def _loaded(name: Source, *, device: torch.device | str, check_finite: bool) -> ImageTokenizerLike:
    folder = Path(name)
    places = [folder, folder / "tokenizer"]
    if os.path.isdir(folder) and (found := find_vqgan(places)) is not None:
        config, tensors = read_vqgan(*found)
        made: ImageTokenizerLike = vq_package().image_tokenizer_of(
            {each.removeprefix(IMAGE_PREFIX): tensor.load() for each, tensor in tensors.items()},
            config,
            image_processor=_pixels_of(config),
            source=str(found[1]),
            device=device,
            check_finite=check_finite,
        )
        return made
    if os.path.isdir(folder) and not os.path.isfile(stored(folder, CONFIG_FILE)):
        return load_image_tokenizer(folder, device=device, check_finite=check_finite)
    loaded: ImageTokenizerLike = vq_package().ImageTokenizer.from_pretrained(
        name, device=device, check_finite=check_finite
    )
    return loaded


def _pixels_of(config: dict[str, Any]) -> dict[str, Any]:
    side = config.get("resolution", 512)
    return {**_META_PIXELS, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _has_own(folder: Path) -> bool:
    def names() -> Collection[str]:
        is_hf = os.path.isfile(stored(folder, CONFIG_FILE))
        return (open_weights(folder) if is_hf else read_checkpoint(folder).tensors).keys()

    return any(f"{IMAGE_PREFIX}encoder." in name for name in read_whole(folder, names))


def _named(given: object) -> str:
    return f"in {given}" if isinstance(given, str | os.PathLike) else f"({type(given).__name__}) that was given"
