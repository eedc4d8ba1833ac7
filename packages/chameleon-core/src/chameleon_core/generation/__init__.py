"""Generation of text, pictures and interleaved documents, as ids."""

from .decoder import Decoder, LaneCache, TextDecoder
from .engine import Step, generate_ids
from .options import GenerationChanges, GenerationOptions, Modality
from .processors import (
    FORBIDDEN,
    LogitsProcessor,
    ProcessorChain,
    RowView,
    StatelessProcessor,
    make_processor,
    processor_chain,
)

__all__ = [
    "FORBIDDEN",
    "Decoder",
    "GenerationChanges",
    "GenerationOptions",
    "LaneCache",
    "LogitsProcessor",
    "Modality",
    "ProcessorChain",
    "RowView",
    "StatelessProcessor",
    "Step",
    "TextDecoder",
    "generate_ids",
    "make_processor",
    "processor_chain",
]
