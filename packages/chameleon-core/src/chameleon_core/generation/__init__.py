"""Generation of text, pictures and interleaved documents, as ids."""

from .engine import Step, TextDecoder, generate_ids
from .options import GenerationOptions

__all__ = ["GenerationOptions", "Step", "TextDecoder", "generate_ids"]
