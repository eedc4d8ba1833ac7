"""Random models of each variant write the same ids in vLLM, and what can't be equal is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chameleon_core import ConfigError
from chameleon_vllm import VLLMChameleon

from .cases import CASES, SIZED
from .compare import compared
from .folders import save_lumina, save_variant

pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

VARIANTS: dict[str, dict[str, Any]] = {
    "MHA with biases": {"num_attention_heads": 2, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "MHA with swin_norm, tied": {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "swin_norm": True,
        "tie_word_embeddings": True,
    },
    "GQA with swin_norm": {"num_attention_heads": 4, "num_key_value_heads": 2, "swin_norm": True},
    "MQA, tied, with linear RoPE": {
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dynamic RoPE": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is 'dynamic'"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
}


LUMINA = "swin_norm with Lumina's grammar"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bool]]:
    """What is the same in each variant, from one process for all."""
    folders = {name: tmp_path_factory.mktemp("variant") for name in (*VARIANTS, LUMINA)}
    for name, changes in VARIANTS.items():
        save_variant(folders[name], **changes)
    save_lumina(folders[LUMINA])
    return dict(zip(folders, compared(list(folders.values())), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_random_model_writes_the_same(variant: str, found: dict[str, dict[str, bool]]) -> None:
    assert found[variant] == dict.fromkeys(CASES, True)


def test_pictures_of_several_sizes_are_written_by_lumina_s_grammar(found: dict[str, dict[str, bool]]) -> None:
    assert found[LUMINA] == dict.fromkeys(SIZED, True)


@pytest.mark.parametrize("variant", REFUSED)
def test_what_cant_be_equal_is_refused_by_name(variant: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[variant]
    save_variant(tmp_path, **{"num_attention_heads": 2, "num_key_value_heads": 2, **changes})
    with pytest.raises(ConfigError, match=reason):
        VLLMChameleon.from_pretrained(tmp_path)
