"""Fresh weights to train from."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..blocks import AttentionBlock, ResnetBlock
from ..model import ChameleonVQVAE


@torch.no_grad()
def initialize(model: ChameleonVQVAE) -> None:
    """Draw the convolutions anew so that the signal keeps its strength on its way, and every block adds nothing yet.

    A fresh model has the reference's one deviation for all convolutions. In a small model it weakens what the
    shortcuts carry, 1×1 convolutions most, so that the blocks drown it, from whose view the norms took colour and
    contrast. Here a convolution's deviation is one over the root of its inputs, and the last one of each block is 0, so
    that training starts from a linear network (compare Goyal et al. 2017, arXiv 1706.02677, section 5.1). The codebook
    stays as it is.
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
