"""An image tokenizer of tensors that somebody else read: a format of checkpoints, or a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .config import ChameleonVQVAEConfig
from .image_processor import ChameleonImageProcessor
from .model import ChameleonVQVAE
from .tokenizer import ImageTokenizer


def image_tokenizer_of(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    image_processor: Mapping[str, Any] | None = None,
    source: str = "the tensors",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    check_finite: bool = True,
) -> ImageTokenizer:
    """Make an image tokenizer of weights that are in memory or mapped.

    ``tensors`` are named as in the state dict, ``config`` is a model's ``vq_config``, and ``image_processor`` the
    content of a ``preprocessor_config.json``, None for the defaults; ``source`` names them in errors. The other
    arguments and the errors are those of ``ImageTokenizer.from_pretrained``.
    """
    fields = {name: value for name, value in config.items() if name != "model_type"}
    model = checkpoint.model_of(
        tensors,
        ChameleonVQVAEConfig.from_dict(fields, source=f"{source} (vq_config)"),
        lambda config, with_decoder: ChameleonVQVAE(config, with_decoder=with_decoder),
        source=source,
        device=device,
        dtype=dtype,
        check_finite=check_finite,
    )
    if image_processor is None:
        return ImageTokenizer(model)
    settings = ChameleonImageProcessor.from_dict(image_processor, source=f"{source} (preprocessor_config.json)")
    return ImageTokenizer(model, settings)
