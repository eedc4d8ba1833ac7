"""Which publisher's layout a folder has, what it lacks, and what to do, for ``chameleon doctor``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._commits import stored
from .._files import read_json
from ..checkpoints import read_checkpoint
from ..checkpoints.folder_kinds import adapters_beside, part_in
from ..checkpoints.load import format_of
from ..config import CONFIG_FILE
from ..errors import ChameleonCoreError, CheckpointWarning
from ..family import UNPERMUTED
from ..formats import Checkpoint
from ..formats.contract import IMAGE_DECODER_PREFIX, IMAGE_PREFIX
from ..formats.gguf import is_gguf
from ..formats.hf import has_pickles_alone, open_pickles, open_weights

PUBLISHED = "Meta's release in the layout of transformers, which has no decoder"
_TOKENIZERS = ("tokenizer.json", "text_tokenizer.json")


def publisher_of(folder: Path) -> str:
    """Return which publisher's layout a folder has, or what part of a model, in words."""
    part = part_in(folder)
    if part is not None:
        return part.what
    data = _config(folder)
    if is_gguf(folder):
        return "llama.cpp's GGUF, the transformer's text path"
    if data is None:
        return _format_in_words(folder)
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
    part = part_in(folder)
    if part is not None:
        yield part.advice
        return
    data, names = _config(folder) or {}, _tensor_names(folder)
    if adapters_beside(folder) is not None:
        yield "adapters beside the weights: chameleon_core.training.load_lora(model, folder) loads them"
    if UNPERMUTED in data:
        yield "queries and keys rotate adjacent pairs: pass rotary_layout='pairs' (--rotary-layout pairs)"
    if has_pickles_alone(folder):
        yield "weights in pickles: chameleon convert FOLDER NEW_FOLDER --pickles"
    if not names:
        return
    if not any(IMAGE_PREFIX in name for name in names):
        yield "no image tokenizer: pass image_tokenizer= (--image-tokenizer), a folder with vqgan.ckpt, for instance"
    elif not any(IMAGE_DECODER_PREFIX in name for name in names):
        yield "pictures are read and not drawn, for want of a decoder: pass image_tokenizer= (--image-tokenizer)"
    if not _has_words(folder):
        yield "no tokenizer: pass processor= (--processor), a folder of the family that has one"
    if any(name.startswith(("action_head.", "mlp_head.", "model.codebook_in")) for name in names):
        yield "heads of its own: pass extra_weights='keep'"


def _format_in_words(folder: Path) -> str:
    try:
        name = format_of(folder)
    except ChameleonCoreError:
        return "none that is known"
    return "Meta's own layout" if name == "meta" else f"the checkpoint format {name}"


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(stored(folder, CONFIG_FILE))
    except (ChameleonCoreError, OSError):
        return None


def _tensor_names(folder: Path) -> Collection[str]:
    """Return the names of a folder's tensors as they are stored; none where they can't be read."""
    try:
        if has_pickles_alone(folder):
            return open_pickles(folder).keys()
        if os.path.isfile(stored(folder, CONFIG_FILE)):
            return open_weights(folder).keys()
        return _checkpoint(folder).tensors.keys()
    except (ChameleonCoreError, OSError):
        return ()


def _has_words(folder: Path) -> bool:
    if os.path.isfile(stored(folder, CONFIG_FILE)):
        return any(os.path.isfile(stored(folder, name)) for name in _TOKENIZERS)
    try:
        return _TOKENIZERS[0] in _checkpoint(folder).processor_files
    except (ChameleonCoreError, OSError):
        return False


def _checkpoint(folder: Path) -> Checkpoint:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # reading the model says it
        return read_checkpoint(folder, rotary_layout="halves")
