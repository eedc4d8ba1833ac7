"""The patch discriminator and its adaptive weight, as published for VQGAN (arXiv 2012.09841, section 3.2).

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .options import TrainingOptions
from .ranks import ALONE, Ranks

MOST_CHANNELS = 8
"""The widest layer has this many times the first one's channels (pix2pix)."""
DELTA = 1e-6
"""Keeps the adaptive weight finite (section 3.2, below equation 7)."""
LARGEST_WEIGHT = 1e4
"""Bounds the adaptive weight if the generator's gradient nearly vanishes (taming-transformers, ``vqperceptual.py``)."""


class PatchDiscriminator(nn.Module):
    """Scores how real each patch of a picture looks: [B, C, H, W] to [B, 1, H', W'], higher for real.

    It has ``layers`` convolutions of stride 2, then two of stride 1 (Isola et al. 2017, arXiv 1611.07004), with
    instance norm instead of batch norm, so that a picture's score doesn't depend on the rest of the batch.
    """

    def __init__(self, in_channels: int = 3, *, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        modules: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            out_width = channels * min(2**i, MOST_CHANNELS)
            modules += [
                nn.Conv2d(width, out_width, 4, stride=2 if i < layers else 1, padding=1, bias=False),
                nn.InstanceNorm2d(out_width, affine=True),
                nn.LeakyReLU(0.2),
            ]
            width = out_width
        modules.append(nn.Conv2d(width, 1, 4, padding=1))
        self.patches = nn.Sequential(*modules)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Score pixels [B, C, H, W]: logits [B, 1, H', W']."""
        return self.patches(pixels_BCHW)


def least_side(layers: int) -> int:
    """Return the least height and width, in pixels, of a picture that has a patch."""
    # Halved by each of the layers; then the two convolutions of stride 1 take a position each.
    return int(3 * 2**layers)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss, a scalar: 0 if real patches score above 1 and drawn ones below −1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor, *, ranks: Ranks = ALONE
) -> Tensor:
    """Return the factor that gives the generator loss a gradient of the same norm as the reconstruction loss's.

    Equation 7: the ratio of the two norms, with respect to ``last_layer``, the weights of the decoder's last layer. A
    scalar without a gradient, at most ``LARGEST_WEIGHT``. The gradients are the means over ``ranks``.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (of_generator,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    weight = ranks.mean(of_reconstruction).norm() / (ranks.mean(of_generator).norm() + DELTA)
    return weight.clamp(max=LARGEST_WEIGHT).detach()


def clip_gradient(parameters: Iterable[nn.Parameter], options: TrainingOptions) -> Tensor:
    """Clip the norm of the parameters' gradient to ``clip_norm``, and return what it was."""
    return nn.utils.clip_grad_norm_(parameters, options.clip_norm or math.inf)


class Judging(nn.Module):
    """The discriminator's loss, as one module."""

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real_BCHW: Tensor, drawn_BCHW: Tensor) -> Tensor:
        """Return the hinge loss of real and drawn pictures, a scalar."""
        return hinge_loss(self.discriminator(real_BCHW).float(), self.discriminator(drawn_BCHW).float())


class Adversary:
    """A patch discriminator with its optimizer, trained in turn with the model.

    ``last_layer`` are the weights of the decoder's last layer, which the adaptive weight is computed from.
    """

    def __init__(self, channels: int, last_layer: Tensor, options: TrainingOptions, ranks: Ranks) -> None:
        self.options = options
        self.ranks = ranks
        self.last_layer = last_layer
        self.discriminator = PatchDiscriminator(
            channels, channels=options.discriminator_channels, layers=options.discriminator_layers
        ).to(last_layer.device, last_layer.dtype)
        self._judging = ranks.wrapped(Judging(self.discriminator))
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), options.discriminator_learning_rate, betas=options.betas
        )

    def generator_loss(self, drawn_BCHW: Tensor, reconstruction_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the model that drew the pictures, and its adaptive weight: two scalars."""
        generator = -self.discriminator(drawn_BCHW).float().mean()
        return generator, adaptive_weight(reconstruction_loss, generator, self.last_layer, ranks=self.ranks)

    def train(self, real_BCHW: Tensor, drawn_BCHW: Tensor, precision: torch.autocast) -> Tensor:
        """Update the discriminator once, and return its loss, a scalar without a gradient."""
        with precision:
            loss: Tensor = self._judging(real_BCHW, drawn_BCHW)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradient(self.discriminator.parameters(), self.options)
        self.optimizer.step()
        return loss.detach()
