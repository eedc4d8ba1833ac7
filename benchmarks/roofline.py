"""What generation takes at least on a device, computed from bytes and operations: nothing here is measured.

A step reads every weight and all cached keys and values once, and multiplies each weight with each row. It takes at
least as long as the slower of the two:

    step = max((weights + keys and values) / bandwidth, operations / rate)

``docs/performance.md`` states the formulas and shows the tables of ``performance_page.py``, which come from here. The
models and devices are those of ``chameleon_core.planning``, which plans training.
"""

from __future__ import annotations

from dataclasses import dataclass

from chameleon_core.planning import H100, H200, SHAPES, Device, Shape
from chameleon_core.planning.shape import VOCABULARY

CODES = 8_192
"""The ids of pictures, the only rows of the output layer that are multiplied within one."""
PICTURE = 1_024
"""The codes of a picture."""

__all__ = ["BFLOAT16", "CODES", "DEVICES", "INT4", "INT8", "PICTURE", "PRECISIONS", "SHAPES", "VOCABULARY", "Device"]
__all__ += ["Precision", "Shape", "memory_needed", "picture_seconds", "prefill_seconds", "step_seconds"]


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights of linear layers are stored; the products are computed in bfloat16."""

    name: str
    weight_bytes: float
    """The bytes of a weight, scales included."""


DEVICES = (H100, H200)
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
