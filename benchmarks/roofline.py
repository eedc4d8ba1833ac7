"""What generation takes at least on a device, computed from bytes and operations: nothing here is measured.

A step reads every weight and all cached keys and values once, and multiplies each weight with each row. It takes at
least as long as the slower of the two:

    step = max((weights + keys and values) / bandwidth, operations / rate)

``docs/performance.md`` states the formulas and shows the tables of ``performance_page.py``, which come from here. Only
the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 65_536
CODES = 8_192
"""The ids of pictures, the only rows of the output layer that are multiplied within one."""
PICTURE = 1_024
"""The codes of a picture."""
CACHED_BYTES = 2
"""The bytes of a cached number, which is in bfloat16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a transformer."""

    name: str
    layers: int
    hidden: int
    inner: int
    """The width of the feed-forward."""
    heads: int
    kv_heads: int

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """The weights of the linear layers within all layers; norms are too small to count."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * self.head
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def parameters(self) -> int:
        """All weights: those of the layers, the embedding and the output layer."""
        return self.layer_weights + 2 * VOCABULARY * self.hidden

    @property
    def cached_bytes(self) -> int:
        """The bytes of a position's keys and values."""
        return 2 * self.layers * self.kv_heads * self.head * CACHED_BYTES

    def weights_read(self, outputs: int = VOCABULARY) -> int:
        """Return the weights that a step reads, with ``outputs`` rows of the output layer."""
        return self.layer_weights + outputs * self.hidden

    def operations(self, context: int, outputs: int = VOCABULARY) -> float:
        """Return the floating-point operations of one new position after ``context`` others.

        Two for each weight, and two for each number of the queries with each key and again with each value.
        """
        return 2.0 * self.weights_read(outputs) + 4.0 * self.layers * self.hidden * (context + 1)


@dataclass(frozen=True, slots=True)
class Device:
    """A device, by its data sheet."""

    name: str
    bandwidth: float
    """Bytes in a second."""
    rate: float
    """Floating-point operations in a second, dense, in bfloat16."""
    memory: float
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights of linear layers are stored; the products are computed in bfloat16."""

    name: str
    weight_bytes: float
    """The bytes of a weight, scales included."""


SHAPES = (
    Shape("7B", layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32),
    Shape("34B", layers=48, hidden=8192, inner=22016, heads=64, kv_heads=8),
)
DEVICES = (
    Device("H100 SXM", bandwidth=3.35e12, rate=989e12, memory=80e9),
    Device("H200 SXM", bandwidth=4.8e12, rate=989e12, memory=141e9),
)
BFLOAT16 = Precision("bfloat16", 2.0)
# A scale of two bytes for each row of int8, which is too little to count, and for each group of 128 of int4.
INT8, INT4 = Precision("int8", 1.0), Precision("int4", 0.5 + 2 / 128)
PRECISIONS = (BFLOAT16, INT8, INT4)


def memory_needed(shape: Shape, precision: Precision, context: int = 0, batch: int = 1) -> float:
    """Return the bytes of the weights, the output layer quantized, too, and of the keys and values of a batch."""
    embedding = VOCABULARY * shape.hidden * BFLOAT16.weight_bytes
    return embedding + shape.weights_read() * precision.weight_bytes + batch * context * shape.cached_bytes


def step_seconds(
    shape: Shape,
    device: Device,
    precision: Precision = BFLOAT16,
    *,
    contexts: tuple[int, ...] = (1024,),
    outputs: int = VOCABULARY,
) -> float:
    """Return the seconds of a step that gives a new id to each row; ``contexts`` has the length of each."""
    read = shape.weights_read(outputs) * precision.weight_bytes + sum(contexts) * shape.cached_bytes
    operations = sum(shape.operations(context, outputs) for context in contexts)
    return max(read / device.bandwidth, operations / device.rate)


def prefill_seconds(shape: Shape, device: Device, precision: Precision = BFLOAT16, *, length: int) -> float:
    """Return the seconds of a prompt, of whose last position alone logits are computed."""
    read = shape.weights_read() * precision.weight_bytes
    operations = sum(shape.operations(context, outputs=0) for context in range(length))
    return max(read / device.bandwidth, (operations + 2.0 * VOCABULARY * shape.hidden) / device.rate)


def picture_seconds(
    shape: Shape, device: Device, precision: Precision = BFLOAT16, *, prompt: int = 32, branches: int = 3
) -> float:
    """Return the seconds of a picture of 1,024 codes with guidance: the prompt, then a step for each code.

    A step feeds the code to each branch. One has the whole prompt; the others have its pictures, here none, or nothing.
    """
    steps = (
        step_seconds(
            shape,
            device,
            precision,
            contexts=(prompt + code, *[1 + code] * (branches - 1)),
            outputs=CODES,
        )
        for code in range(PICTURE)
    )
    return prefill_seconds(shape, device, precision, length=prompt) + sum(steps)
