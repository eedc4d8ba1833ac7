"""How a training step is divided among ranks, and what each rank computes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ConfigError
from .shape import Shape

REDUCED_BYTES = 4
"""The bytes of a number of a gradient while it is reduced over ranks, of a weight, and of each of AdamW's moments."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How many ranks there are, and what they divide.

    ``data`` groups of ``tensor`` ranks. Each group computes rows of its own; the ranks of a group divide each layer's
    heads and feed-forward, and the ids of the embedding and the output layer. What a rank has of the weights, their
    gradients and AdamW's moments is divided once more among the groups (FSDP), and gathered layer by layer.
    """

    data: int = 1
    """Groups, each with rows of its own; ≥ 1, by default 1."""
    tensor: int = 1
    """Ranks of a group; ≥ 1, by default 1."""
    sequence: bool = False
    """Whether the ranks of a group divide the positions where they don't divide the layer (the norms and residuals);
    by default False."""

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.data * self.tensor

    def check(self, shape: Shape) -> None:
        """Raise ``ConfigError`` where the shape can't be divided so."""
        for name in ("data", "tensor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Parallelism.{name} must be at least 1; got {getattr(self, name)}.")
        if self.tensor not in tensor_sizes(shape):
            sizes = ", ".join(map(str, tensor_sizes(shape)))
            raise ConfigError(
                f"{self.tensor} tensor-parallel ranks can't divide {shape.name}: its {shape.heads} query heads, "
                f"{shape.kv_heads} key/value heads, feed-forward of {shape.inner} and {shape.vocabulary} ids must each "
                f"be a multiple of them. Choose one of {sizes}."
            )
        if self.sequence and self.tensor == 1:
            raise ConfigError(
                "sequence parallelism divides positions among the ranks of a tensor-parallel group, and there is 1 "
                "rank in each. Choose 2 or more tensor-parallel ranks, or leave it out."
            )

    def __str__(self) -> str:
        parts = [f"{self.data} data", f"{self.tensor} tensor"]
        return " × ".join(parts) + (", sequence" if self.sequence else "")


def tensor_sizes(shape: Shape, most: int | None = None) -> list[int]:
    """Return the numbers of tensor-parallel ranks, up to ``most``, that divide a shape."""
    divided = (shape.heads, shape.kv_heads, shape.inner, shape.vocabulary)
    sizes = range(1, min(shape.kv_heads, most or shape.kv_heads) + 1)
    return [size for size in sizes if not any(count % size for count in divided)]


def divisions(shape: Shape, ranks: int, per_node: int) -> Iterator[Parallelism]:
    """Yield the ways to divide a shape among ranks whose tensor-parallel groups stay within a node."""
    for tensor in tensor_sizes(shape, min(per_node, ranks)):
        if ranks % tensor == 0 and per_node % tensor == 0:
            yield Parallelism(ranks // tensor, tensor, sequence=tensor > 1)


@dataclass(frozen=True, slots=True)
class Workload:
    """What a step computes, in each group of tensor-parallel ranks."""

    rows: int = 1
    """Rows of a forward and backward pass of a group; ≥ 1, by default 1."""
    length: int = 4096
    """Positions of a row; ≥ 1, by default 4,096."""
    passes: int = 1
    """Forward and backward passes of a step, whose gradients are accumulated; ≥ 1, by default 1."""
    recomputed: float = 1.0
    """The share of the layers whose activations are computed again in the backward pass in place of being kept; 0…1,
    by default 1, which is ``gradient_checkpointing``."""
    product_bytes: int = 2
    """Bytes of a number in products: 2 in bfloat16, the default, or 4 in float32."""

    def check(self) -> None:
        """Raise ``ConfigError`` where a value is impossible."""
        for name in ("rows", "length", "passes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Workload.{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.recomputed <= 1:
            raise ConfigError(f"Workload.recomputed is a share and must be 0…1; got {self.recomputed}.")
        if self.product_bytes not in (2, 4):
            raise ConfigError(f"Workload.product_bytes must be 2 (bfloat16) or 4 (float32); got {self.product_bytes}.")

    @property
    def positions(self) -> int:
        """Positions of a pass of a group."""
        return self.rows * self.length
