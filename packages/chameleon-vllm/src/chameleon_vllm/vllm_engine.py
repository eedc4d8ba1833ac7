"""vLLM's engine in this process, as what runs requests. Importing this module imports vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs, SamplingParams, envs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from chameleon_core import ChameleonConfig, ConfigError

from .admission import Limits
from .processor import NAME
from .row_parts import KEY, MAX_MEMBERS, RowPart
from .runner import Output

MAX_REQUESTS = 64
"""How many requests run at once, unless ``max_num_seqs`` says otherwise."""


def make_engine(
    folder: Path, config: ChameleonConfig, *, dtype: torch.dtype | str, arguments: Mapping[str, Any]
) -> VLLMRequests:
    """Return an engine in this process that has loaded a folder, with engine arguments that can be given.

    Raises ``ConfigError`` where the environment says that another model runner is used.
    """
    # The processor has the interface of the first model runner; this is read when the engine is configured.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    if envs.VLLM_USE_V2_MODEL_RUNNER:
        raise ConfigError(
            "VLLM_USE_V2_MODEL_RUNNER is set, and the logits processor is one of the first model runner. Unset it."
        )
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
    vllm_config = engine_args.create_engine_config()
    # In a process of its own, which is vLLM's default, the engine could start a step between two requests of a group.
    engine = LLMEngine(
        vllm_config,
        Executor.get_class(vllm_config),
        log_stats=not engine_args.disable_log_stats,
        multiprocess_mode=False,
    )
    return VLLMRequests(engine)


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
