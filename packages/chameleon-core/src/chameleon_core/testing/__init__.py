"""Tiny vocabularies, configurations and models, hypothesis strategies, and conformance suites, for dependent code.

Needs the extra ``[testing]``, which brings hypothesis and pytest. The test module of a plugin is one class::

    class TestAcme(LogitsProcessorConformance):
        processor_name = "acme"
"""

from __future__ import annotations

from ..errors import MissingPackageError

try:
    from .caches import LaneCacheConformance
    from .decoding import DecodingStrategyConformance
    from .logits_processors import LogitsProcessorConformance
    from .models import (
        TINY_VQ_CONFIG,
        batches,
        code_name,
        configs,
        make_config,
        make_model,
        make_scripted_model,
        make_vocabulary,
        pad_rows,
        randomize,
        text_ids,
    )
    from .picture_grammars import PictureGrammarConformance
except ModuleNotFoundError as error:
    if error.name not in ("hypothesis", "pytest"):
        raise
    raise MissingPackageError(
        f"chameleon_core.testing needs {error.name}: pip install './packages/chameleon-core[testing]'."
    ) from error

__all__ = [
    "TINY_VQ_CONFIG",
    "DecodingStrategyConformance",
    "LaneCacheConformance",
    "LogitsProcessorConformance",
    "PictureGrammarConformance",
    "batches",
    "code_name",
    "configs",
    "make_config",
    "make_model",
    "make_scripted_model",
    "make_vocabulary",
    "pad_rows",
    "randomize",
    "text_ids",
]
