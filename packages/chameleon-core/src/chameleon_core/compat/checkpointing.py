"""Gradient checkpointing: which layers are computed again in the backward pass, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ArgumentError, ConfigError

OPTIONS = ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop")
"""What ``torch.utils.checkpoint.checkpoint`` can be told."""


@dataclass(slots=True)
class Checkpointing:
    """Whether layers are recomputed in the backward pass, in the place of keeping their activations."""

    enabled: bool = False
    """Whether any layer is."""
    every_n_layers: int = 1
    """The first of each so many layers is; an integer ≥ 1."""
    options: Mapping[str, Any] = field(default_factory=lambda: {"use_reentrant": False})
    """What ``torch.utils.checkpoint.checkpoint`` is told."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.options) - set(OPTIONS))
        if unknown:
            raise ArgumentError(
                f"gradient checkpointing has no option {unknown[0]!r}; torch's are {', '.join(OPTIONS)}."
            )
        if type(self.every_n_layers) is not int or self.every_n_layers < 1:
            raise ConfigError(f"every_n_layers must be an integer ≥ 1; got {self.every_n_layers!r}.")

    def takes(self, index: int) -> bool:
        """Return whether the layer with this index is recomputed."""
        return self.enabled and index % self.every_n_layers == 0

    def run(self, layer: nn.Module, hidden_BTE: Tensor, context: Any) -> Tensor:
        """Return what a layer returns, without keeping its activations. B batch, T query length, E hidden width."""
        options = {"use_reentrant": False, **self.options}
        computed: Tensor = checkpoint(layer, hidden_BTE, context, **options)
        return computed
