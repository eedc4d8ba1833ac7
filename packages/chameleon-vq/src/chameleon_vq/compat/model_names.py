"""The attributes and methods that models have in ``transformers``, for the VQ-VAE: sizes, names, what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from ..config import ChameleonVQVAEConfig
from ..errors import UnknownAttributeError

_INSTEAD: Mapping[str, str] = {
    "add_adapter": "peft.get_peft_model adds adapters to any network",
    "dequantize": "the network isn't quantized, because codes depend on its weights",
    "enable_input_require_grads": "its inputs are pixels: pixels.requires_grad_()",
    "generation_config": "pictures are drawn by decoding codes, which a transformer generates",
    "get_input_embeddings": "its inputs are pixels; the codebook is model.quantize.embedding",
    "get_output_embeddings": "its outputs are codes and pixels",
    "gradient_checkpointing": "activations aren't computed again; train with a smaller batch_size",
    "gradient_checkpointing_enable": "activations aren't computed again; train with a smaller batch_size",
    "init_weights": "a new network has new weights: ChameleonVQVAE(config)",
    "load_adapter": "peft.PeftModel.from_pretrained loads adapters",
    "resize_token_embeddings": "the number of codes is the configuration's num_embeddings",
    "set_attn_implementation": "the attention of the network has one implementation",
    "tie_weights": "no weights are shared",
}
"""Names of ``transformers`` that the network doesn't have, and why or what to do instead."""


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

    def __getattr__(self, name: str) -> Any:
        # Called only for what is neither an attribute nor a parameter, buffer or module.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in _INSTEAD:
                raise
            raise UnknownAttributeError(f"a {type(self).__name__} has no {name!r}: {_INSTEAD[name]}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INSTEAD:  # or it would be set and never read
            raise UnknownAttributeError(f"{name} can't be set on a {type(self).__name__}: {_INSTEAD[name]}.")
        super().__setattr__(name, value)

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Return False: activations aren't computed again."""
        return False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Return False: activations aren't computed again."""
        return False

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
