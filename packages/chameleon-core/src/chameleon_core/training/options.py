"""The recipe of a training run: what is published, and what this machine needs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from .._config import Config
from ..errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Amount = Annotated[float, Meta(ge=0)]

Schedule = Literal["exponential", "cosine"]
Rows = Literal["auto", "packed", "padded"]
Precision = Literal["float32", "bfloat16"]


class TrainingOptions(Config, frozen=True, kw_only=True):
    """Options of one run; the defaults are those of the 7B model's pre-training (Chameleon, section 2.3).

    **The recipe.** ``steps`` updates of ``batch_size`` documents each. ``learning_rate`` is the peak, after a linear
    warm-up of ``warmup_steps``; ``schedule`` takes it to 0 at the end. AdamW with ``betas``, ``epsilon`` and
    ``weight_decay`` (``parameter_groups`` says of what); gradients are clipped to a global norm of ``gradient_clip``.
    ``z_loss`` weighs log²Z; ``picture_weight`` is what the code of a picture weighs in the loss beside an id of text.
    ``dropout`` drops what attention and feed-forward add to the residual stream. ``seed`` decides the order of
    documents and the dropout. ``precision`` is that of the matrix products, weights are float32.

    **The rows.** No document has more than ``sequence_length`` + 1 ids. ``rows`` says how documents share a batch:
    "packed" several in a row of up to ``sequence_length``, "padded" one in each, "auto" whichever costs less. The loss
    is the same (``packing``).

    **The work.** ``micro_batch_size`` documents are computed at a time, None: all. ``gradient_checkpointing`` saves
    memory, ``compile`` hands the model to ``torch.compile``. The state is saved every ``save_every`` steps and at the
    end; a line is logged every ``log_every``; held-out documents are measured every ``evaluate_every``, 0: at the end
    only. After ``max_seconds`` the run saves and stops, to be resumed. These may change when a run is resumed.
    """

    steps: Count
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    warmup_steps: Natural = 4000
    schedule: Schedule = "exponential"
    betas: tuple[Share, Share] = (0.9, 0.95)
    epsilon: Positive = 1e-5
    weight_decay: Amount = 0.1
    gradient_clip: Positive = 1.0
    z_loss: Amount = 1e-5
    picture_weight: Positive = 1.0
    dropout: Share = 0.1
    seed: Natural = 0
    precision: Precision = "float32"

    sequence_length: Count = 4096
    rows: Rows = "auto"

    micro_batch_size: Count | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    save_every: Count = 500
    log_every: Count = 1
    evaluate_every: Natural = 0
    max_seconds: Positive | None = None

    changeable: ClassVar[frozenset[str]] = frozenset(
        {
            "micro_batch_size",
            "gradient_checkpointing",
            "compile",
            "save_every",
            "log_every",
            "evaluate_every",
            "max_seconds",
        }
    )
    """The fields that may change when a run is resumed: they change its cost, and no more than the rounding."""

    @classmethod
    def pretraining(cls, *, steps: int, **changes: Any) -> TrainingOptions:
        """The published pre-training of the 7B model. The 34B model had ``dropout=0.0`` and ``swin_norm``."""
        return cls(steps=steps, **changes)

    @classmethod
    def finetuning(cls, *, steps: int, **changes: Any) -> TrainingOptions:
        """The published fine-tuning (section 3): documents whose answers alone are trained on, cosine from 1e-5."""
        published: dict[str, Any] = {
            "batch_size": 128,
            "learning_rate": 1e-5,
            "warmup_steps": 0,
            "schedule": "cosine",
            "dropout": 0.05,
        }
        return cls(steps=steps, **{**published, **changes})

    @classmethod
    def picture_rows(cls, *, steps: int, **changes: Any) -> TrainingOptions:
        """Fine-tuning of the picture rows of the output layer alone, at 1e-3; for ``train_picture_rows``."""
        return cls.finetuning(steps=steps, **{"learning_rate": 1e-3, **changes})

    def check(self) -> None:
        """Raise ``ConfigError`` where fields contradict each other."""
        if self.warmup_steps > self.steps:
            raise ConfigError(
                f"TrainingOptions.warmup_steps must be at most steps ({self.steps}); got {self.warmup_steps}."
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ConfigError(
                f"TrainingOptions.micro_batch_size must be at most batch_size ({self.batch_size}); "
                f"got {self.micro_batch_size}."
            )
