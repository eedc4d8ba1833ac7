"""Bring the tensors that publishers and trainers stored otherwise into the canonical layout, and drop what they left.

Tensors are changed when they are loaded, so that a folder is still read one tensor at a time.

Shapes: R ranks or rows that a norm was stored in, H heads, D width of a head.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from torch import Tensor

from .._commits import stored
from .._files import read_json
from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import CheckpointWarning, ConfigError, FileAccessError, FileFormatError
from ..family import UNPERMUTED
from ..formats import Checkpoint, StoredTensor
from .packed_checkpoints import unpacked

LEFTOVERS: Mapping[str, str] = {
    r"(.*\.)?rotary_emb\.inv_freq": "a buffer that follows from the configuration",
    r"(.*\.)?img2bpe_mapping_tensor": "a buffer that follows from the vocabulary",
    r"(model\.vqmodel\.)?loss\..*": "of the training of the image tokenizer",
}
"""Patterns of the names of tensors that are no part of a model, and what they are."""
WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "base_layer.": "peft",
}
"""Parts of names that wrappers of modules add, and whose they are."""
EXTRA_HEADS: Mapping[str, str] = {
    "action_head.": "the head for a robot's actions of RynnVLA-002 and WorldVLA",
    "mlp_head.": "the head for pictures of Orthus",
    "model.codebook_in": "the embeddings of pictures of Orthus",
}
"""Beginnings of the names of weights of finetunes that this model has no place for, and what they are."""
ROTARY_LAYOUTS = ("halves", "pairs")
"""Which numbers of a head the rotary embedding turns together: i and i + D/2, or adjacent ones."""

_WRAPPER = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, WRAPPERS))})")
_QK_NORM = re.compile(r"(?:model\.)?layers\.\d+\.self_attn\.([qk])_norm\.(?:weight|bias)")
_QK_ROWS = re.compile(r"(?:model\.)?layers\.\d+\.self_attn\.([qk])_proj\.(?:weight|bias)")


def canonical(
    checkpoint: Checkpoint, *, source: str, rotary_layout: str | None = None, dequantize: bool = False
) -> Checkpoint:
    """Return a checkpoint with the names and shapes that the model has, without what trainers left.

    A ``CheckpointWarning`` lists what was dropped and renamed. ``rotary_layout`` is that of the query and key rows,
    "pairs" or "halves"; None is halves, as in every published folder but those of one early fork. Layers of GPTQ, AWQ
    and compressed-tensors become ours where these hold the same numbers, else, or with ``dequantize``, floats. Raises
    ``ConfigError`` for such a fork's folder where it isn't given, ``FileFormatError`` where two tensors have one name.
    """
    tensors = _without_leftovers(_unwrapped(checkpoint.tensors, source), source)
    # Rows that are packed can't be put in another order.
    dequantize = dequantize or rotary_layout == "pairs"
    checkpoint = unpacked(replace(checkpoint, tensors=tensors), source=source, dequantize=dequantize)
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    tensors = {name: _per_head(name, tensor, config) for name, tensor in tensors.items()}
    if rotary_layout is None and config.extras.get(UNPERMUTED):
        raise ConfigError(
            f"{source} says {UNPERMUTED} in its configuration, as an early fork does, whose queries and keys rotate "
            "adjacent pairs, like Meta's. Pass rotary_layout='pairs' to convert them, or 'halves' if that was done."
        )
    if rotary_layout not in (None, *ROTARY_LAYOUTS):
        raise ConfigError(f"rotary_layout must be 'halves' or 'pairs'; got {rotary_layout!r}.")
    if rotary_layout == "pairs":
        tensors = {name: _as_halves(name, tensor, config) for name, tensor in tensors.items()}
    if rotary_layout is not None and UNPERMUTED in config.extras:
        config = config.replace(extras={name: each for name, each in config.extras.items() if name != UNPERMUTED})
    return replace(checkpoint, config=config, tensors=tensors)


def leaves_rotary_open(folder: Path) -> bool:
    """Return whether a folder is one that ``rotary_layout`` must be given for: an early fork's."""
    path = stored(folder, CONFIG_FILE)
    return os.path.isfile(path) and bool(read_json(path).get(UNPERMUTED))


def check_family(folder: Path) -> None:
    """Raise ``ConfigError`` where a folder is another model's that calls itself one of the family."""
    path = stored(folder, "tokenizer_config.json")
    if not os.path.isfile(path):
        return
    try:
        name = str(read_json(path).get("tokenizer_class"))
    except (FileFormatError, FileAccessError):
        return  # chameleon-text says what is wrong
    if name.startswith("Qwen"):
        raise ConfigError(
            f"{folder} has the tokenizer {name}: this is Lumina-mGPT 2.0 or one like it, another model with another "
            "vocabulary and image tokenizer, though its model_type is of the family. Use its own code."
        )


def is_canonical(name: str) -> bool:
    """Return whether a tensor is part of a model under the name that it has."""
    return not _WRAPPER.search(name) and not any(re.fullmatch(pattern, name) for pattern in LEFTOVERS)


def what_heads(names: Iterable[str]) -> str:
    """Return what the known ones among tensors without a place are, and what keeps them; "" where there are none."""
    known = {what for name in names for beginning, what in EXTRA_HEADS.items() if name.startswith(beginning)}
    if not known:
        return ""
    return f". This is {' and '.join(sorted(known))}: extra_weights='keep' loads the model and keeps it beside"


def _unwrapped(tensors: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    wrappers: set[str] = set()
    for name, tensor in tensors.items():
        wrappers.update(part for part in _WRAPPER.findall(name))
        plain = _WRAPPER.sub("", name)
        if plain in found:
            raise FileFormatError(f"{source} has two tensors {plain}, one of them as {name}. Remove one.")
        found[plain] = tensor
    if wrappers:
        listed = ", ".join(f"{part!r} of {WRAPPERS[part]}" for part in sorted(wrappers))
        _warn(f"{source} has tensors under the names of wrapped modules; read without {listed}.")
    return found


def _without_leftovers(tensors: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor]:
    left: dict[str, list[str]] = {}
    for name in tensors:
        for pattern, what in LEFTOVERS.items():
            if re.fullmatch(pattern, name):
                left.setdefault(what, []).append(name)
    if not left:
        return dict(tensors)
    listed = "; ".join(f"{names[0]}{_more(names)}, {what}" for what, names in left.items())
    _warn(f"{source} holds tensors that no part of the model is made of, and that aren't read: {listed}.")
    dropped = {name for names in left.values() for name in names}
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _warn(message: str) -> None:
    warnings.warn(message, CheckpointWarning, stacklevel=4)


def _per_head(name: str, tensor: StoredTensor, config: ChameleonConfig) -> StoredTensor:
    """Return a norm of queries or keys [R, D] or [D] as [H, D], each row for the heads that it served."""
    match = _QK_NORM.fullmatch(name)
    if match is None or not config.qk_norm:
        return tensor
    heads = config.num_attention_heads if match[1] == "q" else config.num_key_value_heads
    *leading, width = tensor.shape or (0,)
    rows = prod(leading)
    if len(leading) > 1 or width != config.head_dim or rows == 0 or heads % rows:
        return tensor  # an error of its own, with both shapes
    if tensor.shape == (heads, config.head_dim):
        return tensor

    def load() -> Tensor:
        stored_RD = tensor.load().reshape(rows, config.head_dim)
        return stored_RD.repeat_interleave(heads // rows, dim=0)

    return StoredTensor((heads, config.head_dim), tensor.dtype, load)


def _as_halves(name: str, tensor: StoredTensor, config: ChameleonConfig) -> StoredTensor:
    """Return query and key rows, or their norms, whose adjacent pairs rotate, in the order where halves do."""
    axis = 0 if _QK_ROWS.fullmatch(name) else -1 if _QK_NORM.fullmatch(name) else None
    if axis is None or not tensor.shape or tensor.shape[axis] % config.head_dim:
        return tensor  # what doesn't fit is an error of its own

    def load() -> Tensor:
        stored = tensor.load()
        moved = stored.movedim(axis, 0)
        pairs = moved.reshape(-1, config.head_dim // 2, 2, *moved.shape[1:])
        return pairs.transpose(1, 2).reshape(moved.shape).movedim(0, axis).contiguous()

    return StoredTensor(tensor.shape, tensor.dtype, load)
