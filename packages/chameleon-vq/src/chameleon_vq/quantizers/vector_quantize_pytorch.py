"""An adapter for the quantizers of the package vector-quantize-pytorch, which brings none of them along itself.

Shapes: B pictures, D width of a latent, h w latent grid, P = h·w positions, Q codes per position.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from .._requirements import wrong_levels
from ..config import ChameleonVQVAEConfig
from ..errors import ConfigError
from .contract import Quantized, count_codes, without_autocast

BY_SIZE = (
    "VectorQuantize",
    "SimVQ",
    "LFQ",
    "ResidualVQ",
    "ResidualSimVQ",
    "ResidualLFQ",
    "GroupedResidualVQ",
    "GroupedResidualLFQ",
)
"""Classes that are told how many codes they have."""
BY_LEVELS = ("FSQ", "FSP", "ResidualFSQ", "GroupedResidualFSQ")
"""Classes whose levels say how many codes they have."""
CLASSES = (*BY_SIZE, *BY_LEVELS)
REFUSED = {
    "BinaryMapper": "it draws its bits at random",
    "EvoLFQ": "it has an encoder and a decoder of its own",
    "HierarchicalVQ": "its codes lie on several grids",
    "LatentQuantize": "its codes are looked up without the values that it has learned",
    "RandomProjectionQuantizer": "its codes can't be looked up",
}

_REFUSED_VALUES = {
    "quantize_dropout": (True, "it gives codes of -1; the quantizer 'residual' has a quantizer_dropout without them"),
    "return_indices": (False, "it would give no codes"),
    "shared_codebook": (True, "its levels are one tensor, which a safetensors file can't hold under several names"),
}
# What follows from the configuration, and from the order of the axes here.
_OURS = {
    "dim": "embed_dim",
    "codebook_size": "num_embeddings",
    **dict.fromkeys(
        ("channel_first", "channel_last", "is_channel_first", "accept_image_fmap", "accept_3d_fmap"), "the latent grid"
    ),
}


def why_refused(config: ChameleonVQVAEConfig) -> str | None:
    """What is wrong with a configuration before the package gets to see it."""
    options = config.quantizer_options
    name = options.get("class")
    if name in REFUSED:
        return f"{name} can't serve as a vector quantizer here: {REFUSED[name]}"
    if name not in CLASSES:
        return f"the quantizer_option class says which of its classes is meant, {', '.join(CLASSES)}; got {name!r}"
    for option, value in options.items():
        if option in _OURS:
            return f"the option {option} of {name} follows from {_OURS[option]}; leave it out"
        refused, reason = _REFUSED_VALUES.get(option, (None, ""))
        if refused is not None and value == refused:
            return f"{name} can't have {option}={value!r} here: {reason}"
    if name in BY_LEVELS:
        return wrong_levels(config)
    return None


def make(config: ChameleonVQVAEConfig) -> VectorQuantizePytorch:
    """The class that ``quantizer_options["class"]`` names, with the other options as its arguments.

    Raises ``ConfigError`` where the class refuses them.
    """
    package = importlib.import_module("vector_quantize_pytorch")
    arguments = {"dim": config.embed_dim, **config.quantizer_options}
    name = arguments.pop("class")
    if name in BY_SIZE:
        arguments["codebook_size"] = config.num_embeddings
    device = torch.get_default_device()
    try:
        # Its modules ask their tensors for values when they are made, of which the meta device has none.
        with torch.device("cpu" if device.type == "meta" else device):
            module = getattr(package, name)(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"vector_quantize_pytorch.{name} refuses the arguments {arguments}: {error or type(error).__name__}."
        ) from error
    return VectorQuantizePytorch(module, config.num_embeddings)


class VectorQuantizePytorch(nn.Module):
    """One of the package's modules, which take [B, P, D], under the contract of ``VectorQuantizer``.

    Its gradient is the module's own: that of VectorQuantize, for instance, is rotated rather than left unchanged, and
    flows in training mode only. Where a module gives a loss for each of several levels, theirs is the mean.
    """

    module: Any

    def __init__(self, module: nn.Module, num_codes: int) -> None:
        super().__init__()
        self.module = module
        self.num_codes = num_codes
        self.places = _places(module)
        self.codes_per_position = math.prod(self.places)

    @without_autocast
    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Latents to what the module makes of them."""
        grid = latents_BDhw.shape[2:]
        quantized_BPD, indices, *rest = self.module(latents_BDhw.float().flatten(2).transpose(1, 2))
        if self._is_grouped:
            indices = indices.movedim(0, 2)
        several = (self.codes_per_position,) if self.codes_per_position > 1 else ()
        codes = indices.long().reshape(len(latents_BDhw), *grid, *several)
        return Quantized(
            latents=quantized_BPD.transpose(1, 2).unflatten(2, grid).to(latents_BDhw.dtype),
            codes=codes,
            loss=rest[0].mean() if rest else quantized_BPD.new_zeros(()),
            usage=count_codes(codes, self.num_codes),
        )

    @without_autocast
    def lookup(self, codes: Tensor) -> Tensor:
        """What codes [B, h, w], or [B, h, w, Q], stand for: latents [B, D, h, w]."""
        grid = codes.shape[1:3]
        indices = codes.reshape(len(codes), -1, *self.places)
        if self._is_grouped:
            indices = indices.movedim(2, 0)
        look_up = getattr(self.module, "get_output_from_indices", None) or self.module.indices_to_codes
        latents_BPD: Tensor = look_up(indices)
        return latents_BPD.transpose(1, 2).reshape(len(codes), -1, *grid)

    def _apply(self, fn: Any, recurse: bool = True) -> VectorQuantizePytorch:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Some of the modules compute in the dtype of their weights, in which distances would tie.
        self.module.float()
        return self

    @property
    def _is_grouped(self) -> bool:
        return hasattr(self.module, "rvqs")


def _places(module: Any) -> tuple[int, ...]:
    """The axes of a position's codes, as the module has them: none, or one, or groups and levels."""
    if hasattr(module, "rvqs"):
        return len(module.rvqs), module.rvqs[0].num_quantizers
    if hasattr(module, "num_quantizers"):
        return (module.num_quantizers,)
    if getattr(module, "keep_num_codebooks_dim", False):
        return (module.num_codebooks,)
    heads = getattr(module, "heads", 1)
    return (heads,) if heads > 1 else ()
