"""``FrontChameleon``: the pipeline in front of an engine that has a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn, Self

import torch

from .._boundary import translates_errors
from ..errors import ConfigError, MissingFileError, MissingPackageError
from ..folder_parts import load_image_tokenizer
from ..pipeline.attach import find_processor, other_image_tokenizer
from ..pipeline.chameleon import NO_LOADING_INFO
from ..pipeline.description import described_at
from ..pipeline.parts import DeferredImageTokenizer, weightless_model
from ..protocols import ImageTokenizerLike, ProcessorLike
from ..threads import give_way
from .engine_process import EngineProcess
from .engine_worker import ModelSource
from .shared import EngineBounds, OneEngineChameleon


class FrontChameleon(OneEngineChameleon):
    """``SharedChameleon`` whose engine has a process of its own, so that its steps don't wait for what is in front.

    The processor and the image tokenizer are in this process, and take another core. ``from_pretrained`` makes one; its
    ``model`` has the configuration and the options, and no weights. ``close`` ends the process, which otherwise ends
    with this object or the program. Programs that make one need ``if __name__ == "__main__":``, as all that use
    ``multiprocessing``.
    """

    shared: EngineProcess

    @classmethod
    @translates_errors
    def from_pretrained(  # type: ignore[override]  # the model's arguments go to the other process as they are
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        image_tokenizer: str | os.PathLike[str] | ImageTokenizerLike | None = None,
        processor: str | os.PathLike[str] | ProcessorLike | None = None,
        bounds: EngineBounds | None = None,
        threads: int | None = None,
        **arguments: Any,
    ) -> Self:
        """Load a model into the other process, and what is in front of it here.

        ``bounds`` are arguments of ``Engine``, ``threads`` those of the engine's products on the CPU, None for what
        suits the model. The other arguments and errors are those of ``Chameleon.from_pretrained``. Raises
        ``WorkerError`` where the process ends meanwhile, ``ConfigError`` where an argument can't be sent to it.
        """
        if arguments.pop("output_loading_info", False):
            raise ConfigError(NO_LOADING_INFO)
        if arguments.get("tensor_parallel", 1) != 1:
            raise ConfigError(
                "tensor_parallel divides a model among processes that torchrun has started, and this is one engine in "
                "one process. Use Chameleon with leading() in its place."
            )
        source = ModelSource(name_or_folder, arguments, dict(bounds or {}), threads)
        process = EngineProcess(source)
        try:
            facts = process.facts
            model = weightless_model(facts.config, facts.source, facts.generation_options)
            checks = bool(arguments.get("check_finite", True))
            drawing = _image_tokenizer(image_tokenizer, facts.source, facts.device, check_finite=checks)
            reader: Any = DeferredImageTokenizer(model) if drawing is None else drawing
            front = cls(model, find_processor(model, processor, reader, image_tokenizer), drawing)
            process.begin(front.processor.tokenizer, getattr(front.processor, "segment_grammars", None))
        except BaseException:
            process.close()
            raise
        front.shared = process
        front.compile_seconds = facts.compile_seconds
        return front

    def _begin_drawing(self) -> None:
        # All rows wait for a step, and one for its picture. In one process with the engine, which would then wait for
        # the interpreter's lock of a thread that isn't running, this would be worse than nothing.
        give_way()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's process runs."""
        return self.shared.is_alive

    def close(self) -> None:
        """End the engine's process; calls that run end with ``WorkerError``."""
        self.shared.close()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NoReturn:
        """Raise ``ConfigError``: the model stays in the engine's process as it was loaded."""
        raise ConfigError("the model is in the engine's process; pass device and dtype to from_pretrained.")

    def save_pretrained(self, folder: str | os.PathLike[str], *, checkpoint_format: str = "hf") -> NoReturn:
        """Raise ``ConfigError``: the weights are in the engine's process."""
        raise ConfigError(
            "the weights are in the engine's process; save them with "
            f"Chameleon.from_pretrained({str(self.model.source)!r}).save_pretrained(...)."
        )

    def __repr__(self) -> str:
        return described_at("in a process of its own", self, super().__repr__())


def _image_tokenizer(
    given: str | os.PathLike[str] | ImageTokenizerLike | None,
    folder: Path | None,
    device: str,
    *,
    check_finite: bool,
) -> ImageTokenizerLike | None:
    """Return what reads and draws pictures; None where there is none, which matters once a picture comes."""
    if given is not None:
        return other_image_tokenizer(given, folder, device=device, check_finite=check_finite)
    if folder is None:
        return None
    try:
        return load_image_tokenizer(folder, device=device, check_finite=check_finite)
    except (MissingFileError, MissingPackageError):
        return None
