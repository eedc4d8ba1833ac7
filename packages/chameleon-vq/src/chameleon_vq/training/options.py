"""What a training run is told."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .._config import Config
from ..errors import ConfigError

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class TrainingOptions(Config, frozen=True, kw_only=True):
    """A run of ``VQTrainer``; the defaults train a small model from scratch without a discriminator.

    Length: ``steps``, of ``batch_size`` pictures each. ``minutes``: also end after this long; the schedule then
    follows whichever of the two is further, so that a run ends at its lowest learning rate on any machine (such a run
    is not repeatable to the bit; one without ``minutes`` is).

    Rates: AdamW from ``learning_rate``, reached over ``warmup_steps``, by a cosine to ``final_learning_rate``
    at the end; ``betas``; ``weight_decay``; ``clip_norm``: the gradient's norm at most, 0 for no limit.

    Loss: ``l1_weight`` · mean absolute difference + ``l2_weight`` · mean squared difference + ``perceptual_weight`` ·
    the perceptual module's + ``quantizer_weight`` · the quantizer's own. From step ``discriminator_start`` on and
    where ``discriminator_weight`` isn't 0, also the patch discriminator's, by the adaptive weight of VQGAN (arXiv
    2012.09841, section 3.2); ``discriminator_channels`` and ``discriminator_layers`` are its size,
    ``discriminator_learning_rate`` its rate.

    Codebook: for ``continuous_steps`` the latents go to the decoder unquantized; then k-means over the latents of
    ``kmeans_pictures`` (0: no k-means) places the entries. Every ``revive_every`` steps (0: never) entries that nothing
    chose since become latents of the batch, up to the fraction ``revive_until`` of the run.

    ``precision``: "bfloat16" computes convolutions in it (autocast); weights and losses stay float32.
    ``seed``: decides the order of the pictures, their augmentation and the revival.
    ``log_every``, ``validate_every``, ``checkpoint_every``: steps between records, measurements and checkpoints
    (0: only at the end).
    """

    steps: Positive = 10_000
    minutes: Rate | None = None
    batch_size: Positive = 16

    learning_rate: Rate = 5e-4
    final_learning_rate: Weight = 0.0
    warmup_steps: Count = 100
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: Weight = 0.0
    clip_norm: Weight = 1.0

    l1_weight: Weight = 1.0
    l2_weight: Weight = 1.0
    perceptual_weight: Weight = 1.0
    quantizer_weight: Weight = 1.0

    discriminator_weight: Weight = 0.0
    discriminator_start: Count = 0
    discriminator_channels: Positive = 64
    discriminator_layers: Positive = 3
    discriminator_learning_rate: Rate = 5e-4

    continuous_steps: Count = 0
    kmeans_pictures: Count = 256
    revive_every: Count = 100
    revive_until: Fraction = 0.8

    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Count = 0
    log_every: Positive = 10
    validate_every: Count = 500
    checkpoint_every: Count = 500

    def check(self) -> None:
        """The run must have something to minimise, and the phases must fit into it."""
        if self.l1_weight == self.l2_weight == 0:
            raise ConfigError("l1_weight and l2_weight are both 0: nothing asks for a likeness.")
        if self.final_learning_rate > self.learning_rate:
            raise ConfigError(
                f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}."
            )
        for name in ("warmup_steps", "continuous_steps"):
            if getattr(self, name) > self.steps:
                raise ConfigError(f"{name} {getattr(self, name)} is more than steps {self.steps}.")
        if max(self.betas) >= 1:
            raise ConfigError(f"betas {self.betas} must both be below 1.")
