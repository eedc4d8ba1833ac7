"""``VLLMChameleon``: the pipeline of chameleon-core with vLLM's engine in the place of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, NoReturn, Self

import torch

from chameleon_core import Chameleon, ConfigError, GenerationOptions, Step
from chameleon_core.pipeline.description import described_at
from chameleon_core.protocols import ImageTokenizerLike

from .engine_arguments import check_arguments
from .parts import Front, rows_of
from .row_parts import Signals
from .runner import MAX_FAILURES, Runner


class VLLMChameleon(Chameleon):
    """``Chameleon`` on vLLM: the same methods, options and events, and the same ids.

    The transformer runs in vLLM's engine, in this process; the processor and the image tokenizer run in front of it.
    ``from_pretrained`` makes one; its ``model`` has the configuration and the options, and no weights. Several streams
    may be open at the same time, and share the engine's batch.
    """

    runner: Runner
    """Runs the rows of all calls on one engine."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str = "auto",
        image_tokenizer: ImageTokenizerLike | None = None,
        image_device: torch.device | str = "cpu",
        **engine_arguments: Any,
    ) -> Self:
        """Load a folder in the layout of ``transformers``, an installed model or a Hub id into vLLM.

        ``dtype`` is that of the transformer, "auto" what its configuration records. ``image_tokenizer`` is another one
        than the folder's, which is loaded on ``image_device``. ``engine_arguments`` are those of vLLM's ``EngineArgs``
        for memory, ranks and speed, as ``tensor_parallel_size``, ``max_num_seqs`` and ``gpu_memory_utilization``; the
        others can't be given.

        Raises ``ConfigError`` with all that vLLM can't compute as chameleon-core does, and for engine arguments that
        can't be given.
        """
        check_arguments(engine_arguments)
        from .vllm_engine import make_engine

        front = Front.load(name_or_folder, image_tokenizer, image_device)
        chameleon = cls(front.model, front.processor, front.image_tokenizer)
        assert front.model.source is not None
        engine = make_engine(front.model.source, front.model.config, dtype=dtype, arguments=engine_arguments)
        chameleon.runner = Runner(engine, Signals.of(chameleon.layout))
        return chameleon

    @property
    def is_alive(self) -> bool:
        """Whether the engine can be expected to answer: its last steps haven't all failed."""
        return self.runner.failures < MAX_FAILURES

    def run_rows(
        self,
        rows: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        written: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[Step]:
        """Run prompts of ids on vLLM, and yield each step."""
        machines = rows_of(self, rows, options, written)
        return self.runner.run(machines, should_stop or (lambda: False), given=[len(ids) for ids in written])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NoReturn:
        """Raise ``ConfigError``: vLLM's engine stays where it was made."""
        raise ConfigError("vLLM's engine stays where it was made; pass dtype and engine arguments to from_pretrained.")

    def save_pretrained(self, folder: str | os.PathLike[str], *, checkpoint_format: str = "hf") -> NoReturn:
        """Raise ``ConfigError``: the weights are in vLLM's engine, in a layout of its own."""
        raise ConfigError(
            "the weights are in vLLM's engine, in a layout of its own; save them with "
            f"Chameleon.from_pretrained({str(self.model.source)!r}).save_pretrained(...)."
        )

    def __repr__(self) -> str:
        return described_at("in vLLM", self, super().__repr__())
