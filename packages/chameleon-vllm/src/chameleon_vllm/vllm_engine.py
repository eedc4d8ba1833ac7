"""vLLM's engine in this process, as what runs requests. Importing this module imports vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from chameleon_core import ChameleonConfig, ConfigError

from .admission import Limits
from .processor import NAME
from .row_parts import KEY, MAX_MEMBERS, RowPart
from .runner import Output

MAX_REQUESTS = 64
"""How many requests run at once, unless ``max_num_seqs`` says otherwise."""
FIXED: Mapping[str, str] = {
    "model": "it is the folder",
    "dtype": "it is an argument of from_pretrained",
    "tokenizer": "ids are made in front of the engine",
    "skip_tokenizer_init": "ids are made in front of the engine",
    "logits_processors": "the rows of the batch need their own; those of the toolkit are the option logits_processors",
    "max_model_len": "it is the context of the model, rope_scaling included",
    "async_scheduling": "an id is chosen after the one before it is known",
    "speculative_config": "vLLM takes no logits processors with it",
    "generation_config": "the options are those of GenerationOptions",
}
"""Engine arguments that can't be given, and why."""


def make_engine(
    folder: Path, config: ChameleonConfig, *, dtype: torch.dtype | str, arguments: Mapping[str, Any]
) -> VLLMRequests:
    """Return an engine that has loaded a folder. Raises ``ConfigError`` for arguments that it can't have."""
    for name in arguments:
        if name in FIXED:
            raise ConfigError(f"the engine argument {name!r} can't be given: {FIXED[name]}.")
        if name not in EngineArgs.__dataclass_fields__:
            raise ConfigError(f"vLLM has no engine argument {name!r}.")
    # The processor has the interface of the first model runner; this is read when the engine is configured.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    requests = arguments.get("max_num_seqs", MAX_REQUESTS)
    whole = MAX_MEMBERS * config.context_length + requests
    own = {
        "max_num_seqs": requests,
        "max_num_batched_tokens": max(whole, 8192),
        "disable_log_stats": True,
        **arguments,
    }
    engine_args = EngineArgs(
        model=str(folder),
        dtype=dtype,
        skip_tokenizer_init=True,
        logits_processors=[NAME],
        max_model_len=config.context_length,
        async_scheduling=False,
        generation_config="vllm",
        **own,
    )
    return VLLMRequests(LLMEngine.from_engine_args(engine_args))


class VLLMRequests:
    """Requests on vLLM's engine, for ``Runner``."""

    def __init__(self, engine: LLMEngine) -> None:
        self.engine = engine
        scheduler, cache = engine.vllm_config.scheduler_config, engine.vllm_config.cache_config
        assert cache.num_gpu_blocks is not None
        self.limits = Limits(
            max_requests=scheduler.max_num_seqs,
            max_step_ids=scheduler.max_num_batched_tokens,
            # One block is vLLM's own.
            max_positions=(cache.num_gpu_blocks - 1) * cache.block_size,
            block_size=cache.block_size,
        )

    def add(self, name: str, ids: Sequence[int], part: RowPart, *, max_ids: int, stop_ids: Sequence[int]) -> None:
        """Add a request."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_ids,
            stop_token_ids=list(stop_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={KEY: part.encode()},
        )
        self.engine.add_request(name, {"prompt_token_ids": list(ids)}, params)

    def abort(self, names: Sequence[str]) -> None:
        """End requests."""
        self.engine.abort_request(list(names))

    def step(self) -> Mapping[str, Output]:
        """Compute an id of each request that runs, and return what each got."""
        return {each.request_id: Output(tuple(each.outputs[0].token_ids), each.finished) for each in self.engine.step()}
