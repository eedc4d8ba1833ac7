"""The VQ-VAE: pixels to codes and back.

Source: "Make-A-Scene" (arXiv 2203.13131), section 3; the network is the VQGAN of taming-transformers.
Shapes: B pictures, C channels, H W pixels, D width of a latent, h w latent grid, Z codes of the
quantizer, Q codes per position.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn

from . import checkpoint
from ._hub import push_saved
from .compat.encoding_names import EncodingNames, requested_tuple
from .compat.loading import VQRequest, save
from .compat.model_names import ModelNames
from .config import ChameleonVQVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .errors import MissingDecoderError
from .quantizers.contract import VectorQuantizer
from .registry import find_pretrained, make_quantizer

_NARROW = 128
"""Channels up to which sums are short enough to be exact in any layout, and float32 is faster with channels last."""


@dataclass(frozen=True, slots=True, repr=False)
class VQEncoding(EncodingNames):
    """What ``ChameleonVQVAE.encode`` returns. It also has the names of ``transformers``, as attributes and keys."""

    codes_Bhw: Tensor
    """int64 [B, h, w], or [B, h, w, Q] if the quantizer has Q > 1 codes per position."""
    latents_BDhw: Tensor
    """The latents before quantization."""
    quantized_BDhw: Tensor
    """The latents that the codes stand for; the gradient passes straight through to ``latents_BDhw``."""
    loss: Tensor
    """The quantizer's training loss, a scalar."""
    usage: Tensor
    """How often each code was chosen: int64 [Z]."""
    hidden_BDhw: Tensor
    """What the encoder returned, before it was projected to latents; its width may differ from theirs."""

    def __repr__(self) -> str:
        return (
            f"VQEncoding(codes {_shape(self.codes_Bhw)}, latents {_shape(self.latents_BDhw)}, "
            f"quantized {_shape(self.quantized_BDhw)}, loss {_shape(self.loss)}, usage {_shape(self.usage)})"
        )


@dataclass(frozen=True, slots=True, repr=False)
class VQReconstruction:
    """What ``ChameleonVQVAE.forward`` returns."""

    pixels_BCHW: Tensor
    """The decoded pixels, about −1…1."""
    encoding: VQEncoding
    """The encoding that they were decoded from."""

    def __repr__(self) -> str:
        return f"VQReconstruction(pixels {_shape(self.pixels_BCHW)}, {self.encoding!r})"


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


class ChameleonVQVAE(ModelNames):
    """The VQ-VAE: encoder, vector quantizer and decoder, with the state-dict names of Meta's release.

    Pixels may be in either memory layout. On a CPU, without gradients, each direction is computed in the layout that
    suits it, and large pictures in bands of rows. That is channels last but for encoding float32 with more than 128
    channels at some level. There oneDNN's convolutions of contiguous grids are nearly as fast, and have a third of the
    error: latents at full size are off by 2e-6 in place of 6e-6 relative to float64, and nearly equal to those of
    ``transformers``.

    New weights are those of ``transformers``: convolutions and codebook entries are normal with standard deviation
    ``config.initializer_range``, biases are zero. ``with_decoder=False`` leaves the decoder out; checkpoints in the
    ``transformers`` layout have none.
    """

    def __init__(self, config: ChameleonVQVAEConfig | Mapping[str, Any], *, with_decoder: bool = True) -> None:
        super().__init__()
        if isinstance(config, Mapping):  # a model's vq_config
            config = ChameleonVQVAEConfig.from_dict(config)
        config.keep_for_a_model()
        self.config = config
        self.encoder = Encoder(config)
        self.quantize: VectorQuantizer = make_quantizer(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)
        for part in (self.encoder, self.quant_conv, self.post_quant_conv):
            part.apply(self._initialize)
        # Last, so that a seed gives the same encoder with and without a decoder.
        self.decoder = Decoder(config).apply(self._initialize) if with_decoder else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] | None = None,
        *,
        dtype: torch.dtype | str | None = "auto",
        device: torch.device | str = "cpu",
        check_finite: bool = True,
        **arguments: Any,
    ) -> Self:
        """Load the network of a folder, a registered name or a Hub id, in eval mode; see ``ImageTokenizer``.

        ``dtype`` "auto" and None are the type of the weights. ``arguments`` are those of ``transformers``, which
        ``compat.loading`` translates or refuses, and fields that replace those of the configuration. Raises what
        ``ImageTokenizer.from_pretrained`` does.
        """
        name = arguments.pop("pretrained_model_name_or_path", None) if name_or_folder is None else name_or_folder
        request = VQRequest.of(arguments, dtype=dtype, device=device)
        folder = find_pretrained(name, request.hub)
        model = cls._read(folder, request, check_finite)
        model.name_or_path = os.fspath(folder)
        return request.returned(model)

    @classmethod
    def _read(cls, folder: Path, request: VQRequest, check_finite: bool) -> Self:
        return checkpoint.read_model(
            folder,
            lambda config, with_decoder: cls(config, with_decoder=with_decoder),
            device=request.device,
            dtype=request.dtype,
            check_finite=check_finite,
            change=request.changed,
        )

    def save_pretrained(
        self, folder: str | os.PathLike[str] | None = None, *, check_finite: bool = True, **arguments: Any
    ) -> None:
        """Write ``config.json`` and the weights, in one commit, for ``from_pretrained`` and for ``transformers``.

        ``push_to_hub=True`` uploads them, too. Warns as ``ImageTokenizer.save_pretrained`` does. Raises
        ``WeightsError`` for what wouldn't load again, NaN and infinity unless ``check_finite`` is False;
        ``FileAccessError``; and ``ConfigError`` for arguments of ``transformers`` that aren't available.
        """
        save(self, partial(self._write, check_finite=check_finite), folder, arguments)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the network to a repository of the Hub, made where there is none; return the commit's address."""
        return push_saved(self._write, repo_id, options)

    def _write(self, folder: str | os.PathLike[str], *, check_finite: bool = True) -> None:
        kind = type(self)
        checkpoint.write_model(
            self,
            folder,
            lambda config, with_decoder: kind(config, with_decoder=with_decoder),
            check_finite=check_finite,
        )

    @overload
    def encode(self, pixels_BCHW: Tensor, *, return_dict: Literal[True] | None = None) -> VQEncoding: ...
    @overload
    def encode(self, pixels_BCHW: Tensor, **arguments: Any) -> Any: ...
    def encode(self, pixels_BCHW: Tensor, **arguments: Any) -> Any:
        """Encode pixels [B, C, H, W] in −1…1 to codes; H and W are multiples of ``config.stride``.

        ``return_dict=False`` returns the tuple of ``transformers`` in place of a ``VQEncoding``.
        """
        as_tuple = requested_tuple(arguments)
        hidden_BDhw = self.encoder(_in_layout(pixels_BCHW, self._layout(pixels_BCHW.dtype))).contiguous()
        mean_BDhw = hidden_BDhw
        if self.config.double_latent:
            mean_BDhw = hidden_BDhw[:, : self.config.latent_channels]  # the rest is the log-variance
        latents_BDhw = self.quant_conv(mean_BDhw)
        quantized = self.quantize(latents_BDhw)
        encoding = VQEncoding(
            quantized.codes, latents_BDhw, quantized.latents, quantized.loss, quantized.usage, hidden_BDhw
        )
        return encoding.to_tuple() if as_tuple else encoding

    def decode(self, codes_Bhw: Tensor) -> Tensor:
        """Decode int64 codes to pixels [B, C, H, W], about −1…1. Raises ``MissingDecoderError``."""
        # Some quantizers look codes up without weights, in float32.
        return self.decode_latents(self.quantize.lookup(codes_Bhw).to(self.post_quant_conv.weight.dtype))

    def decode_latents(self, quantized_BDhw: Tensor) -> Tensor:
        """Decode quantized latents to pixels [B, C, H, W], about −1…1. Raises ``MissingDecoderError``."""
        decoder = self.require_decoder()
        pixels_BCHW: Tensor = decoder(self.post_quant_conv(_in_layout(quantized_BDhw, torch.channels_last)))
        return pixels_BCHW.contiguous()

    def require_decoder(self) -> Decoder:
        """Return the decoder. Raises ``MissingDecoderError`` if the weights have none."""
        if self.decoder is None:
            raise MissingDecoderError(
                "these weights have no decoder, so they encode pictures but can't decode codes. Checkpoints in the "
                "transformers layout were published without one; load weights that have tensors named 'decoder.*', "
                "such as Meta's vqgan.ckpt or a finetune that draws pictures."
            )
        return self.decoder

    def forward(self, pixels_BCHW: Tensor) -> VQReconstruction:
        """Encode and decode pixels, differentiably from end to end."""
        encoding = self.encode(pixels_BCHW)
        return VQReconstruction(self.decode_latents(encoding.quantized_BDhw), encoding)

    def _layout(self, dtype: torch.dtype) -> torch.memory_format:
        """Return the layout in which a CPU encodes pixels: bands.py says what the two differ in."""
        widest = self.config.base_channels * max(self.config.channel_multiplier)
        return torch.contiguous_format if dtype == torch.float32 and widest > _NARROW else torch.channels_last

    def _initialize(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _in_layout(hidden_BChw: Tensor, layout: torch.memory_format) -> Tensor:
    """Return a grid in the memory layout in which a CPU computes it; its own while gradients are recorded."""
    if torch.is_grad_enabled() or hidden_BChw.device.type != "cpu":
        return hidden_BChw
    return hidden_BChw.contiguous(memory_format=layout)
