"""``SharedChameleon``: the pipeline whose calls, from any threads, share the batch of one engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

from .._boundary import translates_errors
from ..generation import Engine, GenerationOptions, Request, SharedEngine, Step
from ..generation.stream import with_seed
from ..model import ChameleonForConditionalGeneration
from ..picture_grammars import Grid
from ..pipeline import Chameleon
from ..protocols import ImageTokenizerLike, ProcessorLike

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class EngineBounds(TypedDict, total=False):
    """The arguments of ``Engine`` that bound what runs and waits; what each means is said there."""

    max_rows: int | None
    max_positions: int | None
    max_waiting: int | None
    prompt_chunk: int | None
    prefix_positions: int | None


class RunsRequests(Protocol):
    """An engine for the calls of many threads: ``SharedEngine``, or ``EngineProcess``."""

    def run(self, requests: Sequence[Request], should_stop: Callable[[], bool], /) -> Generator[Step]:
        """Submit requests eagerly, and yield an id for each at a time until all have ended or ``should_stop()``."""
        ...

    @property
    def num_running(self) -> int:
        """How many requests run."""
        ...

    @property
    def positions(self) -> int:
        """How many positions the cache has room for."""
        ...


class OneEngineChameleon(Chameleon):
    """``Chameleon`` whose calls, from any threads, run on one engine, in one batch."""

    shared: RunsRequests
    """The engine."""

    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        processor: ProcessorLike,
        image_tokenizer: ImageTokenizerLike | None = None,
    ) -> None:
        super().__init__(model, processor, image_tokenizer)
        # Pictures are drawn beside the engine's steps, in one thread for all calls: several would take their cores.
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="chameleon-drawer", initializer=self._begin_drawing)

    @translates_errors
    def run_rows(
        self,
        rows: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        written: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[Step]:
        """Run prompts of ids beside those of other calls, and yield each step."""
        options = with_seed(options)
        requests = [
            Request(prompt=ids, options=options, index=index, written=earlier)
            for index, (ids, earlier) in enumerate(zip(rows, written, strict=True))
        ]
        return self.shared.run(requests, should_stop or (lambda: False))

    def _begin_drawing(self) -> None:
        """Run once in the thread that draws."""

    def _draw(self, codes: Sequence[int], grid: Grid | None) -> PILImage:
        return self._drawer.submit(super()._draw, codes, grid).result()

    def _preview(self, codes: Sequence[int], grid: Grid | None) -> PILImage:
        return self._drawer.submit(super()._preview, codes, grid).result()


class SharedChameleon(OneEngineChameleon):
    """``Chameleon`` for many threads: the same methods, options and events, and the same ids.

    Its calls run on one engine, in one batch: a request joins while others run and leaves when it has ended. An engine
    keeps copies of rows of the output layer, so make a new pipeline after the model has changed.
    """

    shared: SharedEngine

    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        processor: ProcessorLike,
        image_tokenizer: ImageTokenizerLike | None = None,
    ) -> None:
        super().__init__(model, processor, image_tokenizer)
        self.shared = SharedEngine(Engine(model, tokenizer=processor.tokenizer))

    @translates_errors
    def limit(self, **bounds: Unpack[EngineBounds]) -> None:
        """Run on a new engine with these bounds, arguments of ``Engine``; call it before the first request.

        Raises ``GenerationError`` where one isn't at least 1.
        """
        self.shared = SharedEngine(Engine(self.model, tokenizer=self.processor.tokenizer, **bounds))
