"""The contract of checkpoint formats: what a checkpoint is, and how a format reads and writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import ChameleonConfig

IMAGE_PREFIX = "model.vqmodel."
"""The prefix of the image tokenizer's tensors, which core stores and passes on without interpreting them."""
IMAGE_DECODER_PREFIX = IMAGE_PREFIX + "decoder."
"""The prefix of the image tokenizer's decoder, which ``transformers`` ignores."""
_OF_MODEL = re.compile(r"(model\.)?(layers|embed_tokens|norm|vqmodel)\..*|lm_head\..*")
"""The names of tensors of a model, and of what would change it."""


def extra_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names of tensors that are no part of a model and change nothing in it, as heads of finetunes."""
    return frozenset(name for name in names if not _OF_MODEL.fullmatch(name))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that stays in its file or on its device until it is loaded."""

    shape: tuple[int, ...]
    """The shape of the tensor."""
    dtype: torch.dtype
    """The type of the tensor."""
    load: Callable[[], Tensor]
    """Returns the tensor on the CPU."""
    pieces: Callable[[], Iterable[Tensor]] | None = None
    """Yields the tensor in pieces of its first axis, in their order, where that takes less memory; by default None."""

    def in_pieces(self) -> Iterable[Tensor]:
        """Return the tensor in pieces of its first axis, for a writer that stores one after the other."""
        return (self.load(),) if self.pieces is None else self.pieces()

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """Return a stored tensor that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().cpu())

    @property
    def num_bytes(self) -> int:
        """The size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as it is stored."""

    config: ChameleonConfig
    """The configuration of the model."""
    tensors: Mapping[str, StoredTensor]
    """The tensors by their names in published checkpoints (``model.layers.0.self_attn.q_proj.weight``). Those of the
    image tokenizer begin with ``model.vqmodel.``. With tied embeddings there is no ``lm_head.weight``."""
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    """The content of ``generation_config.json``; by default empty."""
    processor_files: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    """The processor's files that belong to the model, by their names in the layout of ``transformers``
    (``tokenizer.json``, ``preprocessor_config.json``), each with a function that returns its content; by default
    none."""
    extra_names: frozenset[str] = frozenset()
    """The names of tensors that the model has no place for and that are kept, as other heads of a finetune; by default
    none. A format that has names of its own for tensors stores these, too."""


class CheckpointFormat(Protocol):
    """A format of checkpoints in folders."""

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the configuration and locate the tensors, without loading them.

        A file's path is ``stored(folder, name)``, since a save that was killed may not have moved it to its place.
        Raises ``FileFormatError`` where a file is missing or damaged. Which tensors the model needs is checked later,
        by ``load_checkpoint``.
        """
        ...

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write a checkpoint, in files of at most ``max_shard_size`` bytes where the format has shards.

        ``folder`` is an empty one, whose files replace those of the previous checkpoint once all are written. The
        processor's files are written, too, where there are any. Tensors are loaded when they are written, at most those
        of one file at a time.

        A format that loads each tensor several times says how often by a method ``num_loads(checkpoint)``, so that a
        conversion shows how far it is; without the method it is once.
        """
        ...
