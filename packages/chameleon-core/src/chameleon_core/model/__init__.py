"""The transformer, and the model with its output layer that reads, writes, loads and saves."""

from .cache import KVCache
from .conditional_generation import CausalOutput, ChameleonForConditionalGeneration
from .loss import IGNORE_INDEX
from .transformer import ChameleonModel, ModelOutput

__all__ = [
    "IGNORE_INDEX",
    "CausalOutput",
    "ChameleonForConditionalGeneration",
    "ChameleonModel",
    "KVCache",
    "ModelOutput",
]
