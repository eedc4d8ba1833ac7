"""What is checked before a run begins, so that it doesn't fail after hours: documents and weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from ..divided import local_part
from ..errors import ContextLengthError, WeightsError
from .data import TokenDataset, TokenDocument
from .errors import DatasetError


def check_document(document: TokenDocument, *, vocab_size: int, sequence_length: int) -> None:
    """Check that a document can be trained on.

    Raises ``DatasetError`` for fewer than two ids or an id outside the vocabulary, ``ContextLengthError`` for a
    document that is longer than a row.
    """
    if len(document) < 2:
        raise DatasetError(
            f"document {document.key!r} has {len(document)} ids; expected at least 2, an input and a target."
        )
    if len(document) - 1 > sequence_length:
        raise ContextLengthError(
            f"document {document.key!r} has {len(document)} ids and a row has room for {sequence_length + 1}. "
            "Split it, or raise sequence_length."
        )
    if document.ids.min() < 0 or document.ids.max() >= vocab_size:
        place = int(np.flatnonzero((document.ids < 0) | (document.ids >= vocab_size))[0])
        raise DatasetError(
            f"document {document.key!r} has the id {document.ids[place]} at position {place}, outside of the "
            f"vocabulary; expected 0…{vocab_size - 1}. Ids without a loss are masked by trained=, not by -100."
        )


def check_documents(documents: object, *, vocab_size: int, sequence_length: int) -> None:
    """Check each document of a list or of a dataset as ``check_document`` does.

    The documents of other objects may be computed when they are asked for, so the trainer checks each of these in the
    step that takes it.
    """
    if isinstance(documents, TokenDataset):
        for index in documents.suspects(vocab_size=vocab_size, min_length=2, max_length=sequence_length + 1):
            check_document(documents[index], vocab_size=vocab_size, sequence_length=sequence_length)
    elif isinstance(documents, list | tuple):
        for document in documents:
            check_document(document, vocab_size=vocab_size, sequence_length=sequence_length)


@torch.no_grad()
def check_weights(named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise ``WeightsError`` with the names of the parameters that hold NaN or infinity."""
    # One sum says that all are finite, and isn't finite itself where one value isn't; it may also overflow.
    bad = [
        name
        for name, parameter in ((name, local_part(parameter)) for name, parameter in named)
        if parameter.is_floating_point() and not parameter.sum().isfinite() and not parameter.isfinite().all()
    ]
    if bad:
        raise WeightsError(
            f"these weights hold NaN or infinity: {', '.join(bad)}. Training can't start from them; load an intact "
            "checkpoint."
        )
