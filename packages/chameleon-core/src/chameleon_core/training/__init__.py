"""Training of the transformer on token ids, by the published recipe. Needs the extra ``[train]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._moved import moved_names
from .checkpoints import Progress
from .curves import plot_curves
from .data import TokenDataset, TokenDatasetWriter, TokenDocument
from .errors import DatasetError, DivergenceError
from .log import TrainingLog, read_log
from .lora import LORA_TARGETS, add_lora, load_lora
from .loss import TargetLoss, target_loss
from .objective import Losses, LossSums, Objective
from .optim import build_optimizer, learning_rate, parameter_groups
from .options import TrainingOptions
from .order import BatchOrder
from .packing import Batch, collate
from .picture_rows import merge_picture_rows, train_picture_rows
from .trainer import Documents, StepReport, Trainer, TrainingResult

__all__ = [
    "LORA_TARGETS",
    "Batch",
    "BatchOrder",
    "DatasetError",
    "DivergenceError",
    "Documents",
    "LossSums",
    "Losses",
    "Objective",
    "Progress",
    "StepReport",
    "TargetLoss",
    "TokenDataset",
    "TokenDatasetWriter",
    "TokenDocument",
    "Trainer",
    "TrainingLog",
    "TrainingOptions",
    "TrainingResult",
    "add_lora",
    "build_optimizer",
    "collate",
    "learning_rate",
    "load_lora",
    "merge_picture_rows",
    "parameter_groups",
    "plot_curves",
    "read_log",
    "target_loss",
    "train_picture_rows",
]

if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__, {"DocumentOrder": f"{__name__}.order:BatchOrder"})
