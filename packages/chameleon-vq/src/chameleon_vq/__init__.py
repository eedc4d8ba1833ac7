"""Chameleon's image tokenizer: pictures to codes and back."""

from .agreement import CodeComparison, compare_codes
from .codes_file import CodesFile, read_codes, write_codes
from .config import ChameleonVQVAEConfig
from .errors import (
    BrokenPluginError,
    ChameleonVQError,
    CodesError,
    ConfigError,
    FileFormatError,
    ImageError,
    MissingDecoderError,
    MissingFileError,
    MissingPackageError,
    UnknownPluginError,
    WeightsError,
)
from .hookspecs import HOOK_API_VERSION, hookimpl
from .image_processor import ChameleonImageProcessor
from .model import ChameleonVQVAE, VQEncoding, VQReconstruction
from .plugins import PluginSpec
from .quantizers import Codebook, Quantized, VectorQuantizer
from .reconstruction import Reconstruction, reconstruct
from .tokenizer import ImageTokenizer

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
    "FileFormatError",
    "ImageError",
    "ImageTokenizer",
    "MissingDecoderError",
    "MissingFileError",
    "MissingPackageError",
    "PluginSpec",
    "Quantized",
    "Reconstruction",
    "UnknownPluginError",
    "VQEncoding",
    "VQReconstruction",
    "VectorQuantizer",
    "WeightsError",
    "compare_codes",
    "hookimpl",
    "read_codes",
    "reconstruct",
    "write_codes",
]
