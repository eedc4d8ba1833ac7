"""The quantizer ``vector-quantize-pytorch``: an adapter for the classes of the package of that name.

It has no options class: beyond ``class``, its options are the arguments of the class that this names.
Shapes: B pictures, D width of a latent, h w latent grid, M = h·w positions of a picture, Q codes per position.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from .._moved import moved_names
from ..config import ChameleonVQVAEConfig
from ..errors import ConfigError
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from .contract import Quantized, count_codes, without_autocast
from .fsq import Levels, wrong_product

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
"""Classes with a ``codebook_size``."""
BY_LEVELS = ("FSQ", "FSP", "ResidualFSQ", "GroupedResidualFSQ")
"""Classes with ``levels``, whose product is the number of codes."""
CLASSES = (*BY_SIZE, *BY_LEVELS)
"""Every class that can be used here."""
REFUSED = {
    "BinaryMapper": "it draws its bits at random",
    "EvoLFQ": "it has an encoder and a decoder of its own",
    "HierarchicalVQ": "its codes are on several grids",
    "LatentQuantize": "it looks codes up without the values that it has learned",
    "RandomProjectionQuantizer": "its codes can't be looked up",
}
"""Classes that can't be used here, each with the reason."""

_REFUSED_VALUES = {
    "quantize_dropout": (True, "it gives codes of -1; the quantizer 'residual' has a quantizer_dropout without them"),
    "return_indices": (False, "it would return no codes"),
    "shared_codebook": (True, "its levels are one tensor, which a safetensors file can't have under several names"),
}
# Arguments that follow from the configuration, or from the order of the axes here.
_DERIVED = {
    "dim": "embed_dim",
    "codebook_size": "num_embeddings",
    **dict.fromkeys(
        ("channel_first", "channel_last", "is_channel_first", "accept_image_fmap", "accept_3d_fmap"), "the latent grid"
    ),
}


def unavailable() -> str | None:
    """Return that the package isn't installed, or None."""
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return (
            "it needs the package vector-quantize-pytorch, which isn't installed: "
            "pip install './packages/chameleon-vq[vector-quantize-pytorch]'"
        )
    return None


def unsupported(config: ChameleonVQVAEConfig) -> str | None:
    """Return what is wrong with a configuration as far as it is known here; the class itself checks the rest."""
    options = config.quantizer_options
    name = options.get("class")
    if name in REFUSED:
        return f"{name} can't be used as a vector quantizer here: {REFUSED[name]}"
    if name not in CLASSES:
        close = difflib.get_close_matches(str(name), CLASSES, n=1)
        return (
            f"the quantizer_option class must be one of the package's classes, {', '.join(CLASSES)}; got {name!r}."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
    for option, value in options.items():
        if option in _DERIVED:
            return f"the option {option} of {name} follows from {_DERIVED[option]}; leave it out"
        refused, reason = _REFUSED_VALUES.get(option, (None, ""))
        if refused is not None and value == refused:
            return f"{name} can't have {option}={value!r} here: {reason}"
    return _wrong_levels(config) if name in BY_LEVELS else None


def _wrong_levels(config: ChameleonVQVAEConfig) -> str | None:
    given = config.quantizer_options.get("levels")
    try:
        levels = msgspec.convert(given, Levels)
    except msgspec.ValidationError:
        return f"the quantizer_option levels must be a list of integers ≥ 2, such as [8, 5, 5, 5]; got {given!r}"
    return wrong_product(levels, config)


def make(config: ChameleonVQVAEConfig) -> VectorQuantizePytorch:
    """Make the class that ``quantizer_options["class"]`` names, with the other options as its arguments.

    Raises ``ConfigError`` if the class refuses them.
    """
    package = importlib.import_module("vector_quantize_pytorch")
    arguments = {"dim": config.embed_dim, **config.quantizer_options}
    name = arguments.pop("class")
    if name in BY_SIZE:
        arguments["codebook_size"] = config.num_embeddings
    device = torch.get_default_device()
    try:
        # Its modules read values of their tensors while they are made; the meta device has none.
        with torch.device("cpu" if device.type == "meta" else device):
            module = getattr(package, name)(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"vector_quantize_pytorch.{name} refuses the arguments {arguments}: {error or type(error).__name__}."
        ) from error
    return VectorQuantizePytorch(module, config.num_embeddings)


class VectorQuantizePytorch(nn.Module):
    """Adapts one of the package's modules, which take [B, M, D], to the contract of ``VectorQuantizer``.

    The gradient is the module's own: that of VectorQuantize, for instance, is rotated, and exists only in training
    mode. If a module returns a loss per level, the mean is used.
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
        """Quantize latents [B, D, h, w] with the module."""
        grid = latents_BDhw.shape[2:]
        quantized_BMD, indices, *rest = self.module(latents_BDhw.float().flatten(2).transpose(1, 2))
        if self._is_grouped:
            indices = indices.movedim(0, 2)
        several = (self.codes_per_position,) if self.codes_per_position > 1 else ()
        codes = indices.long().reshape(len(latents_BDhw), *grid, *several)
        return Quantized(
            latents=quantized_BMD.transpose(1, 2).unflatten(2, grid).to(latents_BDhw.dtype),
            codes=codes,
            loss=rest[0].mean() if rest else quantized_BMD.new_zeros(()),
            usage=count_codes(codes, self.num_codes),
        )

    @without_autocast
    def lookup(self, codes: Tensor) -> Tensor:
        """Return the latents [B, D, h, w] of codes [B, h, w] or [B, h, w, Q]."""
        grid = codes.shape[1:3]
        indices = codes.reshape(len(codes), -1, *self.places)
        if self._is_grouped:
            indices = indices.movedim(2, 0)
        look_up = getattr(self.module, "get_output_from_indices", None) or self.module.indices_to_codes
        latents_BMD: Tensor = look_up(indices)
        return latents_BMD.transpose(1, 2).reshape(len(codes), -1, *grid)

    def _apply(self, fn: Any, recurse: bool = True) -> VectorQuantizePytorch:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Some modules compute in the dtype of their weights, in which distances would tie.
        self.module.float()
        return self

    @property
    def _is_grouped(self) -> bool:
        return hasattr(self.module, "rvqs")


def _places(module: Any) -> tuple[int, ...]:
    """Return the axes of a position's codes in the module: none, one, or groups and levels."""
    if hasattr(module, "rvqs"):
        return len(module.rvqs), module.rvqs[0].num_quantizers
    if hasattr(module, "num_quantizers"):
        return (module.num_quantizers,)
    if getattr(module, "keep_num_codebooks_dim", False):
        return (module.num_codebooks,)
    heads = getattr(module, "heads", 1)
    return (heads,) if heads > 1 else ()


SPEC = PluginSpec(
    name="vector-quantize-pytorch",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="the quantizers of the package of that name",
    unavailable=unavailable,
    unsupported=unsupported,
)


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"why_refused": f"{__name__}:unsupported"})
