"""Chameleon's image tokenizer: pictures to codes and back.

Start here:

- ``ImageTokenizer.from_pretrained(folder_or_name)`` loads an image tokenizer. ``tokenizer.encode(images)`` returns
  codes, int64 [pictures, codes per picture], and ``tokenizer.decode(codes)`` returns PIL images.
- ``tokenizer.encode_folder(folder)`` encodes many files; ``write_codes`` and ``read_codes`` keep codes in a file.
- ``reconstruct(tokenizer, images)`` yields pictures beside their reconstructions.
- ``ChameleonVQVAE(ChameleonVQVAEConfig())`` is the network, a ``torch.nn.Module``, and ``ChameleonImageProcessor`` what
  converts pictures to its pixels.
- ``chameleon_vq.training.VQTrainer`` trains an image tokenizer; ``chameleon_vq.testing`` has what tests need.

Every error derives from ``ChameleonVQError``. The command line is ``chameleon-vq``. A public name is imported when it
is first used: importing torch takes a second, and ``chameleon-vq --help`` needs none of it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import _device_backends as _device_backends

if TYPE_CHECKING:
    from .agreement import CodeComparison, compare_codes
    from .codes_file import CodesFile, read_codes, write_codes
    from .config import ChameleonVQVAEConfig
    from .errors import (
        BrokenPluginError,
        ChameleonVQError,
        CodesError,
        ConfigError,
        FileAccessError,
        FileFormatError,
        ImageError,
        ImageWarning,
        InterchangeWarning,
        MissingDecoderError,
        MissingFileError,
        MissingPackageError,
        UnknownAttributeError,
        UnknownPluginError,
        WeightsError,
    )
    from .from_tensors import image_tokenizer_of
    from .hookspecs import HOOK_API_VERSION, hookimpl
    from .image_processor import ChameleonImageProcessor
    from .model import ChameleonVQVAE, VQEncoding, VQReconstruction
    from .plugins import PluginSpec
    from .quantizers import Codebook, Quantized, VectorQuantizer
    from .reconstruction import Reconstruction, reconstruct
    from .tokenizer import ImageTokenizer

__version__ = "2026.11.0"

__all__ = [
    "HOOK_API_VERSION",
    "BrokenPluginError",
    "ChameleonImageProcessor",
    "ChameleonVQError",
    "ChameleonVQVAE",
    "ChameleonVQVAEConfig",
    "CodeComparison",
    "Codebook",
    "CodesError",
    "CodesFile",
    "ConfigError",
    "FileAccessError",
    "FileFormatError",
    "ImageError",
    "ImageTokenizer",
    "ImageWarning",
    "InterchangeWarning",
    "MissingDecoderError",
    "MissingFileError",
    "MissingPackageError",
    "PluginSpec",
    "Quantized",
    "Reconstruction",
    "UnknownAttributeError",
    "UnknownPluginError",
    "VQEncoding",
    "VQReconstruction",
    "VectorQuantizer",
    "WeightsError",
    "__version__",
    "compare_codes",
    "hookimpl",
    "image_tokenizer_of",
    "read_codes",
    "reconstruct",
    "write_codes",
]

_MODULES = {
    "BrokenPluginError": ".errors",
    "ChameleonImageProcessor": ".image_processor",
    "ChameleonVQError": ".errors",
    "ChameleonVQVAE": ".model",
    "ChameleonVQVAEConfig": ".config",
    "CodeComparison": ".agreement",
    "Codebook": ".quantizers",
    "CodesError": ".errors",
    "CodesFile": ".codes_file",
    "ConfigError": ".errors",
    "FileAccessError": ".errors",
    "FileFormatError": ".errors",
    "HOOK_API_VERSION": ".hookspecs",
    "ImageError": ".errors",
    "ImageTokenizer": ".tokenizer",
    "ImageWarning": ".errors",
    "InterchangeWarning": ".errors",
    "MissingDecoderError": ".errors",
    "MissingFileError": ".errors",
    "MissingPackageError": ".errors",
    "PluginSpec": ".plugins",
    "Quantized": ".quantizers",
    "Reconstruction": ".reconstruction",
    "UnknownAttributeError": ".errors",
    "UnknownPluginError": ".errors",
    "VQEncoding": ".model",
    "VQReconstruction": ".model",
    "VectorQuantizer": ".quantizers",
    "WeightsError": ".errors",
    "compare_codes": ".agreement",
    "hookimpl": ".hookspecs",
    "image_tokenizer_of": ".from_tensors",
    "read_codes": ".codes_file",
    "reconstruct": ".reconstruction",
    "write_codes": ".codes_file",
}


if not TYPE_CHECKING:  # or type checkers would believe that the package has every name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(_MODULES[name], __name__), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
