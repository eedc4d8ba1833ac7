"""Which of vLLM's engine arguments can be given: those of memory, ranks and speed.

vLLM has more than 200, and most of them mean nothing for this model, or would change which ids are chosen, or take
groups of requests out of step. Those aren't accepted, so that nothing is accepted and then ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from chameleon_core import ConfigError

ALLOWED = (
    # How much runs at once, and where its keys and values are.
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "num_gpu_blocks_override",
    "block_size",
    "enable_prefix_caching",
    "cpu_offload_gb",
    # Ranks.
    "tensor_parallel_size",
    "distributed_executor_backend",
    "disable_custom_all_reduce",
    # How it is computed.
    "enforce_eager",
    "compilation_config",
    "optimization_level",
    "cudagraph_capture_sizes",
    "max_cudagraph_capture_size",
    "attention_backend",
    "attention_config",
    # How it is loaded, and what is written down.
    "safetensors_load_strategy",
    "max_parallel_loading_workers",
    "use_tqdm_on_load",
    "disable_log_stats",
)
"""The names that can be given."""
REFUSED: Mapping[str, str] = {
    "model": "it is the folder",
    "dtype": "it is an argument of from_pretrained",
    "tokenizer": "ids are made in front of the engine",
    "skip_tokenizer_init": "ids are made in front of the engine",
    "logits_processors": "the rows of the batch need their own; those of the toolkit are the option logits_processors",
    "max_model_len": "it is the context of the model, rope_scaling included",
    "seed": "noise is that of the option seed",
    "async_scheduling": "an id is chosen after the one before it is known",
    "enable_chunked_prefill": "the prompts of a group are computed in one step",
    "scheduling_policy": "rows start in the order in which they come",
    "pipeline_parallel_size": "the requests of a group need one batch; use tensor_parallel_size",
    "data_parallel_size": "the requests of a group need one batch; use an engine for each replica",
    "speculative_config": "vLLM takes no logits processors with it",
    "quantization": "its numbers are others than those of chameleon_core",
    "kv_cache_dtype": "its numbers are others than those of chameleon_core",
    "hf_overrides": "the configuration is the folder's",
    "load_format": "the weights are the folder's",
    "generation_config": "the options are those of GenerationOptions",
    "override_generation_config": "the options are those of GenerationOptions",
}
"""Why some of the others can't."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for the first engine argument that can't be given, with the reason or the closest name."""
    for name in arguments:
        if name in ALLOWED:
            continue
        if name in REFUSED:
            raise ConfigError(f"the engine argument {name!r} can't be given: {REFUSED[name]}.")
        close = difflib.get_close_matches(name, ALLOWED, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Those that can be given are {', '.join(ALLOWED)}."
        raise ConfigError(f"{name!r} is no engine argument that can be given. {hint}")
