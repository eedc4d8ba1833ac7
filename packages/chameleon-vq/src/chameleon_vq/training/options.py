"""The options of a training run."""

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
    """The options of ``VQTrainer``; the defaults train a small model from scratch without a discriminator.

    A run without ``minutes`` is repeatable bit for bit; one with it depends on the machine's speed.
    """

    steps: Positive = 10_000
    """Updates of the model; ≥ 1, by default 10,000."""
    minutes: Rate | None = None
    """Wall-clock limit in minutes, > 0; None (the default) for no limit.

    The learning rate then follows the steps or the time, whichever is further, so that it is low at the end on any
    machine.
    """
    batch_size: Positive = 16
    """Pictures per step; ≥ 1, by default 16."""

    learning_rate: Rate = 5e-4
    """Peak learning rate of AdamW, reached after ``warmup_steps``; > 0, by default 5e-4."""
    final_learning_rate: Weight = 0.0
    """Learning rate at the end of the cosine schedule; 0…``learning_rate``, by default 0."""
    warmup_steps: Count = 100
    """Steps of linear warm-up; 0…``steps``, by default 100."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay rates of AdamW's first and second moments; each ≥ 0 and < 1, by default (0.9, 0.99)."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay of AdamW; ≥ 0, by default 0."""
    clip_norm: Weight = 1.0
    """Largest norm of the gradient; ≥ 0, by default 1. 0 turns clipping off."""

    l1_weight: Weight = 1.0
    """Weight of the mean absolute difference of the pixels; ≥ 0, by default 1."""
    l2_weight: Weight = 1.0
    """Weight of the mean squared difference of the pixels; ≥ 0, by default 1."""
    perceptual_weight: Weight = 1.0
    """Weight of the loss of ``VQTrainer``'s ``perceptual`` module, if there is one; ≥ 0, by default 1."""
    quantizer_weight: Weight = 1.0
    """Weight of the vector quantizer's own loss; ≥ 0, by default 1."""

    discriminator_weight: Weight = 0.0
    """Weight of the patch discriminator's loss, times VQGAN's adaptive weight (arXiv 2012.09841, section 3.2).

    ≥ 0; 0 (the default) trains without a discriminator.
    """
    discriminator_start: Count = 0
    """First step that uses the discriminator; ≥ 0, by default 0."""
    discriminator_channels: Positive = 64
    """Channels of the discriminator's first layer; ≥ 1, by default 64."""
    discriminator_layers: Positive = 3
    """Convolutions of stride 2 in the discriminator; ≥ 1, by default 3."""
    discriminator_learning_rate: Rate = 5e-4
    """Peak learning rate of the discriminator, on the same schedule; > 0, by default 5e-4."""

    continuous_steps: Count = 0
    """First steps in which the decoder receives the latents unquantized; 0…``steps``, by default 0."""
    kmeans_pictures: Count = 256
    """Pictures whose latents place the codebook's entries by k-means after ``continuous_steps``.

    ≥ 0, by default 256. 0 leaves the entries as they are.
    """
    revive_every: Count = 100
    """Steps between revivals, in which unused entries are set to latents of the batch; ≥ 0, by default 100.

    0 turns revival off.
    """
    revive_until: Fraction = 0.8
    """Fraction of the run after which no entry is revived; 0…1, by default 0.8."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the convolutions: "float32" (the default), or "bfloat16" by autocast.

    Weights and losses are float32 in both.
    """
    seed: Count = 0
    """Seed of the pictures' order, their augmentation and the codebook's revival; ≥ 0, by default 0."""
    log_every: Positive = 10
    """Steps between entries of the log; ≥ 1, by default 10."""
    validate_every: Count = 500
    """Steps between measurements of the validation pictures; ≥ 0, by default 500. 0 measures only at the end."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; ≥ 0, by default 500. 0 saves only at the end."""

    def check(self) -> None:
        """Raise ``ConfigError`` if there is nothing to minimise, or if the phases don't fit into the run."""
        if self.l1_weight == self.l2_weight == 0:
            raise ConfigError("l1_weight and l2_weight are both 0, so nothing compares pictures; set one above 0.")
        if self.final_learning_rate > self.learning_rate:
            raise ConfigError(
                f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}; "
                "expected it to be at most that."
            )
        for name in ("warmup_steps", "continuous_steps"):
            if getattr(self, name) > self.steps:
                raise ConfigError(
                    f"{name} {getattr(self, name)} is more than steps {self.steps}; expected at most that."
                )
        if max(self.betas) >= 1:
            raise ConfigError(f"betas are {self.betas}; expected both to be below 1.")
