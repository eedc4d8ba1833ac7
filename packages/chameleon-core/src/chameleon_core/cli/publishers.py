"""Which publisher's layout a folder has, what it lacks, and what to do, for ``chameleon doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._commits import stored
from .._files import read_json
from ..checkpoints import read_checkpoint
from ..config import CONFIG_FILE
from ..errors import ChameleonCoreError
from ..family import UNPERMUTED
from ..formats.contract import IMAGE_DECODER_PREFIX, IMAGE_PREFIX
from ..formats.gguf import is_gguf
from ..formats.hf import open_weights

PUBLISHED = "Meta's release in the layout of transformers, which has no decoder"
_TOKENIZERS = ("tokenizer.json", "text_tokenizer.json")
_NO_IMAGE_TOKENIZER = (
    "no image tokenizer: pass image_tokenizer=, a folder with Meta's vqgan.yaml and vqgan.ckpt, for instance"
)
_NO_TOKENIZER = "no tokenizer: pass processor=, a folder of the family that has one"


def publisher_of(folder: Path) -> str:
    """Return which publisher's layout a folder has, in words."""
    data = _config(folder)
    if is_gguf(folder):
        return "llama.cpp's GGUF, the transformer's text path"
    if data is None:
        return "Meta's own layout, or another checkpoint format"
    names = _tensor_names(folder)
    architectures = " ".join(map(str, data.get("architectures") or ()))
    if UNPERMUTED in data:
        return "an early fork for training, whose queries and keys rotate adjacent pairs"
    if "action_dim" in data or any(name.startswith("action_head.") for name in names):
        return "RynnVLA-002 or WorldVLA"
    if any(name.startswith(("mlp_head.", "model.codebook_in")) for name in names):
        return "Orthus"
    if "XLLMX" in architectures:
        return "Lumina-mGPT"
    if data.get("model_type") == "anole" or "boi_token_id" in data:
        return "Anole, or a model trained from it"
    if any(name.startswith(IMAGE_DECODER_PREFIX) for name in names):
        return "transformers' layout with a decoder"
    return PUBLISHED


def missing_parts(folder: Path) -> Iterator[str]:
    """Yield what a folder lacks or needs, each a clause with what to do."""
    data, names = _config(folder), _tensor_names(folder)
    if is_gguf(folder):
        yield from _missing_of_gguf(folder)
    if data is None or not names:
        return
    if UNPERMUTED in data:
        yield "queries and keys rotate adjacent pairs: pass rotary_layout='pairs'"
    if not any(IMAGE_PREFIX in name for name in names):
        yield _NO_IMAGE_TOKENIZER
    elif not any(IMAGE_DECODER_PREFIX in name for name in names):
        yield "pictures are read and not drawn, for want of a decoder: pass image_tokenizer= of a folder that has one"
    if not any(os.path.isfile(stored(folder, name)) for name in _TOKENIZERS):
        yield _NO_TOKENIZER
    if any(name.startswith(("action_head.", "mlp_head.", "model.codebook_in")) for name in names):
        yield "heads of its own: pass extra_weights='keep'"


def _missing_of_gguf(place: Path) -> Iterator[str]:
    checkpoint = read_checkpoint(place)
    if not any(name.startswith(IMAGE_PREFIX) for name in checkpoint.tensors):
        yield _NO_IMAGE_TOKENIZER
    if _TOKENIZERS[0] not in checkpoint.processor_files:
        yield _NO_TOKENIZER


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(stored(folder, CONFIG_FILE))
    except (ChameleonCoreError, OSError):
        return None


def _tensor_names(folder: Path) -> Iterable[str]:
    try:
        return tuple(open_weights(folder))
    except (ChameleonCoreError, OSError):
        return ()
