"""The configuration of the transformer, with the names and defaults of ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from ._pretrained_config import PretrainedConfig
from .errors import ConfigError
from .family import IMAGE_TOKENIZER_TYPE, MODEL_TYPES, OF_FINETUNES, grammar_of
from .vq_fields import VQFields, refuse_misspelt

CONFIG_FILE = "config.json"
MODEL_TYPE = "chameleon"
PLACEHOLDERS = ("<image>", "<reserved08707>")
"""The names of the placeholder of pictures, in the files of ``transformers`` and in Meta's."""
ARCHITECTURE = "ChameleonForConditionalGeneration"

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]

HiddenAct = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu", "relu6", "leaky_relu", "mish", "sigmoid", "tanh"]
RopeType = Literal["default", "linear", "dynamic"]

MAX_ROPE_FACTOR = 10**6
"""The largest factor of ``rope_scaling``."""
SMALLEST_FLOAT, LARGEST_FLOAT = 1.1754943508222875e-38, 3.4028234663852886e38
"""The range of float32's normal numbers, in which the model computes."""


class ChameleonConfig(PretrainedConfig, kw_only=True):  # type: ignore[misc]  # its base is frozen, and it isn't
    """The shape of a Chameleon transformer; the defaults are the 7B model.

    Every field of ``transformers``' class is here under its name and default; ``qk_norm`` and ``picture_grammar`` are
    extensions. Fields can be assigned until a model is made of the configuration; after that only those that the model
    reads anew (``assignable_in_a_model``).

    Raises ``ConfigError`` with the field's name and what it allows.
    """

    vocab_size: Count = 65536
    """The number of ids, of text, picture codes and special tokens together, ≥ 1; 65,536 by default."""
    hidden_size: Count = 4096
    """The width of the hidden states, a multiple of twice ``num_attention_heads``; 4,096 by default."""
    intermediate_size: Count = 11008
    """The width of the feed-forward layers, ≥ 1; 11,008 by default."""
    num_hidden_layers: Count = 32
    """The number of transformer layers, ≥ 1; 32 by default."""
    num_attention_heads: Count = 32
    """The number of query heads of each layer, ≥ 1; 32 by default."""
    num_key_value_heads: Count = 32
    """The number of key/value heads of each layer, a divisor of ``num_attention_heads``; 32 by default. As many as
    query heads is multi-head attention, 1 multi-query, others grouped-query. None means ``num_attention_heads``."""
    hidden_act: HiddenAct = "silu"
    """The activation of the feed-forward layers: the name of a function of ``torch.nn.functional`` that is listed in
    ``HiddenAct``, or "gelu_pytorch_tanh"; "silu" by default."""
    max_position_embeddings: Count = 4096
    """The number of positions of the trained context, ≥ 1; 4,096 by default. ``rope_scaling`` multiplies it."""
    initializer_range: Annotated[float, Meta(ge=0)] = 0.02
    """The standard deviation of new weight matrices, ≥ 0 and fit for float32; 0.02 by default."""
    rms_norm_eps: Positive = 1e-5
    """What RMSNorm adds to the mean square, > 0 and fit for float32; 1e-5 by default."""
    use_cache: bool = True
    """Kept for ``transformers``, which returns a cache where it is true, the default; here a cache is used where one is
    passed."""
    pad_token_id: TokenId | None = None
    """The padding id, in [0, vocab_size); None by default."""
    bos_token_id: TokenId | None = 1
    """The id that begins a stream, in [0, vocab_size), or None; 1 by default."""
    eos_token_id: TokenId | list[TokenId] | None = 2
    """The id, or ids, that end a stream, each in [0, vocab_size), or None; 2 by default."""
    tie_word_embeddings: bool = False
    """Whether the output layer shares the weight of the embeddings; False by default."""
    rope_theta: Positive = 10000.0
    """The base of the wavelengths of the rotary embeddings, > 0 and fit for float32; 10,000 by default."""
    rope_scaling: dict[str, Any] | None = None
    """How the rotary embeddings are stretched beyond the trained context: ``{"type": "linear" | "dynamic", "factor": a
    number > 1 and ≤ 10⁶}`` ("rope_type" is understood, too), or None, the default. ``rope_parameters`` has it together
    with ``rope_theta``, as newer files do."""
    attention_bias: bool = False
    """Whether the projections of attention (query, key, value, output) have a bias; False by default."""
    attention_dropout: Fraction = 0.0
    """The dropout of attention probabilities in training, in [0, 1]; 0 by default."""
    model_parallel_size: Count = 1
    """The number of ranks that trained the model, a divisor of ``num_attention_heads``; 1 by default. Each rank had a
    qk-norm of its own; the weights here are per head in any case, so that it changes nothing in the computation."""
    swin_norm: bool = False
    """Whether norms follow attention and the feed-forward layer, as in Swin Transformer v2 and the 34B model, in place
    of preceding them; False by default."""
    vq_config: dict[str, Any] | None = msgspec.field(default_factory=dict)
    """The configuration of the image tokenizer, which chameleon-vq reads; its resolution says how many codes a picture
    has. A mapping, or a configuration with ``to_dict``; its entries are read as attributes, too, with the published
    values where there are none. An empty one, the default, and None are the published one: 1,024 codes."""
    vocabulary_map: dict[str, TokenId] | None = None
    """The tokenizer's names with their ids, each in [0, vocab_size). It says which ids are codes of pictures and which
    are special; None, the default, is enough for a model that only computes logits."""
    picture_grammar: str | dict[str, Any] = "chameleon"
    """How pictures are written as ids: the name of an installed picture grammar, or a mapping with "name" and the
    grammar's own options. "chameleon", the default, writes the codes of one grid; "lumina" begins with the size. It is
    an extension, which ``transformers`` has no field for."""
    mlp_bias: bool = False
    """Whether the projections of the feed-forward layers have a bias; False by default."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head; True by default. False is an extension, which ``transformers``
    has no field for and the ``hf`` format doesn't write."""

    model_type: ClassVar[str] = MODEL_TYPE
    """What files call this kind of model."""
    assignable_in_a_model: ClassVar[frozenset[str]] = frozenset(
        {"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"}
    )
    """Fields that can be assigned after a model was made; to tie the embeddings, call its ``tie_weights``."""

    known_extras: ClassVar[frozenset[str]] = frozenset(
        {
            "boi_token_id",
            "eoi_token_id",
            "image_token_id",
            "pretraining_tp",
            "quantization_config",
            *OF_FINETUNES,
        }
    )
    meaningful_nulls: ClassVar[frozenset[str]] = frozenset({"num_key_value_heads"})

    def __post_init__(self) -> None:
        for name in ("num_key_value_heads", "rope_scaling", "vq_config"):
            msgspec.structs.force_setattr(self, name, self._prepared(name, getattr(self, name)))
        super().__post_init__()
        self._complete("vq_config")

    def _prepared(self, name: str, value: Any) -> Any:
        if name == "num_key_value_heads" and value is None:
            return self.num_attention_heads
        if name == "rope_scaling" and value is not None:
            return _checked_scaling(value)
        if name == "vq_config" and not isinstance(value, Mapping) and callable(getattr(value, "to_dict", None)):
            return value.to_dict()
        if name == "vq_config" and isinstance(value, Mapping) and not isinstance(value, VQFields):
            refuse_misspelt(value)
        return value

    def keep_for_a_model(self, *, attn_implementation: str | None = None) -> None:
        """Check the fields against each other, and fix those that a model is made with. Raises ``ConfigError``."""
        super().keep_for_a_model(attn_implementation=attn_implementation)
        msgspec.structs.force_setattr(self, "vq_config", VQFields(self.vq_config or {}).kept_for_a_model())

    def _complete(self, name: str) -> None:
        if name == "vq_config":
            msgspec.structs.force_setattr(self, "vq_config", VQFields(self.vq_config or {}))

    def _assign_property(self, name: str, value: Any) -> None:
        if name != "rope_parameters":
            super()._assign_property(name, value)
        stated = {"rope_theta": 10000.0, "rope_scaling": None, **_stated_by(value, "ChameleonConfig: ")}
        for field, each in stated.items():
            setattr(self, field, each)

    @classmethod
    def _understood(cls, fields: dict[str, Any]) -> dict[str, Any]:
        parameters = fields.pop("rope_parameters", None)
        for derived in ("model_type", "image_token_id"):
            fields.pop(derived, None)
        if fields.get("architectures") == [ARCHITECTURE]:
            del fields["architectures"]  # it is written in any case
        return super()._understood(_with_rope(fields, parameters, f"{cls.__name__}: "))

    @property
    def image_token_id(self) -> int | None:
        """The id of the placeholder of pictures, None without a ``vocabulary_map``."""
        names = self.vocabulary_map or {}
        return next((names[name] for name in PLACEHOLDERS if name in names), None)

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """``rope_theta`` and ``rope_scaling`` in one mapping, as in newer files; it may be assigned."""
        parameters = {"rope_type": self.rope_type, "rope_theta": self.rope_theta}
        return parameters if self.rope_scaling is None else {**parameters, "factor": self.rope_factor}

    @property
    def is_heterogeneous(self) -> bool:
        """False: all layers have the same shape."""
        return False

    @property
    def per_layer_config(self) -> tuple[Self, ...]:
        """The configuration of each layer, which is this one; caches of ``transformers`` are made of them."""
        return (self,) * self.num_hidden_layers

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_groups(self) -> int:
        """The number of query heads that share a key/value head; 1 is multi-head attention."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def rope_type(self) -> RopeType:
        """How the rotary embedding is scaled."""
        name: RopeType = "default" if self.rope_scaling is None else self.rope_scaling["type"]
        return name

    @property
    def rope_factor(self) -> float:
        """The factor by which scaling stretches the trained context; 1 without scaling."""
        factor: float = 1.0 if self.rope_scaling is None else self.rope_scaling["factor"]
        return factor

    @property
    def context_length(self) -> int:
        """The maximum number of positions of a sequence: the trained ones times the scaling factor."""
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
            value = getattr(self, name)
            if value and not SMALLEST_FLOAT <= value <= LARGEST_FLOAT:
                raise ConfigError(
                    f"ChameleonConfig.{name} must be finite and fit float32, "
                    f"{SMALLEST_FLOAT:.3g}…{LARGEST_FLOAT:.3g}; got {value!r}."
                )
        if not isinstance(_name_of(self.picture_grammar), str):
            raise ConfigError(
                'ChameleonConfig.picture_grammar must be a name, or a mapping with a "name" such as '
                f'{{"name": "lumina", "max_codes": 2304}}; got {self.picture_grammar!r:.80}.'
            )
        self._check_divides("num_attention_heads", "hidden_size")
        self._check_divides("num_key_value_heads", "num_attention_heads")
        self._check_divides("model_parallel_size", "num_attention_heads")
        if self.head_dim % 2:
            raise ConfigError(
                "ChameleonConfig.num_attention_heads must leave heads of even width, which RoPE rotates in pairs; "
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
    def _of_file(cls, data: Mapping[str, Any], source: str) -> Self:
        """Read the mapping of a published ``config.json``, of old and new releases of ``transformers``.

        Both descriptions of RoPE are read, ``rope_parameters`` and ``rope_theta`` with ``rope_scaling``; they must
        agree where a file has both. The picture grammar of a finetune follows from its architecture, unless the file
        names one. Entries of ``vq_config`` are those of chameleon-vq, which warns of unknown ones.
        """
        where = f"{source}: " if source else ""
        fields = dict(data)
        model_type = fields.pop("model_type", MODEL_TYPE)
        if model_type == IMAGE_TOKENIZER_TYPE:
            raise ConfigError(
                f"{where}model_type is {model_type!r}, an image tokenizer alone, expected {MODEL_TYPE!r}. Pass the "
                "folder as image_tokenizer= beside a model's, or load it with chameleon_vq.ImageTokenizer."
            )
        if model_type not in MODEL_TYPES:
            raise ConfigError(f"{where}model_type is {model_type!r}, expected {MODEL_TYPE!r}.")
        if fields.get("picture_grammar") is None and (grammar := grammar_of(data, source)) is not None:
            fields["picture_grammar"] = grammar
        # Both are derived from the other fields, and written again.
        fields.pop("architectures", None)
        fields.pop("image_token_id", None)
        fields = _with_rope(fields, fields.pop("rope_parameters", None), where)
        if isinstance(fields.get("vq_config"), Mapping):
            fields["vq_config"] = VQFields(fields["vq_config"])
        return super()._of_file(fields, source)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping of ``config.json``, with both descriptions of RoPE for old and new readers."""
        data = {"architectures": [ARCHITECTURE], **super().to_dict()}
        data["rope_parameters"] = self.rope_parameters
        data["vq_config"] = dict(self.vq_config) if self.vq_config else None
        if self.qk_norm:
            del data["qk_norm"]
        if self.picture_grammar == "chameleon":
            del data["picture_grammar"]
        return data

    def _shown(self, name: str, value: Any) -> str:
        names = name == "vocabulary_map" and value is not None
        return f"<{len(value)} names>" if names else super()._shown(name, value)


def _name_of(requested: str | Mapping[str, Any]) -> Any:
    return requested if isinstance(requested, str) else requested.get("name")


def _checked_scaling(scaling: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``{"type", "factor"}`` of either spelling, or None where the type is "default"."""
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
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= MAX_ROPE_FACTOR:
        raise ConfigError(
            f"ChameleonConfig.rope_scaling: 'factor' must be a number in (1, {MAX_ROPE_FACTOR:,}]; got {factor!r}."
        )
    return {"type": name, "factor": float(factor)}


def _stated_by(parameters: Any, where: str) -> dict[str, Any]:
    """Return the fields that a file's ``rope_parameters`` describe: ``rope_theta``, ``rope_scaling``, both or none."""
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


def _with_rope(fields: Mapping[str, Any], parameters: Any, where: str) -> dict[str, Any]:
    """Return fields with what ``rope_parameters`` say of them. Raises ``ConfigError`` where both say it and differ."""
    fields = dict(fields)
    for name, value in _stated_by(parameters, where).items():
        if fields.get(name) is None:
            fields[name] = value
        elif _comparable(fields[name]) != value:
            raise ConfigError(
                f"{where}rope_parameters and {name} differ: {parameters!r} and {fields[name]!r}. Remove one."
            )
    if fields.get("rope_theta", 0) is None:
        del fields["rope_theta"]
    return fields


def _comparable(value: Any) -> Any:
    return _checked_scaling(value) if isinstance(value, Mapping) else value
