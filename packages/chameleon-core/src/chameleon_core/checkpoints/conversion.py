"""Convert a folder from one checkpoint format to another, a tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .._boundary import translates_errors
from .._commits import committing
from .._files import writing
from ..errors import ConfigError
from ..formats import IMAGE_PREFIX, StoredTensor
from ..formats.contract import extra_names
from ..formats.gguf import IMAGE_FILE, MODEL_FILE
from .conversion_target import check_changes, check_target
from .load import EXTRA_WEIGHTS, format_of, read_checkpoint
from .save import num_loads, write_checkpoint
from .sizes import check_shapes

Progress = Callable[[int, int], None]
"""Called with the bytes of tensors that were done, and those of all."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What ``convert_checkpoint`` returns."""

    source_format: str
    """The name of the format that was read."""
    target_format: str
    """The name of the format that was written."""
    num_tensors: int
    """The number of tensors, those of the image tokenizer among them."""
    num_bytes: int
    """Their bytes."""
    has_image_decoder: bool
    """Whether pictures can be drawn with it: the image tokenizer has its decoder."""
    beside: str | None = None
    """What the written format has no place for and where it went, a sentence; None where it has all."""


@translates_errors
def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    checkpoint_format: str = "hf",
    source_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    dequantize: bool = False,
    max_shard_size: int | str = "5GB",
    rotary_layout: str | None = None,
    extra_weights: str = "refuse",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Read ``source`` in whatever installed format it has, and write it to the folder ``target`` in another.

    ``checkpoint_format`` is the format that is written. ``source_options`` and ``target_options`` are those of the
    formats: for ``meta``, ``ranks`` and ``fused`` when it is written, ``average_norms`` when it is read; for ``gguf``,
    ``dtype``; for ``hf``, ``pickles`` when it is read. Tensors are loaded when they are written, one at a time.
    ``progress`` is called after each. ``dequantize`` and ``rotary_layout`` are those of ``read_checkpoint``;
    ``extra_weights`` "keep" stores weights that the model has no place for in formats that would refuse them.

    The files of ``target`` appear in one commit at the end: a process that dies leaves the folder as it was, and the
    conversion is started again. A file that is in ``target`` stays, or is written again with the same bytes: where one
    would change or go, and where the folder has another model, that is an error, unless ``overwrite``.

    Raises ``FileFormatError``, ``WeightsError``, ``ConfigError`` for what the other format can't say and for a
    ``target`` that has something else, ``UnknownPluginError`` and ``FileAccessError``.
    """
    source, target = Path(source), Path(target)
    folder = source.parent if os.path.isfile(source) else source
    if os.path.exists(target) and os.path.samefile(folder, target):
        raise ConfigError(f"{target} is the folder that is read; write to another, which isn't there or is empty.")
    checkpoint = read_checkpoint(source, rotary_layout=rotary_layout, dequantize=dequantize, options=source_options)
    if extra_weights not in EXTRA_WEIGHTS:
        raise ConfigError(f"extra_weights must be 'refuse' or 'keep'; got {extra_weights!r}.")
    if extra_weights == "keep":
        checkpoint = replace(checkpoint, extra_names=checkpoint.extra_names | extra_names(checkpoint.tensors))
    check_shapes(checkpoint.config, checkpoint.tensors, source=str(source))
    check_target(target, checkpoint, checkpoint_format, overwrite=overwrite)
    sizes = {name: tensor.num_bytes for name, tensor in checkpoint.tensors.items()}
    loads = num_loads(checkpoint, checkpoint_format, target_options)
    counted = _Counted(sum(sizes.values()) * loads, progress)
    tensors = {name: counted.tensor(tensor) for name, tensor in checkpoint.tensors.items()}
    with writing(target), committing(target) as save:
        write_checkpoint(
            replace(checkpoint, tensors=tensors),
            save,
            max_shard_size=max_shard_size,
            checkpoint_format=checkpoint_format,
            options=target_options,
        )
        if not overwrite:
            check_changes(save, target)
    counted.end()
    return Conversion(
        source_format=format_of(source),
        target_format=checkpoint_format,
        num_tensors=len(sizes),
        num_bytes=sum(sizes.values()),
        has_image_decoder=any(".vqmodel.decoder." in name for name in sizes),
        beside=_beside_gguf(target, sizes) if checkpoint_format == "gguf" else None,
    )


def _beside_gguf(target: Path, names: Iterable[str]) -> str:
    """Return where the image tokenizer went, for which a GGUF file has no place."""
    if any(name.startswith(IMAGE_PREFIX) for name in names):
        return (
            f"The image tokenizer isn't in {MODEL_FILE}: it is in {target / IMAGE_FILE}, which this toolkit reads and "
            "llama.cpp doesn't."
        )
    return "There was no image tokenizer: pictures need image_tokenizer= (on the command line --image-tokenizer)."


class _Counted:
    """Counts the bytes that are loaded."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def tensor(self, stored: StoredTensor) -> StoredTensor:
        """Return a tensor that is counted when it is loaded."""

        def load() -> Tensor:
            value = stored.load()
            self._add(stored.num_bytes)
            return value

        def pieces() -> Iterator[Tensor]:
            yield from stored.in_pieces()
            self._add(stored.num_bytes)

        return replace(stored, load=load, pieces=None if stored.pieces is None else pieces)

    def end(self) -> None:
        """Count what wasn't loaded, such as a tensor that isn't stored twice."""
        self._add(self._total)

    def _add(self, num_bytes: int) -> None:
        self._done = min(self._total, self._done + num_bytes)
        if self._progress is not None:
            self._progress(self._done, self._total)
