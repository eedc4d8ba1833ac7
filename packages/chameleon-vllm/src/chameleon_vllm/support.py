"""What of a model's configuration vLLM's layers don't compute as ``chameleon_core`` does, so that it is refused."""

from __future__ import annotations

from chameleon_core import ChameleonConfig, ConfigError

OF_LLAMA = (
    "attn_logit_softcapping",
    "bias",
    "head_dim",
    "is_causal",
    "layer_types",
    "logit_scale",
    "partial_rotary_factor",
    "qkv_bias",
    "sliding_window",
)
"""Fields of a file that vLLM's Llama honours and ``chameleon_core`` keeps without using."""


def why_unsupported(config: ChameleonConfig) -> list[str]:
    """Return what can't be equal in vLLM, a clause for each; none where the model is served."""
    reasons = []
    if config.rope_type == "dynamic":
        reasons.append(
            "rope_scaling is 'dynamic', whose angles depend here on a row's length and in vLLM on the longest that is "
            "possible"
        )
    if config.hidden_act != "silu":
        reasons.append(f"hidden_act is {config.hidden_act!r}, and vLLM's feed-forward layers have 'silu' alone")
    if not config.qk_norm:
        reasons.append("qk_norm is False, which is an extension of this toolkit")
    if config.extras.get("quantization_config") is not None:
        reasons.append("its layers are quantized, in a form that is this toolkit's")
    others = [name for name in OF_LLAMA if config.extras.get(name) is not None]
    if others:
        reasons.append(f"its file has {', '.join(others)}, which vLLM honours and chameleon_core doesn't")
    if config.vocabulary_map is None:
        reasons.append("it has no vocabulary_map, which says which ids are those of pictures")
    return reasons


def check_supported(config: ChameleonConfig, source: str) -> None:
    """Raise ``ConfigError`` with all that can't be equal in vLLM."""
    reasons = why_unsupported(config)
    if reasons:
        raise ConfigError(
            f"vLLM can't serve {source} as chameleon_core runs it: {'; '.join(reasons)}. Use chameleon_core.Chameleon."
        )
