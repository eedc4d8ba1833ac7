"""A tour of the toolkit with the embedded model, and a small model made on the spot for examples and tests.

Both need chameleon-vq and chameleon-text; the tour also needs chameleon-emoji. Read in this order: ``prompts`` (what is
asked), ``results`` (what came out), ``tour`` (how), ``sheet`` and ``page`` (what it looks like), ``next_steps``;
``model`` is the small model.
"""

from __future__ import annotations

from .model import make_chameleon, make_image_tokenizer
from .next_steps import QUICKSTART, STEPS, Step
from .results import Report
from .tour import run_demo

__all__ = ["QUICKSTART", "STEPS", "Report", "Step", "make_chameleon", "make_image_tokenizer", "run_demo"]
