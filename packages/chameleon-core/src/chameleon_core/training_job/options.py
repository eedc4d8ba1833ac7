"""What a job does besides training: what it holds out, which parts train, what it writes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .._config import Config
from ..errors import ConfigError
from ..training.lora import LORA_TARGETS

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Name = Annotated[str, Meta(min_length=1)]

EPOCHS = 3.0


class JobOptions(Config, frozen=True, kw_only=True):
    """The options of a job besides those of training and of tokenization."""

    epochs: Positive | None = None
    """Passes over the documents, in place of steps; > 0, by default 3."""
    held_out: Natural | None = None
    """Documents to measure on and to draw, not to train on; ≥ 0, by default one in 20, at most 64."""
    samples: Natural = 4
    """Held-out documents whose captions are drawn and whose pictures are captioned at the end; ≥ 0, by default 4."""
    lora: Count | None = None
    """The rank of LoRA adapters, which train in place of the model's weights; ≥ 1, None (the default) for no adapters.
    Needs the extra [lora]."""
    lora_alpha: Positive | None = None
    """What the adapters are multiplied by, times the rank; > 0, by default twice the rank."""
    lora_dropout: Share | None = None
    """Dropout of the adapters' inputs; ≥ 0 and < 1, by default 0."""
    lora_targets: tuple[Name, ...] | None = None
    """The layers that have adapters, by default all of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    down_proj."""
    merge: bool = True
    """Whether the adapters are also added to the weights and written as an ordinary model; by default True."""
    quantization: Name | None = None
    """The weight quantizer of the model that adapters are added to (QLoRA), with no merge; None (the default) for
    none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the weights: "float32" (the default), or "bfloat16", which takes half of the memory. Fine changes
    are lost in it unless adapters train."""

    def check(self) -> None:
        """Raise ``ConfigError`` for options that need another one."""
        if self.lora is None:
            names = ("lora_alpha", "lora_dropout", "lora_targets", "quantization")
            given = [name for name in names if getattr(self, name) is not None]
            given += [] if self.merge else ["merge"]
            if given:
                raise ConfigError(f"{', '.join(given)} needs adapters: give their rank as lora (--lora).")
        elif self.quantization is not None and self.merge:
            raise ConfigError(
                "adapters can't be merged into quantized weights; turn merge off (--no-merge), and merge them into the "
                "float model later: load_lora(model, folder).merge_and_unload()."
            )
        unknown = sorted(set(self.lora_targets or ()) - set(LORA_TARGETS))
        if unknown:
            raise ConfigError(f"lora_targets has {', '.join(unknown)}, expected names among {', '.join(LORA_TARGETS)}.")
