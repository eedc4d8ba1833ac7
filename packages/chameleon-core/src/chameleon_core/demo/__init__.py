"""A tour of the toolkit with the embedded model, and another small model that is made on the spot, for trying things.

Both need chameleon-vq and chameleon-text; the tour needs chameleon-emoji, too.
"""

from __future__ import annotations

from .model import make_chameleon, make_image_tokenizer
from .tour import Report, run_demo

__all__ = ["Report", "make_chameleon", "make_image_tokenizer", "run_demo"]
