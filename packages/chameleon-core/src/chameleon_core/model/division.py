"""Whether ranks can divide the layers of a model evenly.

It is apart from ``tensor_parallel`` so that one process never imports ``DTensor``, which takes about a second.
"""

from __future__ import annotations

from ..config import ChameleonConfig
from ..errors import ConfigError


def check_divides(config: ChameleonConfig, count: int) -> None:
    """Raise ``ConfigError`` where ``count`` ranks can't each have an equal part of each layer."""
    sizes = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    for name in sizes:
        size: int = getattr(config, name)
        if size % count:
            raise ConfigError(
                f"{count} ranks can't divide the layers: {name} is {size}. Use a number that divides "
                f"{', '.join(f'{each} ({getattr(config, each)})' for each in sizes)}."
            )
    if config.attention_dropout > 0:
        raise ConfigError(
            f"attention_dropout is {config.attention_dropout}: ranks that divide the heads would drop the same weights "
            "in different heads. Set it to 0; TrainingOptions.dropout is that of the recipe."
        )
