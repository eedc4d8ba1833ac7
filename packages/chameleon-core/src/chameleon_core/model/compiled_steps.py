"""Steps of generation that ``torch.compile`` compiles: on a GPU as CUDA graphs, over a cache ``static`` alone.

Shapes: R rows of the cache's memory, E hidden width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .static_cache import StaticContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .lane_cache import CachedLane, LaneCache


class CompiledSteps(nn.Module):
    """The part of ``ChameleonModel`` that runs steps of a cache ``static``, compiled where that was asked for."""

    if TYPE_CHECKING:
        # What the rest of ChameleonModel defines.
        embed_tokens: nn.Embedding
        new_lane_cache: Callable[[str], LaneCache]

        def feed_lanes(self, feeds: Sequence[tuple[CachedLane, Sequence[int]]], cache: LaneCache) -> Tensor: ...

    def __getstate__(self) -> dict[str, Any]:
        # A copy that kept them would step with the weights of the original.
        return {name: value for name, value in self.__dict__.items() if name != "_compiled_step"}

    def decoding_step(self, ids_R1: Tensor, context: StaticContext) -> Tensor:
        """Return the final hidden states [R, 1, E] of a step over a cache ``static``."""
        step = self.__dict__.get("_compiled_step", self._step)
        hidden_R1E: Tensor = step(ids_R1, context)
        return hidden_R1E

    def compile_decoding(self, rows: Iterable[int] = (), **options: Any) -> dict[int, float]:
        """Compile the steps of generation by ``torch.compile``, and use the cache ``static`` where none is named.

        ``options`` are those of ``torch.compile``; on a GPU ``mode`` is "reduce-overhead" unless given, which makes
        CUDA graphs. Other caches have a shape for each length, and their steps stay as they are.

        A number of rows, 1, 2, 4, 8, … with those of guidance, is compiled when it comes first, which takes from
        seconds to a minute. ``rows`` are compiled at once; returned are the seconds of each. Raises ``ConfigError``
        where torch can't compile here, and then nothing has changed.
        """
        if self.embed_tokens.weight.device.type == "cuda":
            options = {"mode": "reduce-overhead", **options}
        before = self.__dict__.get("_compiled_step")
        self.__dict__["_compiled_step"] = torch.compile(self._step, **options)
        try:
            return {count: self._seconds_of_a_step(count) for count in rows}
        except Exception as error:  # those of compilers have no class in common
            self.stop_compiling()
            if before is not None:
                self.__dict__["_compiled_step"] = before
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"torch.compile fails here: {type(error).__name__}: {reason:.200}. On a CPU it needs a C++ compiler, "
                "on a GPU Triton. Leave compile out, or install one."
            ) from error

    def stop_compiling(self) -> None:
        """Run steps as they are again."""
        self.__dict__.pop("_compiled_step", None)

    @property
    def compiles_steps(self) -> bool:
        """Whether steps of generation are compiled."""
        return "_compiled_step" in self.__dict__

    @torch.inference_mode()
    def _seconds_of_a_step(self, rows: int) -> float:
        """Return how long the first step of so many rows takes, which compiles it."""
        cache = self.new_lane_cache("static")
        lanes = [cache.add(2) for _ in range(rows)]
        self.feed_lanes([(lane, [0]) for lane in lanes], cache)
        began = time.perf_counter()
        self.feed_lanes([(lane, [0]) for lane in lanes], cache)
        if self.embed_tokens.weight.device.type == "cuda":
            torch.cuda.synchronize(self.embed_tokens.weight.device)
        return time.perf_counter() - began

    def _step(self, ids_R1: Tensor, context: StaticContext) -> Tensor:
        hidden_R1E: Tensor = self(ids_R1, lanes=context).last_hidden_state
        return hidden_R1E
