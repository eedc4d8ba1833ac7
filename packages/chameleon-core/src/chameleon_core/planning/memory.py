"""The memory of a rank in training: what it keeps, and the largest of what comes and goes in a step.

The trainer's own choices are counted: weights, gradients and AdamW's moments in float32, FSDP2 with a group for each
layer and one for the rest, products in ``product_bytes``, and a loss that never holds all logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .parallelism import REDUCED_BYTES, Parallelism, Workload
from .shape import Shape

LOGITS_BYTES = 2**29
"""The largest logits of a chunk on a GPU, as in ``chameleon_core.training.loss``."""
STATISTICS_ELEMENTS = 2**27
"""The largest block of a chunk whose statistics are computed at once, as there."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a rank at the moment of a step that needs most."""

    moment: str
    """When that is."""
    weights: float
    """The rank's part of the weights."""
    moments: float
    """The rank's part of AdamW's two moments."""
    gradients: float
    """The rank's part of the gradients, as far as it exists by then."""
    gathered: float
    """Weights gathered from other ranks, and gradients of whole layers on their way to them."""
    activations: float
    """What the backward pass needs, and its own intermediate values."""
    output: float
    """The loss: a chunk of logits, their gradients, and those of the output layer."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self)[1:])


def memory_of_rank(
    shape: Shape,
    parallelism: Parallelism,
    work: Workload,
    *,
    logits_bytes: int = LOGITS_BYTES,
    statistics_elements: int = STATISTICS_ELEMENTS,
) -> Memory:
    """Return the memory of a rank at the largest of its moments.

    What a framework, a communication library and an allocator keep for themselves isn't counted.
    """
    tensor, product = parallelism.tensor, work.product_bytes
    shard = rank_weights(shape, tensor) / parallelism.data
    outer, table = shape.outer_weights / tensor, shape.table / tensor
    layer = (rank_weights(shape, tensor) - outer) / shape.layers
    kept, of_layer = kept_activations(shape, parallelism, work), layer_activations(shape, parallelism, work)
    last = norm_activations(shape, parallelism, work)
    # Positions enter the loss once more, and leave it as gradients.
    entering = 2 * work.positions * shape.hidden * product
    table_gradient = REDUCED_BYTES * table
    cast = product * table if product < REDUCED_BYTES else 0.0
    chunk = min(work.positions * shape.vocabulary / tensor, logits_bytes / product)
    logits = product * chunk
    if product < REDUCED_BYTES:
        logits += REDUCED_BYTES * min(chunk, statistics_elements)
    # Of a norm, several in float32; of the feed-forward, those of both products.
    of_norm = 4 * REDUCED_BYTES * shape.hidden / (tensor if parallelism.sequence else 1)
    of_branch = max(of_norm, 2 * product * shape.inner / tensor)
    in_flight = work.positions * (of_branch + 2 * product * shape.hidden)
    # Where activations are kept, the last layer needs most, and no gradients of a layer after it are on their way yet.
    reducing = REDUCED_BYTES * layer if work.recomputed else 0.0
    again = of_layer - _inputs_gone(shape, parallelism, work) if work.recomputed else 0.0
    accumulated = REDUCED_BYTES * shard if work.passes > 1 else 0.0

    def moment(name: str, *, gradients: float, gathered: float, activations: float, output: float) -> Memory:
        return Memory(
            name,
            weights=REDUCED_BYTES * shard,
            moments=2 * REDUCED_BYTES * shard,
            gradients=gradients,
            gathered=gathered,
            activations=activations,
            output=output,
        )

    return max(
        (
            moment(
                "the loss",
                gradients=accumulated,
                gathered=product * outer + product * layer,
                activations=kept + last + entering,
                output=table_gradient + max(logits + cast, table_gradient + cast),
            ),
            moment(
                "the backward pass of the last layers",
                gradients=accumulated,
                gathered=product * outer + 2 * product * layer + reducing,
                activations=kept + again + in_flight,
                output=product * table,
            ),
            moment(
                "the reduction of the last layer's gradients",
                gradients=accumulated,
                gathered=product * outer + product * layer + (product + REDUCED_BYTES) * layer,
                activations=kept - (0.0 if work.recomputed else of_layer),
                output=product * table,
            ),
            moment(
                "the backward pass of the first layer",
                gradients=max(accumulated, REDUCED_BYTES * (shard - (outer + layer) / parallelism.data)),
                gathered=product * outer + (product + REDUCED_BYTES) * layer,
                activations=of_layer + in_flight,
                output=product * table,
            ),
            moment(
                "the reduction of all other gradients",
                gradients=REDUCED_BYTES * shard,
                gathered=REDUCED_BYTES * outer + product * (outer - table),
                activations=0.0,
                output=product * table,
            ),
        ),
        key=lambda each: each.total,
    )


def rank_weights(shape: Shape, tensor: int) -> float:
    """Return the weights of a tensor-parallel rank, before they are divided among groups."""
    return (shape.parameters + shape.head_norm_weights) / tensor + shape.norm_weights


def kept_activations(shape: Shape, parallelism: Parallelism, work: Workload) -> float:
    """Return the bytes that the forward passes of all layers keep for the backward pass.

    A layer that is recomputed keeps its input alone.
    """
    recomputed = work.recomputed * shape.layers
    kept = (shape.layers - recomputed) * layer_activations(shape, parallelism, work)
    return kept + recomputed * _input(shape, parallelism, work)


def _input(shape: Shape, parallelism: Parallelism, work: Workload) -> float:
    """Return the bytes of a layer's input."""
    return work.positions * work.product_bytes * shape.hidden / (parallelism.tensor if parallelism.sequence else 1)


def _inputs_gone(shape: Shape, parallelism: Parallelism, work: Workload) -> float:
    """Return the bytes of inputs that aren't kept beside the activations of a layer that is recomputed.

    That of the layer after it is gone, and its own is one of these activations where a linear layer or a norm in
    float32 reads it.
    """
    is_own = shape.swin_norm or work.product_bytes == REDUCED_BYTES
    return min(2 if is_own else 1, work.recomputed * shape.layers) * _input(shape, parallelism, work)


def norm_activations(shape: Shape, parallelism: Parallelism, work: Workload) -> float:
    """Return the bytes that the final norm keeps: its input in float32, what its weight multiplies, and its result."""
    whole = parallelism.tensor if parallelism.sequence else 1
    return work.positions * shape.hidden * (REDUCED_BYTES + 2 * work.product_bytes) / whole


def layer_activations(shape: Shape, parallelism: Parallelism, work: Workload) -> float:
    """Return the bytes that the forward pass of one layer keeps for its backward pass.

    For each position and each of the two norms: its input in float32 and the normed states that its weight multiplies.
    For each of the two branches: the input of its linear layers. Within attention, for queries: what is normed, the
    result, and that rotated; for keys the same; values; the result; statistics of the qk-norm and of the softmax.
    Within the feed-forward: the results of both products, of the activation, and their product.
    """
    product, tensor = work.product_bytes, parallelism.tensor
    whole = tensor if parallelism.sequence else 1
    norms = 2 * shape.hidden * (REDUCED_BYTES + product) / whole
    inputs = 2 * product * shape.hidden
    steps = 3 if shape.qk_norm else 1
    attention = product * (steps * (shape.hidden + shape.key_width) + shape.key_width + shape.hidden)
    statistics = REDUCED_BYTES * (shape.heads + (2 * (shape.heads + shape.kv_heads) if shape.qk_norm else 0))
    feed_forward = 4 * product * shape.inner
    return work.positions * (norms + inputs + (attention + statistics + feed_forward) / tensor)
