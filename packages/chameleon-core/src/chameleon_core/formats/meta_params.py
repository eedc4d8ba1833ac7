"""The parameters of a model in Meta's files, ``params.json`` and ``consolidate_params.json``, and our configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .._commits import stored
from .._files import read_json
from ..config import ChameleonConfig, Count
from ..errors import ConfigError, FileFormatError, MissingFileError

PARAMS_FILE = "params.json"
CONSOLIDATE_FILE = "consolidate_params.json"

_CONTEXT = 4096
"""The trained context of the published models, which their files don't say."""
_QUANTIZATION = "quantization_config"


class MetaParams(msgspec.Struct, kw_only=True):
    """What is read of both files; the second wins over the first, and the entry "model" over what is beside it."""

    dim: Count
    """The width of the hidden states."""
    n_layers: Count
    """The number of layers."""
    n_heads: Count
    """The number of query heads, those of all ranks together."""
    n_kv_heads: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """The number of key/value heads; None, the default, and 0 are as many as query heads."""
    norm_eps: float = 1e-5
    """What RMSNorm adds to the mean square."""
    rope_theta: float = 10000.0
    """The base of the wavelengths of the rotary embeddings."""
    qk_normalization: bool = False
    """Whether queries and keys are normalized."""
    swin_norm: bool = False
    """Whether norms follow attention and the feed-forward layer."""
    model_parallel_size: Count | None = None
    """The number of ranks, each with a file; None, the default, is as many as there are files."""
    max_position_embeddings: Count = _CONTEXT
    """The number of positions of the trained context, an extension; 4,096 by default."""

    @property
    def num_key_value_heads(self) -> int:
        """The number of key/value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.dim // self.n_heads


def read_params(folder: Path) -> MetaParams:
    """Read both files. Raises ``MissingFileError`` without the first, ``FileFormatError`` for what can't be meant."""
    path = stored(folder, PARAMS_FILE)
    data = read_json(path)
    model = data.get("model")
    try:
        consolidated = read_json(stored(folder, CONSOLIDATE_FILE))
    except MissingFileError:
        consolidated = {}
    merged = {**data, **(model if isinstance(model, dict) else {}), **consolidated}
    try:
        params = msgspec.convert(merged, MetaParams)
    except msgspec.ValidationError as error:
        raise FileFormatError(
            f"{path} (with {CONSOLIDATE_FILE}) doesn't describe a model: {str(error).rstrip('.')}. Expected the "
            "parameters of Meta's release: dim, n_layers, n_heads, …"
        ) from error
    if params.dim % params.n_heads or params.n_heads % params.num_key_value_heads:
        raise FileFormatError(
            f"{path}: n_heads must divide dim, and n_kv_heads n_heads; got dim {params.dim}, n_heads {params.n_heads} "
            f"and n_kv_heads {params.num_key_value_heads}."
        )
    return params


def as_config(params: MetaParams, sizes: Mapping[str, Any], parts: Mapping[str, Any]) -> ChameleonConfig:
    """Return the configuration of parameters, of ``sizes`` that the tensors have, and of the other files' ``parts``."""
    return ChameleonConfig(
        hidden_size=params.dim,
        num_hidden_layers=params.n_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=params.num_key_value_heads,
        rms_norm_eps=params.norm_eps,
        rope_theta=params.rope_theta,
        qk_norm=params.qk_normalization,
        swin_norm=params.swin_norm,
        max_position_embeddings=params.max_position_embeddings,
        **sizes,
        **parts,
    )


def params_of(config: ChameleonConfig, ranks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of both files for a configuration. Raises ``ConfigError`` where they can't say it."""
    reasons = list(_not_said(config))
    if reasons:
        raise ConfigError(
            f"Meta's layout has no place for {'; '.join(reasons)}, and its readers would compute something else. "
            "Write the format hf."
        )
    divided = {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
    }
    uneven = [f"{name} {value:,}" for name, value in divided.items() if ranks < 1 or value % ranks]
    if uneven:
        raise ConfigError(f"ranks must divide {', '.join(uneven)}; got {ranks}. 1 rank always fits.")
    multiple_of, multiplier = _feed_forward(config)
    model = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_of,
        "ffn_dim_multiplier": multiplier,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "qk_normalization": config.qk_norm,
        "swin_norm": config.swin_norm,
    }
    params: dict[str, Any] = {"model": model}
    if config.max_position_embeddings != _CONTEXT:
        params["max_position_embeddings"] = config.max_position_embeddings
    return params, {"model_parallel_size": ranks, "vocab_size": config.vocab_size}


def intermediate_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Return the width of the feed-forward layer as Meta's code computes it."""
    width = int(8 * dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * -(-width // multiple_of)


def _feed_forward(config: ChameleonConfig) -> tuple[int, float | None]:
    """Return ``multiple_of`` and ``ffn_dim_multiplier``, of which Meta's code computes the intermediate size."""
    wanted, dim = config.intermediate_size, config.hidden_size
    multiple_of = next(each for each in (256, 128, 64, 32, 16, 8, 4, 2, 1) if wanted % each == 0)
    if intermediate_size(dim, multiple_of, None) == wanted:
        return multiple_of, None
    # Any width above the last multiple is rounded up to the wanted one; half a step keeps clear of rounding.
    return multiple_of, (wanted - (multiple_of - 1) // 2 + 0.5) / int(8 * dim / 3)


def _not_said(config: ChameleonConfig) -> Iterator[str]:
    if config.attention_bias or config.mlp_bias:
        yield "biases of projections"
    if config.rope_scaling is not None:
        yield f"rope_scaling {dict(config.rope_scaling)!r}"
    if config.hidden_act != "silu":
        yield f"hidden_act {config.hidden_act!r}"
    if _QUANTIZATION in config.extras:
        yield "quantized weights (convert the float model)"
