"""The attributes and methods that models have in ``transformers``, for the VQ-VAE: sizes, names, what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from ..config import ChameleonVQVAEConfig


class ModelNames(nn.Module):
    """The part of ``ChameleonVQVAE`` that users of ``transformers`` know."""

    config_class: ClassVar[type[ChameleonVQVAEConfig]] = ChameleonVQVAEConfig
    """The class of ``config``."""
    base_model_prefix: ClassVar[str] = "model"
    """The attribute of the network in a model that has more; this one is the whole."""
    main_input_name: ClassVar[str] = "pixel_values"
    """What ``transformers`` calls the argument of ``forward``."""
    name_or_path: str = ""
    """The folder that the network was loaded from, "" of a new one."""

    if TYPE_CHECKING:
        quant_conv: nn.Conv2d

    @property
    def base_model(self) -> Self:
        """The network itself."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.quant_conv.weight.device

    @classmethod
    def can_generate(cls) -> bool:
        """Return False: pictures are drawn by decoding codes, which a transformer generates."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of weights, of all or of those that are trained; the codebook's can be left out."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return sum(
            each.numel()
            for each in self.parameters()
            if (each.requires_grad or not only_trainable) and not (exclude_embeddings and id(each) in embeddings)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the size of the weights and, unless told otherwise, of the buffers, in bytes."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(each.numel() * each.element_size() for each in tensors)
