"""A tour of the toolkit on real photographs, with a small model that is made on the spot.

It needs chameleon-vq and chameleon-text.
"""

from __future__ import annotations

from .model import make_chameleon, make_image_tokenizer
from .tour import Report, run_demo

__all__ = ["Report", "make_chameleon", "make_image_tokenizer", "run_demo"]
