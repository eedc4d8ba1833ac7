"""The names and the form that an encoding has in ``transformers``: attributes, keys, indices, a tuple.

Shapes: B pictures, D width of a latent, h w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..errors import ConfigError

NAMES = ("last_hidden_state", "quantized_last_hidden_state", "image_tokens", "embedding_loss")


class EncodingNames:
    """An encoding read by the names of ``transformers``, as attributes or keys, or by their indices."""

    __slots__ = ()

    codes_Bhw: Tensor
    quantized_BDhw: Tensor
    hidden_BDhw: Tensor
    loss: Tensor

    @property
    def last_hidden_state(self) -> Tensor:
        """What the encoder returns, before it is projected to latents."""
        return self.hidden_BDhw

    @property
    def quantized_last_hidden_state(self) -> Tensor:
        """The latents that the codes stand for."""
        return self.quantized_BDhw

    @property
    def image_tokens(self) -> Tensor:
        """The codes of all pictures in one row, int64 [B · h · w]."""
        return self.codes_Bhw.flatten()

    @property
    def embedding_loss(self) -> Tensor:
        """The quantizer's training loss, a scalar."""
        return self.loss

    def keys(self) -> tuple[str, ...]:
        """The names of ``transformers``, in its order."""
        return NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in NAMES:
                raise KeyError(f"an encoding has no entry {key!r}; it has {', '.join(NAMES)}.")
            return getattr(self, key)
        return self.to_tuple()[key]

    def to_tuple(self) -> tuple[Tensor, ...]:
        """The values of ``keys()``."""
        return tuple(getattr(self, name) for name in NAMES)


def requested_tuple(arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments of ``encode``, those of ``transformers``, ask for a tuple.

    Raises ``ConfigError`` for arguments that it doesn't have, and for what an encoding doesn't hold.
    """
    for name, value in arguments.items():
        if name in ("output_hidden_states", "output_attentions"):
            if value:
                raise ConfigError(
                    f"encode can't have {name}={value!r}: an encoding holds no states of single layers. Read them with "
                    "register_forward_hook of the layer, as model.encoder.down[0]."
                )
        elif name != "return_dict":
            raise ConfigError(f"encode has no argument {name!r}. It has pixels_BCHW and return_dict.")
    return arguments.get("return_dict") is False
