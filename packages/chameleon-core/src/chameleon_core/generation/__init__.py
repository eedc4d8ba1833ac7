"""Generation of text, pictures and interleaved documents, as ids."""

from .decoder import Decoder, LaneCache, TextDecoder
from .engine import Step, generate_ids
from .options import GenerationChanges, GenerationOptions, Modality

__all__ = [
    "Decoder",
    "GenerationChanges",
    "GenerationOptions",
    "LaneCache",
    "Modality",
    "Step",
    "TextDecoder",
    "generate_ids",
]
