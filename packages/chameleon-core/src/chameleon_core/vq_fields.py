"""The entry ``vq_config`` of a model's configuration: a mapping whose entries are read and assigned as attributes, too.

It stands for the configuration of the image tokenizer, a class of chameleon-vq, which core works without.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError

_PUBLISHED: Mapping[str, Any] = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "double_latent": False,
    "latent_channels": 256,
    "resolution": 512,
    "in_channels": 3,
    "base_channels": 128,
    "channel_multiplier": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": None,
    "dropout": 0.0,
    "attn_type": "vanilla",
    "initializer_range": 0.02,
    "model_type": "chameleon_vqgan",
}
_OF_ITS_CLASS = frozenset(
    {"get_text_config", "push_to_hub", "save_pretrained", "to_diff_dict", "to_json_file", "to_json_string"}
)
"""Methods of a configuration of chameleon-vq, which does them."""


class VQFields(dict[str, Any]):
    """The entries of ``vq_config``; an attribute that isn't among them has the published value."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in _PUBLISHED:
            return _PUBLISHED[name]
        if name in _OF_ITS_CLASS:
            from .optional_packages import vq_package  # which imports torch

            return getattr(vq_package().ChameleonVQVAEConfig.from_dict(self.to_dict()), name)
        raise AttributeError(f"vq_config has no entry {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self and name not in _PUBLISHED:
            close = difflib.get_close_matches(name, {*self, *_PUBLISHED}, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" To add it: config.vq_config[{name!r}] = ..."
            raise ConfigError(f"vq_config has no entry {name!r}.{hint}")
        self[name] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def to_dict(self) -> dict[str, Any]:
        """Return all entries, with the published values of those that aren't set."""
        return {**_PUBLISHED, **self}
