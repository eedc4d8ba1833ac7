"""How well a model predicts a text: perplexity, and bits for each byte, which models of other vocabularies can share.

Shapes: T ids of a window, t of a part of it, E hidden width, V vocabulary.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from .._files import read_bytes
from ..errors import ConfigError, FileFormatError
from ..optional_packages import text_package
from ..pipeline import Chameleon
from .picture_quality import Progress
from .results import TextFigures

CHUNK = 512
"""Positions whose logits are computed together, so that those of a window never exist at once."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file. Raises ``FileFormatError`` where it isn't UTF-8 or has none, and file errors."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} is no text: byte {error.start:,} of it isn't UTF-8. Pass a text file, saved as UTF-8."
        ) from error
    if not text.strip():
        raise FileFormatError(f"{path} is empty, expected a text to predict.")
    return text


@torch.no_grad()
def measure_text(
    chameleon: Chameleon,
    text: str,
    name: str,
    *,
    max_ids: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> TextFigures:
    """Return how well the model predicts a text, in windows of its context that each begin anew.

    ``max_ids`` are the most ids that are predicted, from the beginning; None for all. Raises ``ConfigError`` for a text
    without ids.
    """
    model, layout = chameleon.model, chameleon.layout
    ids = list(chameleon.processor.encode(text_package().as_document(text), template="completion"))
    ids = ids[1:] if ids[:1] == [layout.bos_id] else ids
    ids = ids[:max_ids]
    if not ids:
        raise ConfigError(f"{name} has no ids to predict; expected a text.")
    total, size = 0.0, model.config.context_length - 1
    for start in range(0, len(ids), size):
        window_T = torch.tensor([layout.bos_id, *ids[start : start + size]], device=model.device)
        hidden_TE = model.model(window_T[None, :-1], use_cache=False).last_hidden_state[0]
        for hidden_tE, targets_t in zip(torch.split(hidden_TE, CHUNK), torch.split(window_T[1:], CHUNK), strict=True):
            logits_tV = model.lm_head(hidden_tE).float()
            total += float(torch.nn.functional.cross_entropy(logits_tV, targets_t, reduction="sum"))
        progress(f"predicting {name}", min(start + size, len(ids)), len(ids))
    predicted = chameleon.processor.tokenizer.decode(ids)
    return TextFigures(
        name=name,
        ids=len(ids),
        characters=len(predicted),
        perplexity=math.exp(min(total / len(ids), 700)),
        bits_per_byte=total / math.log(2) / max(1, len(predicted.encode("utf-8", "surrogatepass"))),
    )


def name_of(path: str | os.PathLike[str]) -> str:
    """Return what a file or folder is called in a table."""
    return Path(path).name or str(path)
