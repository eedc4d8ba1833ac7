"""Resizing of a vocabulary: its new size, the names of new ids, and the rows of the embeddings and the output layer.

Shapes: V vocabulary, E hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError
from ..layout import added_name


def rounded_size(new_num_tokens: int, pad_to_multiple_of: int) -> int:
    """Return the number of ids, rounded up to a multiple. Raises ``ValueError`` where a number is below 1."""
    for number in (new_num_tokens, pad_to_multiple_of):
        if type(number) is not int or number < 1:
            raise ConfigError(
                "new_num_tokens and pad_to_multiple_of must be integers ≥ 1; got "
                f"{new_num_tokens!r:.80} and {pad_to_multiple_of!r:.80}."
            )
    return -(-new_num_tokens // pad_to_multiple_of) * pad_to_multiple_of


def with_added_names(names: Mapping[str, int] | None, old_size: int, new_size: int) -> dict[str, int] | None:
    """Return a ``vocabulary_map`` in which each new id has a name, and names that were added before and go haven't.

    An id without a name is never generated.
    """
    if names is None:
        return None
    kept = {name: id_ for name, id_ in names.items() if id_ < new_size or name != added_name(id_)}
    return kept | {added_name(id_): id_ for id_ in range(old_size, new_size)}


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


def resized_rows(weight_VE: Tensor, size: int, *, std: float | None = None) -> Tensor:
    """Return a copy of a weight with ``size`` rows, of which new ones are the mean of the old ones.

    With ``std`` new ones are random, with this standard deviation.
    """
    kept_VE = weight_VE[:size]
    added = size - len(kept_VE)
    if std is None:
        new_VE = weight_VE.mean(dim=0, keepdim=True).expand(added, -1)
    else:
        new_VE = std * torch.randn(added, weight_VE.shape[1], dtype=weight_VE.dtype, device=weight_VE.device)
    return torch.cat((kept_VE, new_VE))
