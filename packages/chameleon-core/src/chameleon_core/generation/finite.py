"""The check that logits are finite before an id is chosen from them, and the likely cause where they aren't.

Shapes: R rows, A ids that may be chosen (of text, or the codes of a picture).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import GenerationError
from .rows import Row

_NAMES_LISTED = 3


def is_finite(logits_RA: Tensor) -> bool:
    """Return whether logits hold no NaN and no infinity, and their sum doesn't overflow."""
    return math.isfinite(float(logits_RA.sum()))  # the cheapest read of all of them


def find_not_finite(
    logits_RA: Tensor, rows: Sequence[Row], model: object, *, option: str | None = None
) -> dict[int, GenerationError]:
    """Return an error with the row, the step and the likely cause for each place whose logits hold NaN or infinity.

    ``option`` are the options that changed logits which were finite before. ``model`` is None where it isn't at hand.
    """
    if is_finite(logits_RA):
        return {}
    bad_R = (~logits_RA.isfinite()).sum(dim=-1).tolist()
    if not any(bad_R):
        return {}
    cause = f"{option} made them overflow; use a value nearer to 1." if option else _likely_cause(model)
    return {
        place: GenerationError(
            f"row {row.index}, step {len(row.new_ids)}: {bad} of {logits_RA.shape[-1]} logits are NaN or infinite. "
            + cause
        )
        for place, (row, bad) in enumerate(zip(rows, bad_R, strict=True))
        if bad
    }


def _likely_cause(model: object) -> str:
    if model is None:
        return "Its weights aren't finite, or its activations overflow."
    tensors = [*model.named_parameters(), *model.named_buffers()] if isinstance(model, nn.Module) else []
    floats = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    broken = [name for name, tensor in floats if not tensor.float().isfinite().all()]
    if broken:
        more = f" and {len(broken) - _NAMES_LISTED} more" if len(broken) > _NAMES_LISTED else ""
        return (
            f"The model's weights aren't finite: {', '.join(broken[:_NAMES_LISTED])}{more}. Load an intact checkpoint."
        )
    dtypes = {tensor.dtype for _, tensor in floats}
    if torch.float16 in dtypes:
        return "float16 overflows beyond 65,504; load the model with dtype='bfloat16' or dtype='float32'."
    return "The model's weights are finite, so its activations overflow; check its config against the checkpoint's."
