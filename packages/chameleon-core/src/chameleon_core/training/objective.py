"""What is minimised: the model and its loss as one module, whose forward pass is all that a step computes.

So ``torch.compile``, and wrappers that gather a module's weights around its forward pass (FSDP2), take it as a whole,
the output layer included.

Shapes: B rows, T positions, E hidden width, P targets, M modalities, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError
from ..model import IGNORE_INDEX, ChameleonForConditionalGeneration
from ..model.layers import DecoderLayer
from .errors import DatasetError
from .loss import target_loss
from .options import TrainingOptions
from .packing import Batch

MODALITIES = ("text", "picture")
"""The index of a target's modality: specials count as text, picture codes as pictures."""


class LossSums(NamedTuple):
    """Sums over the targets of a batch, so that those of several batches add up."""

    total: Tensor
    """Scalar, with gradients: cross-entropy + z_loss · log²Z, each target's weighed by its importance."""
    cross_entropy_M: Tensor
    squared_log_normalizer: Tensor
    """Scalar: log²Z."""
    num_targets_M: Tensor

    def detach(self) -> LossSums:
        """The same sums without gradients."""
        return LossSums(*(value.detach() for value in self))

    @classmethod
    def add(cls, parts: Sequence[LossSums]) -> LossSums:
        """The sums over all parts."""
        return cls(*(torch.stack(values).sum(dim=0) for values in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over targets, in nats; None for a modality that had no target."""

    loss: float
    """The cross-entropy of all targets, each counted once whatever it weighs."""
    text_loss: float | None
    picture_loss: float | None
    z: float
    """log²Z, before it is weighed."""

    @classmethod
    def of(cls, sums: LossSums) -> Losses:
        """The means behind the sums. Raises ``DatasetError`` where there were no targets at all."""
        counts, totals = sums.num_targets_M.tolist(), sums.cross_entropy_M.tolist()
        if not sum(counts):
            raise DatasetError("none of the documents has a target: their masks are empty.")
        text_loss, picture_loss = (
            total / count if count else None for total, count in zip(totals, counts, strict=True)
        )
        return cls(sum(totals) / sum(counts), text_loss, picture_loss, float(sums.squared_log_normalizer) / sum(counts))


class Objective(nn.Module):
    """A model and its loss. ``forward`` takes a ``Batch`` and gives the sums over its targets.

    Sets the model's residual dropout and gradient checkpointing as ``options`` say.
    """

    is_picture_V: Tensor
    importance_M: Tensor

    def __init__(self, model: ChameleonForConditionalGeneration, options: TrainingOptions) -> None:
        super().__init__()
        if not isinstance(model.lm_head, nn.Linear):
            raise ConfigError(
                f"the output layer is a {type(model.lm_head).__name__}, and the loss needs its weight as one matrix. "
                "Leave lm_head out of the adapters' targets, and out of what is quantized."
            )
        quantized = any(isinstance(module, QuantizedLinear) for module in model.modules())
        if quantized and all(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(
                "the model's linear layers are quantized and can't train. Give it adapters with add_lora, freeze what "
                "shouldn't train, or load it without quantization."
            )
        self.model = model
        self.z_loss = options.z_loss
        for layer in model.model.layers:
            assert isinstance(layer, DecoderLayer)
            layer.residual_dropout = options.dropout
        model.model.gradient_checkpointing = options.gradient_checkpointing
        is_picture_V = torch.zeros(model.config.vocab_size, dtype=torch.int64, device=model.device)
        if model.config.vocabulary_map is not None:
            is_picture_V[model.layout.code_to_id_Z] = 1
        self.register_buffer("is_picture_V", is_picture_V, persistent=False)
        # By modality: text, picture.
        importance_M = torch.tensor([1.0, options.picture_weight], device=model.device)
        self.register_buffer("importance_M", importance_M, persistent=False)

    def importance(self, batch: Batch) -> float:
        """What the targets of a batch weigh together: the mean loss is the total over that."""
        targets_P = batch.targets[batch.targets != IGNORE_INDEX].to(self.is_picture_V.device)
        return float(self.importance_M[self.is_picture_V[targets_P]].sum())

    def forward(self, batch: Batch) -> LossSums:
        hidden_BTE = self.model.model(
            batch.input_ids, position_ids=batch.position_ids, document_ids=batch.document_ids
        ).last_hidden_state
        # The one mask of both loss terms. The output layer is multiplied with these positions only.
        has_target_BT = batch.targets != IGNORE_INDEX
        targets_P = batch.targets[has_target_BT]
        modality_P = self.is_picture_V[targets_P]
        importance_P = self.importance_M[modality_P]
        loss = target_loss(
            hidden_BTE[has_target_BT],
            self.model.lm_head.weight,
            targets_P,
            z_loss=self.z_loss,
            importance_P=importance_P,
        )
        sums_M = loss.cross_entropy_P.new_zeros(len(MODALITIES))
        return LossSums(
            total=loss.total,
            cross_entropy_M=sums_M.index_add(0, modality_P, loss.cross_entropy_P),
            squared_log_normalizer=loss.log_normalizer_P.square().sum(),
            num_targets_M=targets_P.new_zeros(len(MODALITIES)).index_add(0, modality_P, torch.ones_like(targets_P)),
        )
