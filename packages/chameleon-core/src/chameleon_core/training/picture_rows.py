"""Training of the picture rows of the output layer alone.

That is how image generation was brought back into the published weights, whose drawing had been switched off: all else
stays as it is, so the model reads and writes text as before.

Shapes: N picture codes, V vocabulary, E hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError
from ..model import ChameleonForConditionalGeneration


class _PictureRows(nn.Module):
    """Puts rows of its own into the places of the picture ids."""

    ids_N: Tensor

    def __init__(self, weight_VE: Tensor, ids_N: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids_N", ids_N.to(weight_VE.device), persistent=False)
        self.rows_NE = nn.Parameter(weight_VE.detach()[self.ids_N].clone())

    def forward(self, weight_VE: Tensor) -> Tensor:
        return weight_VE.index_copy(0, self.ids_N, self.rows_NE)


def train_picture_rows(model: ChameleonForConditionalGeneration) -> None:
    """Freeze ``model`` but for the picture rows of its output layer, which become a parameter of their own.

    The other rows can't change, and the optimizer keeps no state for them. Undo it with ``merge_picture_rows``. Raises
    ``ConfigError`` where the output layer is quantized or tied to the embeddings, whose picture rows would train along.
    """
    if model.config.tie_word_embeddings:
        raise ConfigError("the output layer is tied to the embeddings (tie_word_embeddings), so it can't train alone.")
    if isinstance(model.lm_head, QuantizedLinear):
        raise ConfigError("the output layer is quantized and can't train; load the model with lm_head in skip.")
    if parametrize.is_parametrized(model.lm_head):
        raise ConfigError("the picture rows of this model train already; merge_picture_rows ends that.")
    ids_N = model.layout.code_to_id_Z
    model.requires_grad_(False)
    parametrize.register_parametrization(model.lm_head, "weight", _PictureRows(model.lm_head.weight, ids_N))


def merge_picture_rows(model: ChameleonForConditionalGeneration) -> None:
    """Put the trained rows into the output layer, which is a plain one again; all parameters may train again."""
    if not parametrize.is_parametrized(model.lm_head, "weight"):
        raise ConfigError("the picture rows of this model aren't apart; train_picture_rows makes them so.")
    parametrize.remove_parametrizations(model.lm_head, "weight", leave_parametrized=True)
    model.requires_grad_(True)
