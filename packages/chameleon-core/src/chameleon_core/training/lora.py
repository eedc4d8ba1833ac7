# mypy: disable-error-code="import-not-found"
"""LoRA (arXiv 2106.09685) through peft, which takes our modules as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..conditional_generation import ChameleonForConditionalGeneration
from ..errors import ConfigError
from .extras import train_extra

if TYPE_CHECKING:
    from peft import PeftModel

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of the transformer but the output layer."""


def add_lora(
    model: ChameleonForConditionalGeneration,
    *,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    targets: Sequence[str] = LORA_TARGETS,
) -> PeftModel:
    """Freeze ``model`` and add low-rank adapters to its linear layers, in place; train ``model`` as any other.

    What comes back is peft's handle on the adapters: ``save_pretrained(folder)`` writes them as safetensors,
    ``PeftModel.from_pretrained(model, folder)`` reads them, ``merge_and_unload()`` adds them to the weights and gives
    the plain model. Raises ``ConfigError`` for a target that the model hasn't or that can't be one,
    ``MissingPackageError`` without the extra ``[lora]``.
    """
    unknown = sorted(set(targets) - set(LORA_TARGETS))
    if unknown or not targets:
        raise ConfigError(
            f"LoRA's targets must be among {', '.join(LORA_TARGETS)}; got {', '.join(targets) or 'none'}."
        )
    with train_extra("LoRA", extra="lora"):
        from peft import LoraConfig, get_peft_model
    options = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    adapted: PeftModel = get_peft_model(model, options)
    return adapted
