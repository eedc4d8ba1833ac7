"""The configuration of the transformer: every argument of the reference, under its name and default."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from ._config import Config
from ._files import read_json, write_json
from .errors import ConfigError

CONFIG_FILE = "config.json"
MODEL_TYPE = "chameleon"
ARCHITECTURE = "ChameleonForConditionalGeneration"

Count = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]

HiddenAct = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu", "relu6", "leaky_relu", "mish", "sigmoid", "tanh"]
RopeType = Literal["default", "linear", "dynamic"]


class ChameleonConfig(Config, frozen=True, kw_only=True):
    """The shape of a Chameleon transformer; the defaults are the 7B model.

    ``num_key_value_heads=None`` stands for ``num_attention_heads``. ``hidden_act`` is the name of a function of
    ``torch.nn.functional``, or ``gelu_pytorch_tanh``. ``rope_scaling`` is ``{"type": "linear" | "dynamic", "factor":
    above 1}``. ``vq_config`` describes the image tokenizer and is opaque here, a mapping that chameleon-vq reads.
    ``vocabulary_map`` is the tokenizer's name → id. ``model_parallel_size`` is the number of ranks that trained the
    model, of which each had a qk-norm of its own; it changes nothing in the computation.

    ``qk_norm=False`` is an extension: the reference has no such field, and the ``hf`` format can't write it.

    Raises ``ConfigError`` with the field's name and what it allows.
    """

    vocab_size: Count = 65536
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count = 32
    hidden_act: HiddenAct = "silu"
    max_position_embeddings: Count = 4096
    initializer_range: Annotated[float, Meta(ge=0)] = 0.02
    rms_norm_eps: Positive = 1e-5
    use_cache: bool = True
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = 1
    eos_token_id: TokenId | list[TokenId] | None = 2
    tie_word_embeddings: bool = False
    rope_theta: Positive = 10000.0
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: Fraction = 0.0
    model_parallel_size: Count = 1
    swin_norm: bool = False
    vq_config: dict[str, Any] | None = None
    vocabulary_map: dict[str, TokenId] | None = None
    mlp_bias: bool = False
    qk_norm: bool = True

    known_extras: ClassVar[frozenset[str]] = frozenset(
        {
            "_attn_implementation",
            "_name_or_path",
            "attn_implementation",
            "chunk_size_feed_forward",
            "dtype",
            "id2label",
            "is_encoder_decoder",
            "label2id",
            "output_attentions",
            "output_hidden_states",
            "pretraining_tp",
            "problem_type",
            "quantization_config",
            "return_dict",
            "torch_dtype",
            "transformers_version",
        }
    )

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            msgspec.structs.force_setattr(self, "num_key_value_heads", self.num_attention_heads)
        if self.rope_scaling is not None:
            msgspec.structs.force_setattr(self, "rope_scaling", _checked_scaling(self.rope_scaling))
        super().__post_init__()

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_groups(self) -> int:
        """How many query heads share a key/value head; 1 is multi-head attention."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def rope_type(self) -> RopeType:
        """How the rotary embedding is scaled."""
        name: RopeType = "default" if self.rope_scaling is None else self.rope_scaling["type"]
        return name

    @property
    def rope_factor(self) -> float:
        """By how much the scaling stretches the trained context; 1 without scaling."""
        factor: float = 1.0 if self.rope_scaling is None else self.rope_scaling["factor"]
        return factor

    @property
    def context_length(self) -> int:
        """The most positions that a sequence may have: the trained ones times the scaling."""
        return int(self.max_position_embeddings * self.rope_factor)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a stream, however ``eos_token_id`` was given."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    def check(self) -> None:
        """Raise ``ConfigError`` where fields contradict each other."""
        for name in ("initializer_range", "rms_norm_eps", "rope_theta"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"ChameleonConfig.{name} must be finite; got {getattr(self, name)!r}.")
        self._check_divides("num_attention_heads", "hidden_size")
        self._check_divides("num_key_value_heads", "num_attention_heads")
        self._check_divides("model_parallel_size", "num_attention_heads")
        if self.head_dim % 2:
            raise ConfigError(
                "ChameleonConfig.num_attention_heads must leave heads of even width, which RoPE turns in pairs; "
                f"got hidden_size {self.hidden_size} / {self.num_attention_heads} heads = {self.head_dim}."
            )
        if self.rope_type == "dynamic" and self.head_dim == 2:
            raise ConfigError("ChameleonConfig.rope_scaling: 'dynamic' needs heads wider than 2; got a width of 2.")
        ids = {"pad_token_id": (self.pad_token_id,), "bos_token_id": (self.bos_token_id,)}
        for name, values in {**ids, "eos_token_id": self.eos_token_ids}.items():
            for id_ in values:
                self._check_id(name, id_)
        if self.vocabulary_map:
            token, value = max(self.vocabulary_map.items(), key=lambda item: item[1])
            self._check_id(f"vocabulary_map[{token!r}]", value)

    def _check_divides(self, divisor: str, dividend: str) -> None:
        if getattr(self, dividend) % getattr(self, divisor):
            raise ConfigError(
                f"ChameleonConfig.{divisor} must divide {dividend} ({getattr(self, dividend)}); "
                f"got {getattr(self, divisor)}."
            )

    def _check_id(self, name: str, value: int | None) -> None:
        if value is not None and value >= self.vocab_size:
            raise ConfigError(
                f"ChameleonConfig.{name} must be an id from 0 to vocab_size - 1 ({self.vocab_size - 1}); got {value}."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "") -> ChameleonConfig:
        """Read the mapping of a published ``config.json``, of the reference's old or new releases.

        Both ways to describe RoPE are read, ``rope_parameters`` and ``rope_theta`` with ``rope_scaling``; where a
        file has both they must agree.
        """
        where = f"{source}: " if source else ""
        fields = dict(data)
        model_type = fields.pop("model_type", MODEL_TYPE)
        if model_type != MODEL_TYPE:
            raise ConfigError(f"{where}model_type is {model_type!r}, expected {MODEL_TYPE!r}.")
        # Both follow from the rest, and are written anew.
        fields.pop("architectures", None)
        fields.pop("image_token_id", None)
        # The reference lets some fields be null and means the default.
        for name in ("attention_bias", "attention_dropout", "model_parallel_size", "swin_norm"):
            if name in fields and fields[name] is None:
                del fields[name]
        parameters = fields.pop("rope_parameters", None)
        for name, value in _stated_by(parameters, where).items():
            if fields.get(name) is None:
                fields[name] = value
            elif _comparable(fields[name]) != value:
                raise ConfigError(
                    f"{where}rope_parameters and {name} differ: {parameters!r} and {fields[name]!r}. Remove one."
                )
        if fields.get("rope_theta", 0) is None:
            del fields["rope_theta"]
        return super().from_dict(fields, source=source)

    def to_dict(self) -> dict[str, Any]:
        """The mapping of ``config.json``, RoPE written in both ways so that old and new readers find it."""
        data = {"model_type": MODEL_TYPE, "architectures": [ARCHITECTURE], **super().to_dict()}
        data["rope_parameters"] = {"rope_type": self.rope_type, "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            data["rope_parameters"]["factor"] = self.rope_factor
        if self.qk_norm:
            del data["qk_norm"]
        return data

    def _shown(self, name: str, value: Any) -> str:
        names = name == "vocabulary_map" and value is not None
        return f"<{len(value)} names>" if names else super()._shown(name, value)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> ChameleonConfig:
        """Read ``config.json`` in a folder."""
        path = Path(folder) / CONFIG_FILE
        return cls.from_dict(read_json(path), source=str(path))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` in a folder, replacing it only once it is whole."""
        write_json(Path(folder) / CONFIG_FILE, self.to_dict())


def _checked_scaling(scaling: Mapping[str, Any]) -> dict[str, Any] | None:
    """``{"type", "factor"}`` whichever of its spellings was given, or None where the type is "default"."""
    if not isinstance(scaling, Mapping):
        raise ConfigError(f"ChameleonConfig.rope_scaling must be a mapping or None; got {scaling!r}.")
    unknown = sorted(set(scaling) - {"type", "rope_type", "factor"})
    if unknown:
        raise ConfigError(f"ChameleonConfig.rope_scaling has unknown keys {unknown}; allowed: 'type', 'factor'.")
    names = [scaling[key] for key in ("type", "rope_type") if key in scaling]
    name = names[0] if names else None
    if name not in ("default", "linear", "dynamic") or names[-1] != name:
        raise ConfigError(f"ChameleonConfig.rope_scaling: 'type' must be 'linear' or 'dynamic'; got {dict(scaling)!r}.")
    if name == "default":
        return None
    factor = scaling.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor < math.inf:
        raise ConfigError(f"ChameleonConfig.rope_scaling: 'factor' must be a number above 1; got {factor!r}.")
    return {"type": name, "factor": float(factor)}


def _stated_by(parameters: Any, where: str) -> dict[str, Any]:
    """The fields that a file's ``rope_parameters`` state: ``rope_theta``, ``rope_scaling``, both or none."""
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{where}rope_parameters must be a mapping or null; got {parameters!r}.")
    scaling = dict(parameters)
    theta = scaling.pop("rope_theta", None)
    try:
        stated = {"rope_scaling": _checked_scaling(scaling)} if scaling else {}
    except ConfigError as error:
        raise ConfigError(f"{where}rope_parameters: {error}") from error
    return stated if theta is None else {"rope_theta": theta, **stated}


def _comparable(value: Any) -> Any:
    return _checked_scaling(value) if isinstance(value, Mapping) else value
