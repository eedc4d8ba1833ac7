"""Generation of text, pictures and interleaved documents, as ids."""

from .decoder import Decoder, TextDecoder
from .decoding import DecodingStrategy, Guesser, GuessView
from .engine import Engine
from .options import GenerationChanges, GenerationOptions, Modality
from .processors import (
    FORBIDDEN,
    ExtraProcessors,
    LogitsProcessor,
    ProcessorChain,
    RowView,
    StatelessProcessor,
    make_processor,
    processor_chain,
)
from .requests import NewIds, Request, RequestHandle
from .rows import FinishReason
from .stream import Step, generate_ids

__all__ = [
    "FORBIDDEN",
    "Decoder",
    "DecodingStrategy",
    "Engine",
    "ExtraProcessors",
    "FinishReason",
    "GenerationChanges",
    "GenerationOptions",
    "GuessView",
    "Guesser",
    "LogitsProcessor",
    "Modality",
    "NewIds",
    "ProcessorChain",
    "Request",
    "RequestHandle",
    "RowView",
    "StatelessProcessor",
    "Step",
    "TextDecoder",
    "generate_ids",
    "make_processor",
    "processor_chain",
]
