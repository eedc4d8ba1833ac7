"""The metadata of a GGUF file, as llama.cpp reads it, and our configuration.

What llama.cpp has no key for, such as the configuration of the image tokenizer, is JSON under a key of our own, which
other readers skip. Where both say something and differ, as after an edit by another program, llama.cpp's keys count.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._files import parse_json
from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError

ARCHITECTURE = "chameleon"
OWN_KEY = "chameleon_core.config"
"""The key of what llama.cpp has no key for, a JSON object."""

_COUNTS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
"""llama.cpp's names of integers, after the architecture, and our fields."""
_NUMBERS = {"rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
"""llama.cpp's names of numbers in float32, and our fields."""
_DEFAULTS = {"rope.freq_base": 10000.0}
_HEAD_WIDTHS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
"""Names that a file may have, and that say the width of a head."""
_SWIN, _SCALING, _FACTOR = "swin_norm", "rope.scaling.type", "rope.scaling.factor"
_QUANTIZATION = "quantization_config"
_KEYED = ("rope_parameters", "rope_scaling", "swin_norm", "vocab_size", "architectures", "model_type")
"""Entries of a ``config.json`` that follow from llama.cpp's keys, beside those of both tables."""
_TYPES = ("dtype", "torch_dtype")


def values_of(config: ChameleonConfig) -> dict[str, int | float | bool | str]:
    """Return llama.cpp's values for a configuration, by their keys. Raises ``ConfigError`` where they can't say it."""
    reasons = list(_not_said(config))
    if reasons:
        raise ConfigError(
            f"llama.cpp's model has no place for {'; '.join(reasons)}, and would compute something else. Write the "
            "format hf."
        )
    values: dict[str, int | float | bool | str] = {
        theirs: getattr(config, ours) for theirs, ours in (_COUNTS | _NUMBERS).items()
    }
    values |= {"vocab_size": config.vocab_size, _HEAD_WIDTHS[0]: config.head_dim, _SWIN: config.swin_norm}
    if config.rope_scaling is not None:
        values |= {_SCALING: config.rope_type, _FACTOR: config.rope_factor}
    return {f"{ARCHITECTURE}.{name}": value for name, value in values.items()}


def own_json(config: ChameleonConfig, *, vocabulary_is_stored: bool, dtype: str) -> str:
    """Return what llama.cpp has no key for: the other fields, and numbers that float32 rounds.

    ``vocabulary_is_stored`` leaves the names of ids out, ``dtype`` is the type of the matrices.
    """
    data = config.to_dict()
    for name in (*_COUNTS.values(), *_KEYED, *_TYPES):
        data.pop(name, None)
    if vocabulary_is_stored:
        data.pop("vocabulary_map", None)
    return json.dumps({**data, "dtype": dtype}, ensure_ascii=False)


def as_config(
    metadata: Mapping[str, Any], path: Path, *, vocab_size: int, tied: bool, words: Mapping[str, Any], dtype: str
) -> ChameleonConfig:
    """Return the configuration that a file's metadata says.

    ``vocab_size``, ``tied`` and ``dtype`` are what its tensors say, ``words`` the fields that its tokenizer says. The
    ``dtype`` of our own entry wins, which a later quantization doesn't change. Raises ``FileFormatError`` where a value
    is missing or impossible, or describes what this model doesn't compute.
    """
    fields: dict[str, Any] = {ours: _whole(metadata, theirs, path) for theirs, ours in _COUNTS.items()}
    own = _own(metadata, path)
    for theirs, ours in _NUMBERS.items():
        value = _number(metadata, theirs, path)
        stated = own.pop(ours, None)
        # The file has the nearest number of float32, and so less digits than the configuration.
        fields[ours] = stated if type(stated) is float and _float32(stated) == value else _shortest(value)
    fields |= _rope_scaling(metadata, path)
    swin = metadata.get(f"{ARCHITECTURE}.{_SWIN}", False)
    if not isinstance(swin, bool):
        raise FileFormatError(f"{path}: {ARCHITECTURE}.{_SWIN} is {swin!r:.80}, expected true or false.")
    fields |= {_SWIN: swin, "vocab_size": vocab_size, "tie_word_embeddings": tied, **_said_by_words(words, own)}
    try:
        config = ChameleonConfig.from_dict({"dtype": dtype, **own, **fields}, source=str(path))
    except ConfigError as error:
        raise FileFormatError(f"{path} describes no model: {error}") from error
    for name in _HEAD_WIDTHS:
        width = metadata.get(f"{ARCHITECTURE}.{name}", config.head_dim)
        if width != config.head_dim:
            raise FileFormatError(
                f"{path}: {ARCHITECTURE}.{name} is {width!r:.80}, and heads are {config.head_dim} wide "
                "(embedding_length / head_count). This model has no other heads."
            )
    return config


def _said_by_words(words: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tokenizer says, without what our own entry says in more detail."""
    said = dict(words)
    ends = own.get("eos_token_id")
    if isinstance(ends, list) and ends[:1] == [said.get("eos_token_id")]:
        del said["eos_token_id"]
    if own.get("vocabulary_map") is not None:
        said.pop("vocabulary_map", None)
    return said


def _own(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    text = metadata.get(OWN_KEY, "{}")
    data = parse_json(text, f"{path} ({OWN_KEY})") if isinstance(text, str) else None
    if not isinstance(data, dict):
        raise FileFormatError(f"{path}: {OWN_KEY} is no JSON object. Convert the file again.")
    return {name: value for name, value in data.items() if name not in (*_COUNTS.values(), *_KEYED)}


def _rope_scaling(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    kind = metadata.get(f"{ARCHITECTURE}.{_SCALING}", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise FileFormatError(
            f"{path}: {ARCHITECTURE}.{_SCALING} is {kind!r:.80}; this model has 'linear', or no scaling."
        )
    return {"rope_scaling": {"type": kind, "factor": _shortest(_number(metadata, _FACTOR, path))}}


def _whole(metadata: Mapping[str, Any], name: str, path: Path) -> int:
    key = f"{ARCHITECTURE}.{name}"
    # As in llama.cpp, there are as many key/value heads as query heads unless a file says otherwise.
    value = metadata.get(key, metadata.get(f"{ARCHITECTURE}.attention.head_count") if name.endswith("_kv") else None)
    if type(value) is not int:
        raise FileFormatError(f"{path}: {key} is {value!r:.80}, expected an integer.")
    return value


def _number(metadata: Mapping[str, Any], name: str, path: Path) -> float:
    key = f"{ARCHITECTURE}.{name}"
    value = metadata.get(key, _DEFAULTS.get(name))
    if type(value) not in (int, float):
        raise FileFormatError(f"{path}: {key} is {value!r:.80}, expected a number.")
    return float(value)


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf")


def _shortest(value: float) -> float:
    """Return the number of fewest digits whose nearest one in float32 is ``value``: 1e-5, not 9.99999974738e-06."""
    return next((short for digits in range(1, 10) if _float32(short := float(f"{value:.{digits}g}")) == value), value)


def _not_said(config: ChameleonConfig) -> Iterator[str]:
    if config.attention_bias or config.mlp_bias:
        yield "biases of projections"
    if config.rope_type == "dynamic":
        yield f"rope_scaling {dict(config.rope_scaling or {})!r}"
    if config.hidden_act != "silu":
        yield f"hidden_act {config.hidden_act!r}"
    if not config.qk_norm:
        yield "queries and keys without a norm (qk_norm=False)"
    if _QUANTIZATION in config.extras:
        yield "quantized weights (convert the float model)"
