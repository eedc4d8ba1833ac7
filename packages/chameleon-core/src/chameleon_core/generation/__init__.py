"""Generation of text, pictures and interleaved documents, as ids."""

from .decoder import Decoder, LaneCache, TextDecoder
from .engine import Step, generate_ids
from .options import GenerationOptions

__all__ = ["Decoder", "GenerationOptions", "LaneCache", "Step", "TextDecoder", "generate_ids"]
