"""Compare the sizes that a config states with what the weights' files hold, before memory or work is spent on them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import WeightsError
from ..formats import StoredTensor

LAYER_PREFIX = "model.layers."
_MOST_LISTED = 5
_NAME = re.compile(
    r"(?:model\.layers\.\d+\.(?:(?:self_attn|mlp)\.)?|model\.)?"
    r"(?P<layer>[qkvo]_proj|[qk]_norm|(?:gate|up|down)_proj|(?:input|post_attention)_layernorm|norm|embed_tokens|lm_head)"
    r"\.(?P<kind>weight|bias)"
)


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


def check_shapes(config: ChameleonConfig, tensors: Mapping[str, StoredTensor], *, source: str) -> None:
    """Raise ``WeightsError`` where floating tensors have other shapes than a config describes; codes have their own."""
    shapes = {
        name: (tensor.shape, _shape(name, config)) for name, tensor in tensors.items() if tensor.dtype.is_floating_point
    }
    wrong = [
        f"{name} {shape}, expected {wanted}" for name, (shape, wanted) in shapes.items() if wanted not in (None, shape)
    ]
    if wrong:
        more = f" and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
        raise WeightsError(
            f"{source} has weights of other shapes than its {CONFIG_FILE} describes: "
            f"{'; '.join(wrong[:_MOST_LISTED])}{more}. Check that they belong together."
        )


def _shape(name: str, config: ChameleonConfig) -> tuple[int, ...] | None:
    """Return the shape of a tensor by its published name; None for names that the transformer doesn't have."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": hidden, "gate_proj": inner}
    outputs |= {"up_proj": inner, "down_proj": hidden, "embed_tokens": config.vocab_size, "lm_head": config.vocab_size}
    inputs = {"o_proj": queries, "down_proj": inner}
    layer, kind = match["layer"], match["kind"]
    if layer in ("q_norm", "k_norm"):
        return {"q_norm": queries, "k_norm": keys}[layer] // config.head_dim, config.head_dim
    if layer not in outputs:  # a norm
        return (hidden,)
    return (outputs[layer],) if kind == "bias" else (outputs[layer], inputs.get(layer, hidden))


def least_weights(config: ChameleonConfig) -> int:
    """Return how many weights a model of a config has at least: those of its matrices, the output layer's left out."""
    key_value_width = config.num_key_value_heads * config.head_dim
    attention = 2 * config.hidden_size * (config.hidden_size + key_value_width)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    return config.vocab_size * config.hidden_size + config.num_hidden_layers * (attention + feed_forward)
