"""Training of the picture rows of the output layer alone.

Others restored image generation to the published weights in this way, in which it had been disabled. Everything else
stays as it is, so the model reads and writes text as before.

Shapes: Z entries of the codebook, V vocabulary, E hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError
from ..model import ChameleonForConditionalGeneration


class _PictureRows(nn.Module):
    """Replaces the picture rows of a weight by a parameter of its own."""

    ids_Z: Tensor

    def __init__(self, weight_VE: Tensor, ids_Z: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids_Z", ids_Z.to(weight_VE.device), persistent=False)
        # Named with N in the checkpoints of earlier runs.
        self.rows_NE = nn.Parameter(weight_VE.detach()[self.ids_Z].clone())

    def forward(self, weight_VE: Tensor) -> Tensor:
        return weight_VE.index_copy(0, self.ids_Z, self.rows_NE)


def train_picture_rows(model: ChameleonForConditionalGeneration) -> None:
    """Freeze ``model`` except the picture rows of its output layer, which become a parameter of their own.

    The other rows can't change, and the optimizer keeps no state for them. ``merge_picture_rows`` undoes this. Raises
    ``ConfigError`` where the output layer is quantized, or tied to the embeddings, which would train with it.
    """
    if model.config.tie_word_embeddings:
        raise ConfigError("the output layer is tied to the embeddings (tie_word_embeddings), and can't train alone.")
    if isinstance(model.lm_head, QuantizedLinear):
        raise ConfigError(
            "the output layer is quantized and can't train. Leave it float: Quantization(..., skip=['lm_head'])."
        )
    if parametrize.is_parametrized(model.lm_head):
        raise ConfigError("the picture rows of this model train already; call merge_picture_rows first.")
    ids_Z = model.layout.code_to_id_Z
    model.requires_grad_(False)
    parametrize.register_parametrization(model.lm_head, "weight", _PictureRows(model.lm_head.weight, ids_Z))


def merge_picture_rows(model: ChameleonForConditionalGeneration) -> None:
    """Write the trained rows into the output layer, make it a plain one again, and let all parameters train.

    Raises ``ConfigError`` where ``train_picture_rows`` wasn't called.
    """
    if not parametrize.is_parametrized(model.lm_head, "weight"):
        raise ConfigError("the picture rows of this model aren't separate; call train_picture_rows first.")
    parametrize.remove_parametrizations(model.lm_head, "weight", leave_parametrized=True)
    model.requires_grad_(True)
