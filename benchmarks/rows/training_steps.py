"""A step of training a small model, beside a plain loop over ``transformers``."""

from __future__ import annotations

import argparse
from functools import partial

import torch
from training import batch, documents, steps

from .comparing import require_close_numbers
from .rates import multiplying
from .row import Contest, Goal, Row, Scale, milliseconds

DIFFERENCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""The largest share by which losses and norms of gradients may differ."""


def step(precision: str, scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a step."""
    shape = argparse.Namespace(
        width=scale.pick(256, 256, 64),
        layers=scale.pick(4, 4, 1),
        vocabulary=scale.pick(65536, 65536, 512),
        length=scale.pick(256, 128, 16),
        batch=scale.pick(8, 4, 2),
        lengths="equal",
        device="cpu",
    )
    sides = steps(shape, precision)

    def compare() -> None:
        found, expected = sides["ours"](0), sides["theirs"](0)
        for what, ours, theirs in zip(("losses", "norms of gradients"), found, expected, strict=True):
            require_close_numbers(ours, theirs, DIFFERENCES[precision], what)

    # Every weight takes part in one product forward and two backward.
    inner = shape.width * 43 // 16
    weights = shape.layers * (4 * shape.width**2 + 3 * shape.width * inner) + shape.width * shape.vocabulary
    tokens = sum(map(len, batch(shape, documents(shape), 0)))
    limit = multiplying(6.0 * weights * tokens, getattr(torch, precision), scale)
    ours, theirs = (milliseconds(partial(sides[side], 0)) for side in ("ours", "theirs"))
    return Contest(ours, theirs, limit, compare)


ROWS = [
    Row(
        f"training-{precision}",
        f"a training step of 2,048 ids, 4 layers × 256, 65,536 ids, {precision}",
        partial(step, precision),
        "ms a step",
        Goal(peer=peer),
    )
    for precision, peer in (("float32", 1.5), ("bfloat16", 1.7))
]
