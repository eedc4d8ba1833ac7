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


LOSS_ARGUMENTS = ("num_items_in_batch", "shift_labels", "ignore_index")
"""The arguments of ``forward`` that are the loss's."""


def next_token_loss(
    logits: Tensor,
    labels: Tensor | None = None,
    vocab_size: int | None = None,
    *,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the mean cross-entropy of each label given the ids before it, in float32.

    ``labels`` int64 [B, T] are the ids themselves, shifted here, and ``shift_labels`` [B, T] those that are shifted
    already; positions with ``ignore_index`` don't count. The sum is divided by ``num_items_in_batch`` in the place of
    the number of labels, where it is given: a trainer counts the labels of several batches. Raises ``InputError`` where
    the labels don't have the positions of the logits, ``VocabularyError`` where one is outside the vocabulary.
    """
    given = labels if shift_labels is None else shift_labels
    if given is None:
        raise InputError("num_items_in_batch is the number of labels in a batch; pass labels, too.")
    if given.shape != logits.shape[:2]:
        raise InputError(
            f"labels {list(given.shape)} must have the positions of the logits {list(logits.shape[:2])}; "
            "leave logits_to_keep at 0 when training."
        )
    if vocab_size not in (None, logits.shape[-1]):
        raise InputError(f"vocab_size is {vocab_size}; the logits have {logits.shape[-1]} ids.")
    # On a GPU an index out of range would end the process. A compiled graph isn't broken for this.
    if not torch.compiler.is_compiling():
        outside_BT = ((given < 0) | (given >= logits.shape[-1])) & (given != ignore_index)
        if outside_BT.any():
            row, place = outside_BT.nonzero()[0].tolist()
            raise VocabularyError(
                f"labels[{row}, {place}] is {int(given[row, place])}; expected ids 0…{logits.shape[-1] - 1}, "
                f"or {ignore_index} for positions without a loss."
            )
    targets_BT = given[:, 1:] if shift_labels is None else given
    logits_MV = logits[:, : targets_BT.shape[1]].flatten(0, 1).float()
    targets_M = targets_BT.flatten().to(logits.device)
    if num_items_in_batch is None:
        return F.cross_entropy(logits_MV, targets_M, ignore_index=ignore_index)
    total = F.cross_entropy(logits_MV, targets_M, ignore_index=ignore_index, reduction="sum")
    return total / num_items_in_batch
