"""Data sets of pictures with captions, tokenized by several processes or machines into token shards to train on."""

from __future__ import annotations

from .job import TokenizedDataset, tokenize_dataset
from .options import TokenizationOptions

__all__ = ["TokenizationOptions", "TokenizedDataset", "tokenize_dataset"]
