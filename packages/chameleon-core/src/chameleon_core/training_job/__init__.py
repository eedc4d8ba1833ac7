"""From pictures with captions to a trained model, in one call that continues where it was stopped."""

from __future__ import annotations

from .job import TrainedModel, finetune, train
from .new_model import NewModelOptions
from .options import JobOptions

__all__ = ["JobOptions", "NewModelOptions", "TrainedModel", "finetune", "train"]
