"""Conversions of a model's weights: from multi-head to grouped-query attention.

Shapes: H old key/value heads, G new ones, P = H / G old heads that become one, D head width, E hidden width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import ChameleonConfig
from ..errors import ConfigError
from ..formats import Checkpoint, StoredTensor
from .quantization_plan import QUANTIZATION_RECORD

# The norm has a row for each head; the projections have head_dim rows for each.
_POOLED = re.compile(r"model\.layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """A config and the state dict that fits it."""

    config: ChameleonConfig
    state_dict: dict[str, Tensor]


def pool_key_value_heads(
    config: ChameleonConfig, state_dict: Mapping[str, Tensor], num_key_value_heads: int
) -> ConvertedWeights:
    """Give a model fewer key/value heads, each the mean of the old heads that it replaces (GQA, arXiv 2305.13245).

    Neighbouring heads are pooled: weights and biases of the key and value projections, and those of the key's qk-norm.
    Values are linear in their weights, so a pooled value is the mean of the old ones. Keys pass through the norm, which
    isn't linear: a pooled key is the mean of the old ones where the heads of a group had equal projections or equal
    norms and scales, and only near it elsewhere. Pooling the norms is what keeps that exact case exact; the model is
    then trained on, as the paper does. Means are taken in float32 and rounded once.

    Raises ``ConfigError`` where ``num_key_value_heads`` doesn't divide the number that the model has.
    """
    converted = _converted_config(config, num_key_value_heads)
    pooled = {
        name: _pool(tensor, num_key_value_heads, config) if _POOLED.fullmatch(name) else tensor
        for name, tensor in state_dict.items()
    }
    return ConvertedWeights(converted, pooled)


def pool_checkpoint(checkpoint: Checkpoint, num_key_value_heads: int) -> Checkpoint:
    """The same for a checkpoint on disk: a tensor is pooled when it is loaded, so that the model never is as a whole.

    ``write_checkpoint(pool_checkpoint(read_checkpoint(folder), 8), new_folder)`` converts a folder. Raises
    ``ConfigError`` as ``pool_key_value_heads`` does, and for a quantized checkpoint.
    """
    config = checkpoint.config
    if QUANTIZATION_RECORD in config.extras:
        raise ConfigError("heads of a quantized checkpoint can't be pooled; pool the float one, and quantize that.")
    converted = _converted_config(config, num_key_value_heads)
    tensors = {
        name: _pool_stored(stored, num_key_value_heads, config) if _POOLED.fullmatch(name) else stored
        for name, stored in checkpoint.tensors.items()
    }
    return replace(checkpoint, config=converted, tensors=tensors)


def _converted_config(config: ChameleonConfig, num_key_value_heads: int) -> ChameleonConfig:
    if num_key_value_heads < 1 or config.num_key_value_heads % num_key_value_heads:
        raise ConfigError(
            f"num_key_value_heads must divide the {config.num_key_value_heads} that the model has; "
            f"got {num_key_value_heads}."
        )
    return config.replace(num_key_value_heads=num_key_value_heads)


def _pool(tensor: Tensor, groups: int, config: ChameleonConfig) -> Tensor:
    """The mean over each group of heads, of a tensor whose first axis runs over heads or over heads and their width."""
    heads = config.num_key_value_heads
    grouped = tensor.reshape(groups, heads // groups, tensor.shape[0] // heads, *tensor.shape[1:])
    return grouped.mean(dim=1, dtype=torch.float32).to(tensor.dtype).flatten(0, 1)


def _pool_stored(stored: StoredTensor, groups: int, config: ChameleonConfig) -> StoredTensor:
    rows = stored.shape[0] * groups // config.num_key_value_heads
    return StoredTensor((rows, *stored.shape[1:]), stored.dtype, lambda: _pool(stored.load(), groups, config))
