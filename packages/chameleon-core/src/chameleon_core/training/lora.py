# mypy: disable-error-code="import-not-found"
"""LoRA (arXiv 2106.09685) through peft, which adapts our modules as they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from torch import nn

from chameleon_backends import QuantizedLinear

from ..errors import ConfigError, FileFormatError
from ..model import ChameleonForConditionalGeneration
from ..model.leading import check_whole
from .adapter_files import AdapterOptions, check_weights, read_options
from .errors import requires_extra

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of the transformer except the output layer."""


def add_lora(
    model: ChameleonForConditionalGeneration,
    *,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    targets: Sequence[str] = LORA_TARGETS,
) -> PeftModel:
    """Freeze ``model`` and add low-rank adapters to its linear layers, in place; return peft's handle on them.

    ``model`` itself is then trained as any other. Its layers may be quantized (QLoRA, arXiv 2305.14314): the adapters
    have the dtype of the model and can't be merged into quantized weights. ``targets`` are names among
    ``LORA_TARGETS``.

    Of the handle, ``save_pretrained(folder)`` writes the adapters as safetensors for ``load_lora``, and
    ``merge_and_unload()`` adds them to the weights and returns the plain model. Raises ``ConfigError`` for another
    target, an option out of range or a model that was loaded with ``tensor_parallel``, ``MissingPackageError`` without
    the extra ``[lora]``.
    """
    check_whole(model, "add_lora()")
    unknown = sorted(set(targets) - set(LORA_TARGETS))
    if unknown or not targets:
        raise ConfigError(
            f"LoRA's targets must be among {', '.join(LORA_TARGETS)}; got {', '.join(targets) or 'none'}."
        )
    with requires_extra("LoRA", extra="lora"):
        from peft import get_peft_model
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(targets)}
    try:
        options = msgspec.convert(settings, AdapterOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"LoRA's options: {error}; got rank={rank}, alpha={alpha}, dropout={dropout}.") from error
    adapted: PeftModel = get_peft_model(model, _peft_config(options))
    return adapted


def load_lora(model: ChameleonForConditionalGeneration, folder: str | os.PathLike[str]) -> PeftModel:
    """Freeze ``model`` and add the adapters in ``folder`` to it, in place; return peft's handle as ``add_lora`` does.

    ``model`` may be quantized where the model that they were trained on wasn't, and vice versa. Only adapters as
    ``add_lora`` makes them are read, and only from safetensors. Raises ``MissingFileError``, ``FileAccessError``,
    ``FileFormatError`` for a damaged file or other options of peft, ``WeightsError`` for weights that don't fit the
    model or aren't finite, ``ConfigError`` for a model that was loaded with ``tensor_parallel``, and
    ``MissingPackageError`` without the extra ``[lora]``.
    """
    check_whole(model, "load_lora()")
    with requires_extra("LoRA", extra="lora"):
        from peft import LoraConfig, PeftModel
    options = read_options(folder, defaults=vars(LoraConfig()), targets=LORA_TARGETS)
    check_weights(folder, model, options)
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, os.fspath(folder), config=_peft_config(options))
    except Exception as error:  # of peft, torch and safetensors, which promise nothing about damaged files
        raise FileFormatError(f"the adapters in {folder} can't be loaded: {error}.") from error
    return adapted


def _peft_config(options: AdapterOptions) -> LoraConfig:
    from peft import LoraConfig

    config = LoraConfig(**msgspec.structs.asdict(options))
    config._register_custom_module(_adapted_layers())
    return config


def _adapted_layers() -> dict[type[nn.Module], type[nn.Module]]:
    """Return the adapted layer for each class of layer that peft doesn't know."""
    from peft.tuners.lora import Linear

    class LoraQuantizedLinear(Linear):  # type: ignore[misc, unused-ignore]
        def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
            assert isinstance(module, QuantizedLinear)
            return module.in_features, module.out_features

        def merge(self, *arguments: Any, **options: Any) -> None:
            raise ConfigError(
                "adapters can't be merged into quantized weights. Save them (save_pretrained), and merge them into the "
                "float model: load_lora(float_model, folder).merge_and_unload()."
            )

    return {QuantizedLinear: LoraQuantizedLinear}
