"""Resizing of a vocabulary: its new size, and the rows of the embeddings and of the output layer.

Shapes: V vocabulary, E hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError


def rounded_size(new_num_tokens: int, pad_to_multiple_of: int) -> int:
    """Return the number of ids, rounded up to a multiple. Raises ``ValueError`` where a number is below 1."""
    if new_num_tokens < 1 or pad_to_multiple_of < 1:
        raise ConfigError(
            f"new_num_tokens and pad_to_multiple_of must be ≥ 1; got {new_num_tokens} and {pad_to_multiple_of}."
        )
    return -(-new_num_tokens // pad_to_multiple_of) * pad_to_multiple_of


def check_resizable(head: nn.Module) -> None:
    """Raise ``ConfigError`` where an output layer isn't the plain one, whose weight can be replaced."""
    if isinstance(head, QuantizedLinear):
        raise ConfigError(
            "the output layer is quantized and can't be resized. Resize the float model, then quantize it."
        )
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"the output layer is wrapped in a {type(head).__name__} and can't be resized. Resize the model, then add "
            "adapters."
        )


def resized_rows(weight_VE: Tensor, size: int) -> Tensor:
    """Return a copy of a weight with ``size`` rows, of which new ones are the mean of the old ones."""
    kept_VE = weight_VE[:size]
    mean_1E = weight_VE.mean(dim=0, keepdim=True)
    return torch.cat((kept_VE, mean_1E.expand(size - len(kept_VE), -1)))
