"""Text, documents and prompts to the ids of a Chameleon, and back."""

from __future__ import annotations

from .batch import ProcessorBatch
from .codecs import CodecContext, Decoded, ImageTokenizerLike, SegmentCodec
from .documents import (
    document_from_json,
    document_from_parts,
    document_to_json,
    document_to_parts,
    messages_from_turns,
    turns_from_messages,
)
from .errors import (
    BrokenPluginError,
    ChameleonTextError,
    ConfigError,
    DocumentError,
    EncodingError,
    FileFormatError,
    ImageCountError,
    MissingPackageError,
    UnknownPluginError,
    VocabularyError,
)
from .hookspecs import HOOK_API_VERSION, SegmentCodecSpec, hookimpl
from .plugins import PluginSpec, PluginWarning
from .processor import ChameleonProcessor, ImageProcessorLike, TrainingExample
from .registry import REGISTRY
from .segments import Document, Image, Segment, Special, Text, as_document, normalized
from .templates import Piece, Template, Turn
from .tokenizer import StreamDecoder, TextTokenizer
from .vocabulary import Vocabulary, picture_name

__all__ = [
    "HOOK_API_VERSION",
    "REGISTRY",
    "BrokenPluginError",
    "ChameleonProcessor",
    "ChameleonTextError",
    "CodecContext",
    "ConfigError",
    "Decoded",
    "Document",
    "DocumentError",
    "EncodingError",
    "FileFormatError",
    "Image",
    "ImageCountError",
    "ImageProcessorLike",
    "ImageTokenizerLike",
    "MissingPackageError",
    "Piece",
    "PluginSpec",
    "PluginWarning",
    "ProcessorBatch",
    "Segment",
    "SegmentCodec",
    "SegmentCodecSpec",
    "Special",
    "StreamDecoder",
    "Template",
    "Text",
    "TextTokenizer",
    "TrainingExample",
    "Turn",
    "UnknownPluginError",
    "Vocabulary",
    "VocabularyError",
    "as_document",
    "document_from_json",
    "document_from_parts",
    "document_to_json",
    "document_to_parts",
    "hookimpl",
    "messages_from_turns",
    "normalized",
    "picture_name",
    "turns_from_messages",
]
