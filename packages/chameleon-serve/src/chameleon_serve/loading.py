"""The pipeline that is served: on the toolkit's own engine, or on vLLM's."""

from __future__ import annotations

import importlib
from typing import Any

from chameleon_core import Chameleon, ConfigError, MissingPackageError
from chameleon_core.serving import FrontChameleon, SharedChameleon
from chameleon_core.serving.shared import EngineBounds

from .options import ServeOptions

OF_THE_PIPELINE = ("dtype", "image_tokenizer", "image_device")
"""Engine options that aren't arguments of vLLM's engine."""
OF_CORE = {
    "attn_implementation": "its attention is its own, which the engine option attention_backend chooses",
    "device": "its build decides where it computes; the engine option image_device is that of the image tokenizer",
}
"""Why arguments of the toolkit's own pipeline aren't offered there."""


def load_pipeline(options: ServeOptions) -> Chameleon:
    """Return the pipeline of the options' model, which threads may share.

    Raises ``ChameleonCoreError`` where it can't be loaded, ``MissingPackageError`` without chameleon-vllm or vLLM.
    """
    return _on_vllm(options) if options.engine == "vllm" else _on_core(options)


def limit_engine(chameleon: SharedChameleon, options: ServeOptions) -> None:
    """Give a pipeline an engine with the bounds of the options."""
    chameleon.limit(**_bounds(options))


def _on_core(options: ServeOptions) -> Chameleon:
    if not options.engine_process:
        chameleon = SharedChameleon.from_pretrained(options.model, **options.engine_options)
        limit_engine(chameleon, options)
        return chameleon
    for name in ("bounds", "threads"):
        if name in options.engine_options:
            raise ConfigError(f"{name} is no argument of a model; give the option of the server in its place.")
    return FrontChameleon.from_pretrained(
        options.model, bounds=_bounds(options), threads=options.threads, **options.engine_options
    )


def _bounds(options: ServeOptions) -> EngineBounds:
    return {
        "max_rows": options.max_rows,
        "max_positions": options.max_positions,
        "prompt_chunk": options.prompt_chunk,
        "prefix_positions": options.prefix_positions,
    }


def _on_vllm(options: ServeOptions) -> Chameleon:
    _refuse_what_is_core_s(options)
    try:
        import chameleon_vllm
        from chameleon_vllm.engine_arguments import check_arguments
        from chameleon_vllm.row_parts import MAX_MEMBERS

        check_arguments({name: value for name, value in options.engine_options.items() if name not in OF_THE_PIPELINE})
        importlib.import_module("chameleon_vllm.vllm_engine")  # which imports vLLM, and takes long
    except ImportError as error:
        raise MissingPackageError(
            f"the engine vllm needs chameleon-vllm and vLLM, which can't be imported: {error}. From the toolkit's "
            'folder, in an environment of its own: python -m pip install "./packages/chameleon-vllm[vllm]"'
        ) from error
    if options.threads is not None and _runs_on_cpu():
        raise ConfigError(
            "threads can't be set on vLLM for CPUs, which binds its own. Leave --threads out, and set "
            "VLLM_CPU_OMP_THREADS_BIND in the environment."
        )
    # So many that a guided picture, which is up to three requests, has room for each row.
    arguments: dict[str, Any] = {"max_num_seqs": MAX_MEMBERS * options.max_rows, **options.engine_options}
    loaded: Chameleon = chameleon_vllm.VLLMChameleon.from_pretrained(options.model, **arguments)
    return loaded


def _refuse_what_is_core_s(options: ServeOptions) -> None:
    """Raise ``ConfigError`` for options of the toolkit's engine that mean nothing to vLLM's."""
    if options.engine_process:
        raise ConfigError(
            "engine_process is an option of the toolkit's engine; vLLM's runs in the server's process. Leave it out."
        )
    if options.max_positions is not None:
        raise ConfigError(
            "max_positions bounds the cache of the toolkit's engine. vLLM's has gpu_memory_utilization and "
            "kv_cache_memory_bytes: give them as engine options."
        )
    if options.prefix_positions is not None:
        raise ConfigError(
            "prefix_positions are kept by the toolkit's engine. vLLM keeps beginnings of prompts by its engine option "
            "enable_prefix_caching."
        )
    if options.prompt_chunk != ServeOptions(model=options.model).prompt_chunk:
        raise ConfigError(
            "prompt_chunk cuts prompts for the toolkit's engine. vLLM computes those of a guided row in one step, "
            "which its engine option max_num_batched_tokens bounds."
        )
    for name, reason in OF_CORE.items():
        if name in options.engine_options:
            raise ConfigError(f"{name} isn't offered on vLLM: {reason}.")


def _runs_on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
