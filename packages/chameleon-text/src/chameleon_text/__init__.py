"""Text, pictures and documents as the token ids of a Chameleon model, and back.

- ``processor = ChameleonProcessor.from_pretrained(folder, image_tokenizer=...)`` reads the files of a model's folder.
- ``processor(text=["What is this?<image>"], images=[picture], return_tensors="pt")`` makes a batch of prompts, as in
  ``transformers``.
- ``ids = processor.encode([Text("A cat: "), Image(picture)])`` encodes a document, and
  ``document = processor.decode_document(ids)`` returns the document of what a model wrote.
- ``processor.encode_messages(messages)`` encodes a conversation, ``processor.encode_for_training`` one with labels.
- ``TextTokenizer.from_file("tokenizer.json")`` is the tokenizer alone: text to ids and back, also one id at a time.

Plugins add types of segments and prompt templates (``hookimpl``, ``SegmentCodecSpec``, ``PluginSpec``).
``chameleon_text.testing`` has small tokenizers, hypothesis strategies, and the tests that every plugin passes.
Nothing here imports torch, but for ``return_tensors="pt"``.
"""

from __future__ import annotations

from .batch import IGNORE_INDEX, ProcessorBatch
from .codecs import CodecContext, Decoded, ImageProcessorLike, ImageTokenizerLike, SegmentCodec
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
    FileAccessError,
    FileFormatError,
    ImageCountError,
    MissingFileError,
    MissingPackageError,
    ReadOnlyError,
    TokenizerWarning,
    UnknownPluginError,
    VocabularyError,
)
from .hookspecs import HOOK_API_VERSION, SegmentCodecSpec, hookimpl
from .plugins import PluginSpec, PluginWarning
from .processor import ChameleonProcessor
from .registry import REGISTRY
from .segment_grammar import OpenSegment, SegmentGrammar
from .segments import Document, Image, Results, Segment, Special, Text, as_document, normalized
from .templates import Piece, Template, Turn
from .tokenizer import StreamDecoder, TextTokenizer
from .tokenizer_training import train_tokenizer
from .training import TrainingExample
from .vocabulary import Vocabulary, picture_name

__version__ = "2026.11.0"

__all__ = [
    "HOOK_API_VERSION",
    "IGNORE_INDEX",
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
    "FileAccessError",
    "FileFormatError",
    "Image",
    "ImageCountError",
    "ImageProcessorLike",
    "ImageTokenizerLike",
    "MissingFileError",
    "MissingPackageError",
    "OpenSegment",
    "Piece",
    "PluginSpec",
    "PluginWarning",
    "ProcessorBatch",
    "ReadOnlyError",
    "Results",
    "Segment",
    "SegmentCodec",
    "SegmentCodecSpec",
    "SegmentGrammar",
    "Special",
    "StreamDecoder",
    "Template",
    "Text",
    "TextTokenizer",
    "TokenizerWarning",
    "TrainingExample",
    "Turn",
    "UnknownPluginError",
    "Vocabulary",
    "VocabularyError",
    "__version__",
    "as_document",
    "document_from_json",
    "document_from_parts",
    "document_to_json",
    "document_to_parts",
    "hookimpl",
    "messages_from_turns",
    "normalized",
    "picture_name",
    "train_tokenizer",
    "turns_from_messages",
]
