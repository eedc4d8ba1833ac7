"""Measure a model: its image tokenizer, its predictions of text, captions, drawings, its backends and quantizers.

``evaluate("emoji")`` measures the embedded model, and ``write_report`` writes tables and plots as a page, with the JSON
beside it; the command ``chameleon eval`` does both. It needs chameleon-vq, chameleon-text and the extra ``[eval]``.
"""

from __future__ import annotations

from .options import EvaluationOptions
from .report import write_report
from .results import (
    CaptionFigures,
    CardFigure,
    DrawingFigures,
    Evaluation,
    PictureFigures,
    TextFigures,
    VariantFigures,
)
from .run import evaluate

__all__ = [
    "CaptionFigures",
    "CardFigure",
    "DrawingFigures",
    "Evaluation",
    "EvaluationOptions",
    "PictureFigures",
    "TextFigures",
    "VariantFigures",
    "evaluate",
    "write_report",
]
