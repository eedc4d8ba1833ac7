"""The logits processor that vLLM loads: it keeps the rows of the batch. Importing this module imports vLLM.

Shapes: R requests of the batch, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality

from .parts import read_words
from .row_batch import RowBatch
from .row_parts import KEY, RowPart

NAME = "chameleon_vllm.processor:RowProcessor"
"""What vLLM calls it, for ``--logits-processors``."""
CHOOSING: dict[str, Any] = {
    "temperature": 0,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_tokens": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": [],
    "structured_outputs": None,
    "thinking_token_budget": None,
    "repetition_detection": None,
}
"""The parameters of vLLM that change what is chosen or when it ends, with the values that don't."""


class RowProcessor(LogitsProcessor):
    """Chooses the ids of the requests that are parts of rows, and leaves the others to vLLM."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise a ``ValueError`` where the parameter isn't a part of a row, or vLLM would choose by itself, too."""
        parameter = _parameter(sampling_params)
        if parameter is None:
            return
        RowPart.decode(parameter)
        others = [name for name, value in CHOOSING.items() if getattr(sampling_params, name) != value]
        if others:
            raise ValueError(
                f"a request that is a part of a row is chosen by its row, and {', '.join(others)} would choose, too. "
                f"Set temperature to 0, leave out the others, and give options of sampling in the parameter {KEY!r}."
            )

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        words = read_words(Path(vllm_config.model_config.model))
        self.batch = RowBatch(words.config, words.layout, words.processor.tokenizer, device)

    def is_argmax_invariant(self) -> bool:
        """Return False: it chooses."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the changes of the batch, in the order that vLLM states."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self.batch.remove(place)
        for place, params, prompt_ids, output_ids in batch_update.added:
            self.batch.add(place, _parameter(params), prompt_ids, output_ids)
        for source, target, direction in batch_update.moved:
            self.batch.move(source, target, swaps=direction == MoveDirectionality.SWAP)

    def apply(self, logits: Tensor) -> Tensor:
        """Leave one id to each row."""
        return self.batch.apply(logits)


def _parameter(params: SamplingParams) -> object:
    return (params.extra_args or {}).get(KEY)
