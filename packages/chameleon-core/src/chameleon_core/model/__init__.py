"""The transformer, and the model with its output layer that reads, writes, loads and saves."""

from typing import TYPE_CHECKING

from .._moved import moved_names
from .cache import KVCache
from .conditional_generation import ChameleonForConditionalGeneration
from .lane_cache import LaneCache
from .loss import IGNORE_INDEX
from .outputs import CausalOutput, ModelOutput
from .transformer import ChameleonModel

__all__ = [
    "IGNORE_INDEX",
    "CausalOutput",
    "ChameleonForConditionalGeneration",
    "ChameleonModel",
    "KVCache",
    "LaneCache",
    "ModelOutput",
]

if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "draw_weight": "chameleon_core.model.transformer:init_weight",
        },
    )
