"""The options of a training run: the published recipe, and how this machine runs it."""

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
    """The options of one run; the defaults are those of the 7B model's pre-training (Chameleon paper, section 2.3).

    The options in ``changeable`` may differ when a run is resumed; all others must be those of the run.
    """

    steps: Count
    """Updates of the weights; ≥ 1."""
    batch_size: Count = 64
    """Documents per step, those of all ranks together; ≥ 1, by default 64."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW, reached after ``warmup_steps``; > 0, by default 1e-4."""
    warmup_steps: Natural = 4000
    """Steps of linear warm-up; 0…``steps``, by default 4,000."""
    schedule: Schedule = "exponential"
    """Decay of the learning rate to 0 after the warm-up: "exponential" (the default) or "cosine"; see
    ``learning_rate``."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay rates of AdamW's first and second moments; each ≥ 0 and < 1, by default (0.9, 0.95)."""
    epsilon: Positive = 1e-5
    """Term added to AdamW's denominator; > 0, by default 1e-5."""
    weight_decay: Amount = 0.1
    """Decoupled weight decay of the parameters that ``parameter_groups`` selects; ≥ 0, by default 0.1."""
    gradient_clip: Positive = 1.0
    """Largest norm of all gradients together; > 0, by default 1."""
    z_loss: Amount = 1e-5
    """Weight of log²Z in the loss; ≥ 0, by default 1e-5."""
    picture_weight: Positive = 1.0
    """Weight of a picture code in the loss, where an id of text has 1; > 0, by default 1."""
    dropout: Share = 0.1
    """Probability of dropping what attention and feed-forward add to the residual stream; ≥ 0 and < 1, by default
    0.1."""
    seed: Natural = 0
    """Seed of the order of documents and of dropout; ≥ 0, by default 0."""
    precision: Precision = "float32"
    """Type of the matrix products: "float32" (the default), or "bfloat16" by autocast. Weights are float32 in both."""

    sequence_length: Count = 4096
    """Positions of a row; ≥ 1, by default 4,096. A document has at most one id more."""
    rows: Rows = "auto"
    """How documents share a batch: "packed" puts several in a row, "padded" one in each, "auto" (the default) whichever
    costs less. The loss is the same."""

    micro_batch_size: Count | None = None
    """Documents per forward and backward pass of a rank; 1…``batch_size``, None (the default) for the whole batch. A
    smaller number takes less memory."""
    tensor_parallel: Count = 1
    """Ranks that divide each layer among them, and have the same documents; a divisor of the number of ranks that
    ``torchrun`` started, by default 1."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass, which saves memory for time; by default False."""
    compile: bool = False
    """Whether the model is compiled with ``torch.compile``; by default False."""
    save_every: Count = 500
    """Steps between saves of the state, which is also saved at the end; ≥ 1, by default 500."""
    log_every: Count = 1
    """Steps between lines of the log; ≥ 1, by default 1."""
    evaluate_every: Natural = 0
    """Steps between evaluations of the held-out documents; ≥ 0, by default 0: at the end only."""
    max_seconds: Positive | None = None
    """Seconds after which the run saves its state and stops, to be resumed; > 0, None (the default) for no limit."""

    changeable: ClassVar[frozenset[str]] = frozenset(
        {
            "micro_batch_size",
            "tensor_parallel",
            "gradient_checkpointing",
            "compile",
            "save_every",
            "log_every",
            "evaluate_every",
            "max_seconds",
        }
    )
    """The options that may change when a run is resumed: they change its cost, and its result only by rounding."""

    @classmethod
    def pretraining(cls, *, steps: int, **changes: Any) -> TrainingOptions:
        """Return the published options of the 7B model's pre-training. The 34B model had ``dropout=0.0``."""
        return cls(steps=steps, **changes)

    @classmethod
    def finetuning(cls, *, steps: int, **changes: Any) -> TrainingOptions:
        """Return the published options of fine-tuning (section 3), for documents of which only the answers train."""
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
        """Return options for ``train_picture_rows``: those of fine-tuning with a learning rate of 1e-3."""
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
