"""Chameleon (arXiv 2405.09818): one transformer that reads and writes text and pictures in one stream of tokens.

What people come for:

- **Generating text and pictures**: the pipeline ``Chameleon.from_pretrained("emoji")``, with ``generate``, ``stream``,
  ``draw`` and ``caption``; ``GenerationOptions`` are its options.
- **The model itself**: ``ChameleonForConditionalGeneration``, a torch module that is called as in ``transformers``, and
  ``ChameleonConfig``.
- **Checkpoints**: ``from_pretrained`` and ``save_pretrained`` of both, in the layout of ``transformers``;
  ``quantization="int4"`` loads a model in fewer bytes.
- **Training**: ``chameleon_core.training``, the published recipe on token ids (extra ``train``).
- **The command line**: ``chameleon --help``, or ``python -m chameleon_core --help`` (extra ``cli``).

What belongs to the model and lives in a sibling package is found here, too, once that is installed:
``ChameleonProcessor`` and ``TextTokenizer`` of chameleon-text, ``ChameleonVQVAE``, ``ChameleonVQVAEConfig``,
``ChameleonImageProcessor`` and ``ImageTokenizer`` of chameleon-vq. So a script for ``transformers`` needs only another
name in its imports.

Every error derives from ``ChameleonCoreError``. A public name is imported when it is first used: importing torch takes
a second, and ``chameleon --help`` needs none of it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import _device_backends as _device_backends
from ._moved import moved_modules

if TYPE_CHECKING:
    from chameleon_backends.plugins import PluginSpec, PluginWarning
    from chameleon_text import ChameleonProcessor as ChameleonProcessor
    from chameleon_text import TextTokenizer as TextTokenizer
    from chameleon_vq import ChameleonImageProcessor as ChameleonImageProcessor
    from chameleon_vq import ChameleonImageProcessor as ChameleonImageProcessorPil  # noqa: F401
    from chameleon_vq import ChameleonVQVAE as ChameleonVQVAE
    from chameleon_vq import ChameleonVQVAEConfig as ChameleonVQVAEConfig
    from chameleon_vq import ImageTokenizer as ImageTokenizer

    from .checkpoints import load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
    from .checkpoints.convert import pool_checkpoint, pool_key_value_heads
    from .compat.bitsandbytes import BitsAndBytesConfig
    from .compat.generation_config import GenerationConfig
    from .compat.generation_outputs import GenerateOutput
    from .config import ChameleonConfig
    from .errors import (
        ArgumentError,
        BrokenPluginError,
        ChameleonCoreError,
        CheckpointWarning,
        ConfigError,
        ContextLengthError,
        EngineFullError,
        FileAccessError,
        FileFormatError,
        GenerationError,
        InputError,
        InputWarning,
        InterchangeWarning,
        MissingFileError,
        MissingPackageError,
        ModelNotFoundError,
        UnknownPluginError,
        VocabularyError,
        WeightsError,
    )
    from .generation import (
        Engine,
        GenerationChanges,
        GenerationOptions,
        Modality,
        NewIds,
        Request,
        RequestHandle,
        Step,
    )
    from .hookspecs import HOOK_API_VERSION, CheckpointFormatSpec, LogitsProcessorSpec, hookimpl
    from .layout import TokenLayout
    from .model import CausalOutput, ChameleonForConditionalGeneration, ChameleonModel, KVCache, LaneCache, ModelOutput
    from .model.leading import leading
    from .pipeline import (
        Chameleon,
        Event,
        Finished,
        ImageFinished,
        ImageProgress,
        ImageStarted,
        Picture,
        Prompt,
        PromptPart,
        Reason,
        SegmentFinished,
        SegmentProgress,
        SegmentStarted,
        TextDelta,
        load_document,
        save_document,
    )
    from .quantization import Quantization, QuantizationReport, quantization_report, quantize_model

__version__ = "2026.11.0"

__all__ = [
    "HOOK_API_VERSION",
    "ArgumentError",
    "BitsAndBytesConfig",
    "BrokenPluginError",
    "CausalOutput",
    "Chameleon",
    "ChameleonConfig",
    "ChameleonCoreError",
    "ChameleonForConditionalGeneration",
    "ChameleonModel",
    "CheckpointFormatSpec",
    "CheckpointWarning",
    "ConfigError",
    "ContextLengthError",
    "Engine",
    "EngineFullError",
    "Event",
    "FileAccessError",
    "FileFormatError",
    "Finished",
    "GenerateOutput",
    "GenerationChanges",
    "GenerationConfig",
    "GenerationError",
    "GenerationOptions",
    "ImageFinished",
    "ImageProgress",
    "ImageStarted",
    "InputError",
    "InputWarning",
    "InterchangeWarning",
    "KVCache",
    "LaneCache",
    "LogitsProcessorSpec",
    "MissingFileError",
    "MissingPackageError",
    "Modality",
    "ModelNotFoundError",
    "ModelOutput",
    "NewIds",
    "Picture",
    "PluginSpec",
    "PluginWarning",
    "Prompt",
    "PromptPart",
    "Quantization",
    "QuantizationReport",
    "Reason",
    "Request",
    "RequestHandle",
    "SegmentFinished",
    "SegmentProgress",
    "SegmentStarted",
    "Step",
    "TextDelta",
    "TokenLayout",
    "UnknownPluginError",
    "VocabularyError",
    "WeightsError",
    "__version__",
    "hookimpl",
    "leading",
    "load_checkpoint",
    "load_document",
    "pool_checkpoint",
    "pool_key_value_heads",
    "quantization_report",
    "quantize_model",
    "read_checkpoint",
    "save_checkpoint",
    "save_document",
    "write_checkpoint",
]

_MODULES = {
    "HOOK_API_VERSION": ".hookspecs",
    "ArgumentError": ".errors",
    "BitsAndBytesConfig": ".compat.bitsandbytes",
    "BrokenPluginError": ".errors",
    "CausalOutput": ".model",
    "Chameleon": ".pipeline",
    "ChameleonConfig": ".config",
    "ChameleonCoreError": ".errors",
    "CheckpointWarning": ".errors",
    "ChameleonForConditionalGeneration": ".model",
    "ChameleonModel": ".model",
    "CheckpointFormatSpec": ".hookspecs",
    "ConfigError": ".errors",
    "ContextLengthError": ".errors",
    "Engine": ".generation",
    "EngineFullError": ".errors",
    "Event": ".pipeline",
    "FileAccessError": ".errors",
    "FileFormatError": ".errors",
    "Finished": ".pipeline",
    "GenerateOutput": ".compat.generation_outputs",
    "GenerationChanges": ".generation",
    "GenerationConfig": ".compat.generation_config",
    "GenerationError": ".errors",
    "InputError": ".errors",
    "InputWarning": ".errors",
    "InterchangeWarning": ".errors",
    "GenerationOptions": ".generation",
    "ImageFinished": ".pipeline",
    "ImageProgress": ".pipeline",
    "ImageStarted": ".pipeline",
    "KVCache": ".model",
    "LaneCache": ".model",
    "LogitsProcessorSpec": ".hookspecs",
    "MissingFileError": ".errors",
    "MissingPackageError": ".errors",
    "Modality": ".generation",
    "NewIds": ".generation",
    "ModelNotFoundError": ".errors",
    "ModelOutput": ".model",
    "Picture": ".pipeline",
    "PluginSpec": "chameleon_backends.plugins",
    "PluginWarning": "chameleon_backends.plugins",
    "Prompt": ".pipeline",
    "PromptPart": ".pipeline",
    "Quantization": ".quantization",
    "QuantizationReport": ".quantization",
    "Reason": ".pipeline",
    "Request": ".generation",
    "RequestHandle": ".generation",
    "SegmentFinished": ".pipeline",
    "SegmentProgress": ".pipeline",
    "SegmentStarted": ".pipeline",
    "Step": ".generation",
    "TextDelta": ".pipeline",
    "TokenLayout": ".layout",
    "UnknownPluginError": ".errors",
    "VocabularyError": ".errors",
    "WeightsError": ".errors",
    "hookimpl": ".hookspecs",
    "leading": ".model.leading",
    "load_checkpoint": ".checkpoints",
    "load_document": ".pipeline",
    "pool_checkpoint": ".checkpoints.convert",
    "pool_key_value_heads": ".checkpoints.convert",
    "quantization_report": ".quantization",
    "quantize_model": ".quantization",
    "read_checkpoint": ".checkpoints",
    "save_checkpoint": ".checkpoints",
    "save_document": ".pipeline",
    "write_checkpoint": ".checkpoints",
}

_OPTIONAL = {
    "ChameleonImageProcessor": "chameleon_vq",
    "ChameleonImageProcessorFast": "chameleon_vq",
    "ChameleonImageProcessorPil": "chameleon_vq",
    "ChameleonProcessor": "chameleon_text",
    "ChameleonVQVAE": "chameleon_vq",
    "ChameleonVQVAEConfig": "chameleon_vq",
    "ImageTokenizer": "chameleon_vq",
    "TextTokenizer": "chameleon_text",
}
"""Names of optional packages that are handed on. They aren't in ``__all__``, which needs none of these packages."""
_ALIASES = dict.fromkeys(("ChameleonImageProcessorFast", "ChameleonImageProcessorPil"), "ChameleonImageProcessor")
"""``transformers`` has an image processor for each of two libraries; here is one."""

moved_modules(
    {
        "chameleon_core.documents": "chameleon_core.pipeline.documents",
        "chameleon_core.events": "chameleon_core.pipeline.events",
        "chameleon_core.siblings": "chameleon_core.protocols",
        "chameleon_core.cli.table": "chameleon_core.cli.terminal",
        "chameleon_core.cache": "chameleon_core.model.cache",
        "chameleon_core.checkpoints.contract": "chameleon_core.formats.contract",
        "chameleon_core.checkpoints.hf": "chameleon_core.formats.hf",
        "chameleon_core.checkpoints.safetensors_files": "chameleon_core.formats.safetensors_files",
        "chameleon_core.conditional_generation": "chameleon_core.model.conditional_generation",
        "chameleon_core.convert": "chameleon_core.checkpoints.convert",
        "chameleon_core.generation.head": "chameleon_core.generation.repacked_head",
        "chameleon_core.layers": "chameleon_core.model.layers",
        "chameleon_core.locate": "chameleon_core.checkpoints.resolve",
        "chameleon_core.quantization_quality": "chameleon_core.quantization",
        "chameleon_core.rope": "chameleon_core.model.rope",
        "chameleon_core.training.bar": "chameleon_core.training.progress",
        "chameleon_core.training.checkpoint": "chameleon_core.training.checkpoints",
        "chameleon_core.training.extras": "chameleon_core.training.errors",
    }
)


def __getattr__(name: str) -> Any:
    if name in _OPTIONAL:
        return _of_optional_package(name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    installed = (name for name, package in _OPTIONAL.items() if importlib.util.find_spec(package) is not None)
    return sorted({*globals(), *__all__, *installed})


def _of_optional_package(name: str) -> Any:
    """Return what an optional package has under a name. Raises ``MissingPackageError`` with the install line."""
    from . import optional_packages

    load = {"chameleon_vq": optional_packages.vq_package, "chameleon_text": optional_packages.text_package}
    return getattr(load[_OPTIONAL[name]](), _ALIASES.get(name, name))
