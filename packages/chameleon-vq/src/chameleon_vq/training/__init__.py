"""Training of the image tokenizer: ``VQTrainer(model, TrainingOptions(...), folder="run").fit(pictures)``.

It needs the extra ``[train]``: scikit-image for the metrics, rich for the progress bar, matplotlib for the curves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._moved import moved_names
from .codebooks import with_plain_codebook
from .curves import plot_curves
from .discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from .errors import DivergenceError
from .initialization import initialize
from .log import TrainingLog, read_log
from .metrics import Quality, codebook_figures, compare, measure
from .options import TrainingOptions
from .order import BatchOrder
from .picture_files import PictureFiles
from .pictures import DividedPictureSource, PictureSource, TensorPictures
from .trainer import VQTrainer

__all__ = [
    "BatchOrder",
    "DivergenceError",
    "DividedPictureSource",
    "PatchDiscriminator",
    "PictureFiles",
    "PictureSource",
    "Quality",
    "TensorPictures",
    "TrainingLog",
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

if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"DivergedError": "chameleon_vq.training.errors:DivergenceError"})
