"""The objective: the model and its loss as one module, whose forward pass is all that a step computes.

``torch.compile``, and wrappers that gather a module's weights around its forward pass (FSDP2), are applied to this
module, so that they include the output layer.

Shapes: B batch, T positions of a row, M positions that have a target, E hidden width, V vocabulary, J modalities (text,
pictures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from ..divided import is_divided
from ..errors import ConfigError
from ..generation.repacked_head import reads_weight_alone
from ..model import IGNORE_INDEX, ChameleonForConditionalGeneration
from ..model.layers import DecoderLayer
from .errors import DatasetError
from .loss import layer_loss, target_loss
from .options import TrainingOptions
from .packing import Batch
from .parallel_loss import vocabulary_parallel_loss

MODALITIES = ("text", "picture")
"""The modalities of targets, by index. Special ids count as text."""


class LossSums(NamedTuple):
    """Sums over the targets of a batch; those of several batches can be added."""

    total: Tensor
    """Scalar with gradients: cross-entropy + z_loss · log²Z, weighted by each target's importance."""
    cross_entropy_J: Tensor
    """Cross-entropy in nats by modality, unweighted."""
    squared_log_normalizer: Tensor
    """Scalar: the sum of log²Z, unweighted."""
    num_targets_J: Tensor
    """int64: the number of targets by modality."""

    def detach(self) -> LossSums:
        """Return the sums without gradients."""
        return LossSums(*(value.detach() for value in self))

    @classmethod
    def add(cls, parts: Sequence[LossSums]) -> LossSums:
        """Return the sums over several batches."""
        return cls(*(torch.stack(values).sum(dim=0) for values in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over targets."""

    loss: float
    """Cross-entropy of all targets in nats, unweighted."""
    text_loss: float | None
    """Cross-entropy of text in nats; None without such targets."""
    picture_loss: float | None
    """Cross-entropy of picture codes in nats; None without such targets."""
    z: float
    """log²Z, without the weight ``z_loss``."""

    @classmethod
    def of(cls, sums: LossSums) -> Losses:
        """Return the means of sums. Raises ``DatasetError`` where there were no targets."""
        counts, totals = sums.num_targets_J.tolist(), sums.cross_entropy_J.tolist()
        if not sum(counts):
            raise DatasetError("none of the documents has a target: their masks are empty.")
        text_loss, picture_loss = (
            total / count if count else None for total, count in zip(totals, counts, strict=True)
        )
        return cls(sum(totals) / sum(counts), text_loss, picture_loss, float(sums.squared_log_normalizer) / sum(counts))


class Objective(nn.Module):
    """A model and its loss: ``forward`` takes a ``Batch`` and returns the sums over its targets.

    Sets the model's residual dropout and gradient checkpointing from ``options``. Raises ``ConfigError`` where
    quantized layers would train.
    """

    is_picture_V: Tensor
    importance_J: Tensor

    def __init__(self, model: ChameleonForConditionalGeneration, options: TrainingOptions) -> None:
        super().__init__()
        quantized = any(isinstance(module, QuantizedLinear) for module in model.modules())
        if quantized and all(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(
                "the model's linear layers are quantized and can't train. Add adapters with add_lora, freeze the "
                "parameters that shouldn't train, or load the model without quantization."
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
        # In the order of MODALITIES.
        importance_J = torch.tensor([1.0, options.picture_weight], device=model.device)
        self.register_buffer("importance_J", importance_J, persistent=False)

    def importance(self, batch: Batch) -> float:
        """Return the sum of the weights of a batch's targets, by which the total is divided for the mean loss."""
        targets_M = batch.targets[batch.targets != IGNORE_INDEX].to(self.is_picture_V.device)
        return float(self.importance_J[self.is_picture_V[targets_M]].sum())

    def forward(self, batch: Batch) -> LossSums:
        hidden_BTE = self.model.model(
            batch.input_ids, position_ids=batch.position_ids, document_ids=batch.document_ids, use_cache=False
        ).last_hidden_state
        # Both terms of the loss share this mask, and logits are computed for these positions only.
        has_target_BT = batch.targets != IGNORE_INDEX
        targets_M = batch.targets[has_target_BT]
        modality_M = self.is_picture_V[targets_M]
        importance_M = self.importance_J[modality_M]
        head: nn.Module = self.model.lm_head
        hidden_ME = hidden_BTE[has_target_BT]
        weight_VE = dict(head.named_parameters(recurse=False)).get("weight")
        if weight_VE is not None and is_divided(weight_VE):
            loss = vocabulary_parallel_loss(
                hidden_ME, weight_VE, targets_M, z_loss=self.z_loss, importance_M=importance_M
            )
        elif isinstance(head, nn.Linear) and reads_weight_alone(head):
            loss = target_loss(hidden_ME, head.weight, targets_M, z_loss=self.z_loss, importance_M=importance_M)
        else:
            loss = layer_loss(hidden_ME, head, targets_M, z_loss=self.z_loss, importance_M=importance_M)
        sums_J = loss.cross_entropy_M.new_zeros(len(MODALITIES))
        return LossSums(
            total=loss.total,
            cross_entropy_J=sums_J.index_add(0, modality_M, loss.cross_entropy_M),
            squared_log_normalizer=loss.log_normalizer_M.square().sum(),
            num_targets_J=targets_M.new_zeros(len(MODALITIES)).index_add(0, modality_M, torch.ones_like(targets_M)),
        )
