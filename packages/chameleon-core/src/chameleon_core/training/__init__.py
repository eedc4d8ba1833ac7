"""Training of the transformer on token ids, by the published recipe. Needs the extra ``[train]``."""

from __future__ import annotations

from .checkpoint import Progress
from .curves import plot_curves
from .data import TokenDataset, TokenDatasetWriter, TokenDocument
from .errors import DatasetError, DivergenceError
from .log import read_log
from .lora import LORA_TARGETS, add_lora, load_lora
from .loss import TargetLoss, target_loss
from .objective import Losses, LossSums, Objective
from .optim import build_optimizer, learning_rate, parameter_groups
from .options import TrainingOptions
from .order import DocumentOrder
from .packing import Batch, collate
from .picture_rows import merge_picture_rows, train_picture_rows
from .trainer import Documents, StepReport, Trainer, TrainingResult

__all__ = [
    "LORA_TARGETS",
    "Batch",
    "DatasetError",
    "DivergenceError",
    "DocumentOrder",
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
