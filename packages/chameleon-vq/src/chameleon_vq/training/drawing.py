"""The forward pass of a step as one module, whose parameters are those that it uses."""

from __future__ import annotations

from torch import Tensor, nn

from ..model import ChameleonVQVAE, VQReconstruction


class Drawing(nn.Module):
    """Encodes and decodes pixels [B, C, H, W], with the latents quantized or as they are.

    What averages gradients over processes waits for those of all parameters of a module, and without quantization the
    quantizer's have none: it isn't a part of the module then.
    """

    def __init__(self, model: ChameleonVQVAE, *, quantizes: bool) -> None:
        super().__init__()
        self.quantizes = quantizes
        self.parts = nn.ModuleDict(
            {name: part for name, part in model.named_children() if quantizes or name != "quantize"}
        )
        self._model = (model,)  # in a tuple, so that its parameters aren't this module's

    def forward(self, pixels_BCHW: Tensor) -> VQReconstruction:
        """Return what is drawn. An encoding is returned without quantization, too; its codes have no effect."""
        (model,) = self._model
        if self.quantizes:
            return model(pixels_BCHW)
        # In training mode a quantizer would follow latents that it doesn't replace.
        model.quantize.eval()  # type: ignore[attr-defined]  # every quantizer is a module
        encoding = model.encode(pixels_BCHW)
        model.quantize.train()  # type: ignore[attr-defined]
        return VQReconstruction(model.decode_latents(encoding.latents_BDhw), encoding)
