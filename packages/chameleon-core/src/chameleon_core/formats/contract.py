"""What a checkpoint is, wherever it is kept, and what a format of checkpoints does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import ChameleonConfig

IMAGE_PREFIX = "model.vqmodel."
"""Tensors under this prefix are the image tokenizer's; core carries them and doesn't look inside."""
IMAGE_DECODER_PREFIX = IMAGE_PREFIX + "decoder."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that stays where it is, a file or a device, until ``load()`` brings it to the CPU."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """One that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().cpu())

    @property
    def num_bytes(self) -> int:
        """How much it takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as it is stored: its configuration, and its tensors by the names that they have in the model.

    The names are those of published checkpoints, ``model.layers.0.self_attn.q_proj.weight`` and so on; the image
    tokenizer's are below ``model.vqmodel.``. With tied embeddings there is no ``lm_head.weight``.
    ``generation_config`` is the mapping of ``generation_config.json``.
    """

    config: ChameleonConfig
    tensors: Mapping[str, StoredTensor]
    generation_config: Mapping[str, Any] = field(default_factory=dict)


class CheckpointFormat(Protocol):
    """A way to keep checkpoints in a folder."""

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the configuration and where the tensors are, and not the tensors themselves.

        Raises ``FileFormatError`` where a file is damaged or not what it should be; which tensors the model needs is
        not the format's concern.
        """
        ...

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write a checkpoint, in files of at most ``max_shard_size`` bytes where no single tensor is larger.

        A folder that held one before stays loadable until the new one is whole. At most one shard's tensors are in
        memory at a time beside what the checkpoint itself holds.
        """
        ...
