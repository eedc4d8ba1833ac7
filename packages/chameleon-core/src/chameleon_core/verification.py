"""Compare two folders of a model, in any formats: every tensor, then the logits of drawn ids.

Shapes: T length, V vocabulary.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ._boundary import translates_errors
from .checkpoints import StoredTensor, read_checkpoint
from .checkpoints.load import load_contents
from .checkpoints.published import leaves_rotary_open
from .errors import ChameleonCoreError, CheckpointWarning, ConfigError
from .formats import IMAGE_PREFIX, Checkpoint
from .formats.hf import has_pickles_alone
from .model import ChameleonForConditionalGeneration

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor that isn't the same in both folders."""

    name: str
    """Its name in the published layout."""
    largest: float | None
    """The largest difference of a value; None where only one folder has it, or the shapes differ."""
    reason: str
    """How it differs, in words."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify_checkpoints`` returns."""

    num_tensors: int
    """The number of tensors that either folder has."""
    differences: list[TensorDifference] = field(default_factory=list)
    """The tensors that differ, in the order of their names."""
    logits_difference: float | None = None
    """The largest difference of a logit of the drawn ids; None where they weren't computed."""
    not_computed: str | None = None
    """Why the logits weren't computed, a sentence; None where they were."""

    def equals(self, tolerance: float = 0.0) -> bool:
        """Return whether no tensor and no logit differs by more than ``tolerance``; 0 is bit for bit.

        A tensor that one folder lacks differs in any case, and so do logits that weren't computed.
        """
        if any(each.largest is None or not each.largest <= tolerance for each in self.differences):
            return False
        if tolerance == 0 and self.differences:
            return False
        return self.logits_difference is not None and self.logits_difference <= tolerance


@translates_errors
def verify_checkpoints(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    num_ids: int = 32,
    seed: int = 0,
    rotary_layout: str | None = None,
    pickles: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Compare the tensors of two folders, read as the published layout names them, and then logits.

    The logits are those of ``num_ids`` ids that ``seed`` draws, in the stored type where all weights have one, else in
    float32. ``rotary_layout`` is that of a folder that leaves it open, as ``read_checkpoint`` takes it, and ``pickles``
    lets a folder without safetensors be read. ``progress`` is called with the tensors that were compared, and all.
    Raises ``FileFormatError`` for a folder that can't be read, and ``ConfigError`` for ``num_ids`` below 1.
    """
    if num_ids < 1:
        raise ConfigError(f"num_ids must be at least 1, so that there are logits to compare; got {num_ids}.")
    left, right = (_read(Path(folder), rotary_layout, pickles) for folder in (first, second))
    names = sorted(left.tensors.keys() | right.tensors.keys())
    differences = []
    for done, name in enumerate(names, 1):
        difference = _difference(name, left.tensors.get(name), right.tensors.get(name))
        if difference is not None:
            differences.append(difference)
        if progress is not None:
            progress(done, len(names))
    if left.config.vocab_size != right.config.vocab_size:
        reason = f"vocab_size is {left.config.vocab_size:,} in the first and {right.config.vocab_size:,} in the second."
        return Verification(len(names), differences, None, reason)
    length = min(num_ids, left.config.max_position_embeddings, right.config.max_position_embeddings)
    ids_T = torch.randint(left.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
    types = {tensor.dtype for each in (left, right) for tensor in _of_model(each)}
    dtype = None if len(types) == 1 and types <= {torch.float32, torch.bfloat16} else torch.float32
    try:
        logits = [_logits(each, str(folder), ids_T, dtype) for each, folder in ((left, first), (right, second))]
    except ChameleonCoreError as error:
        return Verification(len(names), differences, None, str(error))
    return Verification(len(names), differences, _largest(*logits))


def _read(folder: Path, rotary_layout: str | None, pickles: bool) -> Checkpoint:
    return read_checkpoint(
        folder,
        rotary_layout=rotary_layout if leaves_rotary_open(folder) else None,
        options={"pickles": True} if pickles and has_pickles_alone(folder) else None,
    )


def _difference(name: str, left: StoredTensor | None, right: StoredTensor | None) -> TensorDifference | None:
    if left is None or right is None:
        return TensorDifference(name, None, f"only in the {'first' if right is None else 'second'}")
    if left.shape != right.shape:
        return TensorDifference(name, None, f"{list(left.shape)} in the first, {list(right.shape)} in the second")
    one, other = left.load(), right.load()
    if one.dtype == other.dtype and _same_bits(one, other):
        return None
    largest = _largest(one, other)
    types = "" if one.dtype == other.dtype else f"{one.dtype} in the first, {other.dtype} in the second; "
    return TensorDifference(name, largest, f"{types}values differ by up to {largest:.3g}")


def _same_bits(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))


def _largest(left: Tensor, right: Tensor) -> float:
    """Return the largest difference; values that aren't numbers in both are equal, in one they are infinitely far."""
    if not left.numel():
        return 0.0
    one, other = left.double(), right.double()
    apart = (one - other).abs()
    apart = apart.masked_fill((one == other) | (one.isnan() & other.isnan()), 0.0)
    return float(apart.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


def _of_model(checkpoint: Checkpoint) -> Iterator[StoredTensor]:
    """Yield the tensors of the transformer, without those of the image tokenizer."""
    yield from (tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(IMAGE_PREFIX))


def _logits(checkpoint: Checkpoint, source: str, ids_T: Tensor, dtype: torch.dtype | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # other heads, which were compared, too
        model = load_contents(
            checkpoint,
            source=source,
            build=ChameleonForConditionalGeneration,
            dtype=dtype,
            device="cpu",
            quantization=None,
            check_finite=False,
            extra_weights="keep",
        ).model
    with torch.no_grad():
        logits_TV: Tensor = model(ids_T[None]).logits[0]
    return logits_TV
