"""Random models of each variant write the same ids in vLLM, and what can't be equal is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chameleon_core import Chameleon, ChameleonForConditionalGeneration, ConfigError
from chameleon_core.testing import randomize
from chameleon_vllm import VLLMChameleon

pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

SMALL = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "MHA with biases": {"num_attention_heads": 2, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "GQA with swin_norm": {"num_attention_heads": 4, "num_key_value_heads": 2, "swin_norm": True},
    "tied with linear RoPE": {
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


def save(folder: Path, changes: dict[str, Any]) -> None:
    """Write a random model with the words and the image tokenizer of the embedded one."""
    emoji = Chameleon.from_pretrained("emoji")
    model = ChameleonForConditionalGeneration(emoji.model.config.replace(**{**SMALL, **changes}))
    Chameleon(randomize(model).eval(), emoji.processor, emoji.image_tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_random_model_writes_the_same(variant: str, tmp_path: Path) -> None:
    save(tmp_path, VARIANTS[variant])
    script = Path(__file__).with_name("compare.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 8
    assert [name for name, is_same in found.items() if not is_same] == []


@pytest.mark.parametrize("variant", REFUSED)
def test_what_cant_be_equal_is_refused_by_name(variant: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[variant]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    save(tmp_path, {**heads, **changes})
    with pytest.raises(ConfigError, match=reason):
        VLLMChameleon.from_pretrained(tmp_path)
    assert os.listdir(tmp_path)
