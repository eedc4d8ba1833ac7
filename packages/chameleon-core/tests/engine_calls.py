"""Requests of every kind, and what each writes alone, for the engines that many callers share.

Double precision, so that rounding, which depends on the shapes of a pass, decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chameleon_core import GenerationOptions
from chameleon_core.generation import Engine, Request, Step
from chameleon_core.testing import make_model

MODEL = make_model().double()
BOS = MODEL.layout.bos_id
OPTIONS: list[dict[str, Any]] = [
    {"modality": "text", "max_new_tokens": 12},
    {"modality": "image"},
    {"modality": "image", "guidance_text": 3.0, "do_sample": True, "seed": 3},
    {"modality": "interleaved", "do_sample": True, "temperature": 2.0, "seed": 1, "max_new_tokens": 20},
]
REQUESTS = [
    Request(prompt=[BOS, 40 + number, *range(44, 44 + number)], options=GenerationOptions(**options), index=number % 2)
    for number in range(4)
    for options in OPTIONS
]


def never() -> bool:
    return False


def written(steps: Iterable[Step]) -> list[int]:
    """What one row wrote."""
    return [token_id for step in steps for token_id in step.ids if token_id is not None]


def alone(request: Request) -> list[int]:
    engine = Engine(MODEL)
    handle = engine.submit(request)
    for _ in engine.run():
        pass
    return handle.new_ids
