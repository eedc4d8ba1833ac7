"""What a folder has that isn't a model: a part of one, adapters, or nothing, and what to do with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._commits import stored
from .._files import read_json
from ..config import CONFIG_FILE
from ..errors import ChameleonCoreError
from ..family import IMAGE_TOKENIZER_TYPE

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""The files of peft."""
_IMAGE_FILES = ("vqgan.ckpt", "vqgan.yaml")
_TEXT_FILES = ("text_tokenizer.json", "tokenizer.json")
_PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
_LOAD_LORA = "chameleon_core.training.load_lora(model, folder)"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What a folder is."""

    what: str
    """It, in words."""
    advice: str
    """What to do with it, a clause."""
    is_usable: bool = True
    """Whether it is something that this toolkit takes."""


def part_in(folder: Path) -> FolderKind | None:
    """Return what a folder without a model has, None where it may have a model."""

    def has(*names: str) -> bool:
        return any(os.path.isfile(stored(folder, name)) for name in names)

    if not os.path.isdir(folder):
        return None  # a model that is a file
    if has(CONFIG_FILE):
        if _read(stored(folder, CONFIG_FILE)).get("model_type") != IMAGE_TOKENIZER_TYPE:
            return None
        return FolderKind("an image tokenizer alone", "pass it as image_tokenizer= (--image-tokenizer) with a model")
    if has(*ADAPTER_FILES):
        base = _read(stored(folder, ADAPTER_FILES[0])).get("base_model_name_or_path")
        return FolderKind(
            "adapters alone, of peft",
            f"load the model that they were trained on ({str(base)[:200] or 'not named'}), then {_LOAD_LORA}",
        )
    with_words = has(*_TEXT_FILES)
    if has(*_IMAGE_FILES):
        lacks = [name for name in _IMAGE_FILES if not has(name)]
        if lacks:
            return FolderKind(f"an image tokenizer of Meta's without {lacks[0]}", f"put {lacks[0]} there", False)
        if with_words:
            return FolderKind(
                "Meta's tokenizers alone",
                "pass it as image_tokenizer= (--image-tokenizer), which gives both, with a model",
            )
        return FolderKind("an image tokenizer of Meta's alone", "pass it as image_tokenizer= (--image-tokenizer)")
    if with_words:
        return FolderKind("a processor alone", "pass it as processor= (--processor) with a model")
    if has(*_PICTURE_FILES):
        return FolderKind(
            "settings of pictures alone", "put the files of a model, or of a tokenizer, beside them", False
        )
    if all(path.name.startswith(".") for path in folder.iterdir()):
        return FolderKind("an empty folder", "download or convert a model to it", False)
    return None


def adapters_beside(folder: Path) -> str | None:
    """Return that a model's folder has adapters, too, which aren't loaded with it, a sentence; None where it hasn't."""
    found = [name for name in ADAPTER_FILES[1:] if os.path.isfile(stored(folder, name))]
    if not found:
        return None
    return f"{folder} has adapters in {found[0]}, too, which aren't loaded with the model. Load them: {_LOAD_LORA}."


def what_adapters(names: Any) -> str:
    """Return what tensors of adapters among others are, and what to do; "" where there are none."""
    if not any(is_adapter(name) for name in names):
        return ""
    return (
        ". Those with lora in their names are adapters of peft, which change what the layers compute: merge them "
        f"(merge_and_unload) before saving, or save them alone (the adapter's save_pretrained) and load them by "
        f"{_LOAD_LORA}"
    )


def is_adapter(name: str) -> bool:
    """Return whether a tensor is a part of an adapter."""
    return any(part.startswith("lora_") for part in name.split("."))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ChameleonCoreError:
        return {}
