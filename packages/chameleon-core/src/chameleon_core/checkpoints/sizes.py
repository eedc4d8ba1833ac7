"""Compare the sizes that a config states with what the weights' files hold, before memory or work is spent on them."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import WeightsError
from ..formats import StoredTensor

LAYER_PREFIX = "model.layers."


def check_sizes(config: ChameleonConfig, tensors: Mapping[str, StoredTensor], *, source: str) -> None:
    """Raise ``WeightsError`` where a config describes more layers or weights than the tensors can hold."""
    stored_layers = len({name.split(".", 3)[2] for name in tensors if name.startswith(LAYER_PREFIX)})
    # A checkpoint of another model has no such layers; its tensors are compared by name.
    if config.num_hidden_layers > max(stored_layers, len(tensors)):
        raise WeightsError(
            f"{source} has the weights of {stored_layers:,} layers, but its {CONFIG_FILE} says num_hidden_layers "
            f"{config.num_hidden_layers:,}. Check that they belong together."
        )
    num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    of_this_model = any(name.startswith("model.") for name in tensors)
    # No quantizer stores a weight in less than a bit. Nothing holds 2⁶⁰ weights.
    if least_weights(config) > (8 * num_bytes if of_this_model else 2**60):
        raise WeightsError(
            f"{source} has {num_bytes:,} bytes of weights, but its {CONFIG_FILE} describes {least_weights(config):,} "
            "weights (vocab_size, hidden_size, intermediate_size, num_hidden_layers). Check that they belong together."
        )


def least_weights(config: ChameleonConfig) -> int:
    """Return how many weights a model of a config has at least: those of its matrices, the output layer's left out."""
    key_value_width = config.num_key_value_heads * config.head_dim
    attention = 2 * config.hidden_size * (config.hidden_size + key_value_width)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    return config.vocab_size * config.hidden_size + config.num_hidden_layers * (attention + feed_forward)
