"""Training of the image tokenizer: ``VQTrainer(model, TrainingOptions(...), folder="run").fit(pictures)``.

It needs the extra ``[train]``: scikit-image for the figures, rich for the progress bar, matplotlib for the curves.
"""

from __future__ import annotations

from .checkpoints import read_log
from .codebooks import with_plain_codebook
from .curves import plot_curves
from .discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from .initialization import initialize
from .metrics import Quality, codebook_figures, compare, measure
from .options import TrainingOptions
from .pictures import PictureSource, TensorPictures
from .trainer import DivergedError, VQTrainer

__all__ = [
    "DivergedError",
    "PatchDiscriminator",
    "PictureSource",
    "Quality",
    "TensorPictures",
    "TrainingOptions",
    "VQTrainer",
    "adaptive_weight",
    "codebook_figures",
    "compare",
    "hinge_loss",
    "initialize",
    "measure",
    "plot_curves",
    "read_log",
    "with_plain_codebook",
]
