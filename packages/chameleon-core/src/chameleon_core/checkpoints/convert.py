"""Conversion of a model's weights from multi-head to grouped-query attention."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._boundary import translates_errors
from ..config import ChameleonConfig
from ..errors import ConfigError, WeightsError
from ..formats import Checkpoint, StoredTensor
from .quantization_plan import QUANTIZATION_RECORD

# The norm has a row per head, the projections head_dim rows per head.
_POOLED = re.compile(r"model\.layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """What ``pool_key_value_heads`` returns."""

    config: ChameleonConfig
    """The config with the new number of key/value heads."""
    state_dict: dict[str, Tensor]
    """The state dict of the converted model."""


@translates_errors
def pool_key_value_heads(
    config: ChameleonConfig, state_dict: Mapping[str, Tensor], num_key_value_heads: int
) -> ConvertedWeights:
    """Convert a model to fewer key/value heads, each the mean of the heads that it replaces (GQA, arXiv 2305.13245).

    Neighbouring heads are pooled: the weights and biases of the key and value projections and of the key's qk-norm.
    Values are linear in their weights, so a pooled value is the mean of the old values. Keys pass through the norm,
    which isn't linear: a pooled key is the mean of the old keys only where the heads of a group have equal projections,
    or equal norms and scales. The converted model is meant to be trained further, as in the paper. Means are computed
    in float32 and rounded once.

    Raises ``ConfigError`` where ``num_key_value_heads`` doesn't divide that of the model, and ``WeightsError`` for keys
    and values of another shape than the config's.
    """
    converted = _converted_config(config, num_key_value_heads)
    pooled = {
        name: _pool(tensor, num_key_value_heads, config) if _is_pooled(name, tensor, config) else tensor
        for name, tensor in state_dict.items()
    }
    return ConvertedWeights(converted, pooled)


@translates_errors
def pool_checkpoint(checkpoint: Checkpoint, num_key_value_heads: int) -> Checkpoint:
    """Convert a checkpoint as ``pool_key_value_heads`` does. A tensor is pooled when it is loaded.

    ``write_checkpoint(pool_checkpoint(read_checkpoint(folder), 8), new_folder)`` converts a folder without loading the
    whole model. Raises errors as ``pool_key_value_heads`` does, and ``ConfigError`` for a quantized checkpoint.
    """
    config = checkpoint.config
    if QUANTIZATION_RECORD in config.extras:
        raise ConfigError(
            "heads of a quantized checkpoint can't be pooled. Pool the float checkpoint, then quantize it."
        )
    converted = _converted_config(config, num_key_value_heads)
    tensors = {
        name: _pool_stored(stored, num_key_value_heads, config) if _is_pooled(name, stored, config) else stored
        for name, stored in checkpoint.tensors.items()
    }
    return replace(checkpoint, config=converted, tensors=tensors)


def _converted_config(config: ChameleonConfig, num_key_value_heads: int) -> ChameleonConfig:
    if num_key_value_heads < 1 or config.num_key_value_heads % num_key_value_heads:
        raise ConfigError(
            f"num_key_value_heads must divide that of the model, {config.num_key_value_heads}; "
            f"got {num_key_value_heads}."
        )
    return config.replace(num_key_value_heads=num_key_value_heads)


def _is_pooled(name: str, tensor: Tensor | StoredTensor, config: ChameleonConfig) -> bool:
    """Whether a tensor has an axis of key/value heads. Raises ``WeightsError`` for one of another shape."""
    match = _POOLED.fullmatch(name)
    if match is None:
        return False
    rows = config.num_key_value_heads * config.head_dim
    shapes = {"k_norm": (config.num_key_value_heads, config.head_dim), "bias": (rows,)}
    expected = shapes.get(match[1]) or shapes.get(match[2]) or (rows, config.hidden_size)
    if tuple(tensor.shape) != expected:
        raise WeightsError(f"{name} has the shape {tuple(tensor.shape)}, expected {expected} of this config.")
    return True


def _pool(tensor: Tensor, groups: int, config: ChameleonConfig) -> Tensor:
    """Return the mean over each group of heads, of a tensor whose first axis is the heads, or heads × head width."""
    heads = config.num_key_value_heads
    grouped = tensor.reshape(groups, heads // groups, tensor.shape[0] // heads, *tensor.shape[1:])
    return grouped.mean(dim=1, dtype=torch.float32).to(tensor.dtype).flatten(0, 1)


def _pool_stored(stored: StoredTensor, groups: int, config: ChameleonConfig) -> StoredTensor:
    rows = stored.shape[0] * groups // config.num_key_value_heads
    return StoredTensor((rows, *stored.shape[1:]), stored.dtype, lambda: _pool(stored.load(), groups, config))
