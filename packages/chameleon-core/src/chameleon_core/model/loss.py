"""The loss of ``ChameleonForConditionalGeneration``; training has a cheaper one (``chameleon_core.training.loss``).

Shapes: B batch, T query length, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, VocabularyError

IGNORE_INDEX = -100
"""The label of positions without a loss, as in ``torch.nn.functional.cross_entropy``."""


def next_token_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the mean cross-entropy of each label given the ids before it, in float32.

    ``labels_BT`` int64 are the ids themselves, shifted here; positions with ``IGNORE_INDEX`` don't count. Raises
    ``InputError`` where the labels don't have the positions of the logits, ``VocabularyError`` where one is outside the
    vocabulary.
    """
    if labels_BT.shape != logits_BTV.shape[:2]:
        raise InputError(
            f"labels {list(labels_BT.shape)} must have the positions of the logits {list(logits_BTV.shape[:2])}; "
            "leave logits_to_keep at 0 when training."
        )
    # On a GPU an index out of range would end the process. A compiled graph isn't broken for this.
    if not torch.compiler.is_compiling():
        outside_BT = ((labels_BT < 0) | (labels_BT >= logits_BTV.shape[-1])) & (labels_BT != IGNORE_INDEX)
        if outside_BT.any():
            row, place = outside_BT.nonzero()[0].tolist()
            raise VocabularyError(
                f"labels[{row}, {place}] is {int(labels_BT[row, place])}; expected ids 0…{logits_BTV.shape[-1] - 1}, "
                f"or {IGNORE_INDEX} for positions without a loss."
            )
    logits_MV = logits_BTV[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits_MV, labels_BT[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
