"""The shape of a transformer, as far as bytes and operations depend on it: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import ChameleonConfig

VOCABULARY = 65_536
"""The ids of the published models."""
CACHED_BYTES = 2
"""The bytes of a cached number, which is in bfloat16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a transformer."""

    name: str
    """What reports call it."""
    layers: int
    """The number of layers."""
    hidden: int
    """The hidden width."""
    inner: int
    """The width of the feed-forward."""
    heads: int
    """The number of query heads."""
    kv_heads: int
    """The number of key/value heads."""
    vocabulary: int = VOCABULARY
    """The number of ids; by default that of the published models."""
    tied: bool = False
    """Whether the output layer shares the weight of the embedding; by default False."""
    swin_norm: bool = False
    """Whether norms follow attention and the feed-forward in place of preceding them; by default False."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head; by default True."""

    @classmethod
    def of(cls, config: ChameleonConfig, name: str) -> Shape:
        """Return the shape of the model that a configuration describes."""
        return cls(
            name,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
            swin_norm=config.swin_norm,
            qk_norm=config.qk_norm,
        )

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.hidden // self.heads

    @property
    def key_width(self) -> int:
        """The width of all key heads, and of all value heads."""
        return self.kv_heads * self.head

    @property
    def layer_weights(self) -> int:
        """The weights of the linear layers within all layers; norms are too small to count."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_width
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def table(self) -> int:
        """The weights of the embedding, as many as those of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def outer_weights(self) -> int:
        """The weights of the embedding and of the output layer, which may be the same."""
        return self.table if self.tied else 2 * self.table

    @property
    def parameters(self) -> int:
        """All weights: those of the layers, the embedding and the output layer."""
        return self.layer_weights + self.outer_weights

    @property
    def norm_weights(self) -> int:
        """The parameters of the norms, which tensor parallelism doesn't divide: those of the hidden width."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def head_norm_weights(self) -> int:
        """The parameters of the qk-norm: a weight and a bias for each number of each query and key head."""
        return 2 * self.layers * (self.hidden + self.key_width) if self.qk_norm else 0

    @property
    def cached_bytes(self) -> int:
        """The bytes of a position's keys and values."""
        return 2 * self.layers * self.key_width * CACHED_BYTES

    def weights_read(self, outputs: int | None = None) -> int:
        """Return the weights that a step reads, with ``outputs`` rows of the output layer (None: all)."""
        return self.layer_weights + (self.vocabulary if outputs is None else outputs) * self.hidden

    def operations(self, context: int, outputs: int | None = None) -> float:
        """Return the floating-point operations of one new position after ``context`` others.

        Two for each weight, and two for each number of the queries with each key and again with each value.
        """
        return 2.0 * self.weights_read(outputs) + 4.0 * self.layers * self.hidden * (context + 1)

    def row_operations(self, length: int, outputs: int | None = None) -> float:
        """Return the operations of a row of ``length`` positions, each of which attends to those before it and itself.

        The sum of ``operations`` over the positions, with ``outputs`` rows of the output layer at each (None: all).
        """
        pairs = length * (length + 1) / 2
        return 2.0 * length * self.weights_read(outputs) + 4.0 * self.layers * self.hidden * pairs


SHAPES = (
    Shape("7B", layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32),
    Shape("34B", layers=48, hidden=8192, inner=22016, heads=64, kv_heads=8, swin_norm=True),
)
"""The published models, 7B and 34B."""
