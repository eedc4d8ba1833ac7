"""Chameleon's image tokenizer: pictures to codes and back."""

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
from .tokenizer import ImageTokenizer

__all__ = [
    "HOOK_API_VERSION",
    "BrokenPluginError",
    "ChameleonImageProcessor",
    "ChameleonVQError",
    "ChameleonVQVAE",
    "ChameleonVQVAEConfig",
    "Codebook",
    "CodesError",
    "ConfigError",
    "FileFormatError",
    "ImageError",
    "ImageTokenizer",
    "MissingDecoderError",
    "MissingFileError",
    "MissingPackageError",
    "PluginSpec",
    "Quantized",
    "UnknownPluginError",
    "VQEncoding",
    "VQReconstruction",
    "VectorQuantizer",
    "WeightsError",
    "hookimpl",
]
