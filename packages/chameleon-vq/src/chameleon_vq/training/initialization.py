"""Initial weights for training from scratch."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..blocks import AttentionBlock, ResnetBlock
from ..model import ChameleonVQVAE


@torch.no_grad()
def initialize(model: ChameleonVQVAE) -> None:
    """Redraw the convolutions so that the signal keeps its variance and every residual block starts at zero.

    A new model draws all convolutions with one standard deviation, as `transformers` does. In a small model that
    attenuates what the shortcuts carry, the 1×1 convolutions most, so the blocks dominate; and their norms remove
    colour and contrast. Here a convolution's standard deviation is one over the root of its inputs, and the last
    convolution of each block is 0, so training starts from a linear network (compare Goyal et al. 2017, arXiv
    1706.02677, section 5.1). The codebook is left as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj_out.weight)
