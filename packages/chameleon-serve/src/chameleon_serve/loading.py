"""The pipeline that is served: on the toolkit's own engine, or on vLLM's."""

from __future__ import annotations

import importlib
from typing import Any

from chameleon_core import Chameleon, ConfigError, MissingPackageError
from chameleon_core.serving import SharedChameleon

from .options import ServeOptions


def load_pipeline(options: ServeOptions) -> Chameleon:
    """Return the pipeline of the options' model, which threads may share.

    Raises ``ChameleonCoreError`` where it can't be loaded, ``MissingPackageError`` without chameleon-vllm or vLLM.
    """
    return _on_vllm(options) if options.engine == "vllm" else _on_core(options)


def limit_engine(chameleon: SharedChameleon, options: ServeOptions) -> None:
    """Give a pipeline an engine with the bounds of the options."""
    chameleon.limit(max_rows=options.max_rows, max_positions=options.max_positions, prompt_chunk=options.prompt_chunk)


def _on_core(options: ServeOptions) -> Chameleon:
    chameleon = SharedChameleon.from_pretrained(options.model, **options.engine_options)
    limit_engine(chameleon, options)
    return chameleon


def _on_vllm(options: ServeOptions) -> Chameleon:
    if options.max_positions is not None:
        raise ConfigError(
            "max_positions bounds the cache of the toolkit's engine. vLLM's has gpu_memory_utilization and "
            "kv_cache_memory_bytes: give them as engine options."
        )
    try:
        import chameleon_vllm

        importlib.import_module("chameleon_vllm.vllm_engine")  # which imports vLLM
    except ImportError as error:
        raise MissingPackageError(
            f"the engine vllm needs chameleon-vllm and vLLM, which can't be imported: {error}. From the toolkit's "
            'folder, in an environment of its own: python -m pip install "./packages/chameleon-vllm[vllm]"'
        ) from error
    arguments: dict[str, Any] = {"max_num_seqs": options.max_rows, **options.engine_options}
    loaded: Chameleon = chameleon_vllm.VLLMChameleon.from_pretrained(options.model, **arguments)
    return loaded
