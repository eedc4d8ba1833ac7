"""What vLLM's layers can't compute as chameleon-core does is refused by name, all of it at once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from chameleon_core import ConfigError
from chameleon_core.testing import make_config
from chameleon_vllm.support import check_supported, why_unsupported

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dynamic RoPE": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is 'dynamic'"),
    **{
        name: ({"hidden_act": name}, f"hidden_act is '{name}'")
        for name in ("gelu", "gelu_pytorch_tanh", "relu", "relu6", "leaky_relu", "mish", "sigmoid", "tanh")
    },
    "no qk-norm": ({"qk_norm": False}, "qk_norm is False"),
    "a quantized folder": ({"extras": {"quantization_config": {"quant_method": "int8"}}}, "its layers are quantized"),
    **{
        name: ({"extras": {name: 2}}, f"its file has {name}, which vLLM honours")
        for name in ("head_dim", "layer_types", "logit_scale", "partial_rotary_factor", "qkv_bias")
    },
    "no vocabulary": ({"vocabulary_map": None}, "it has no vocabulary_map"),
}
SERVED: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": 2, "swin_norm": True},
    {"attention_bias": True, "mlp_bias": True},
    {"tie_word_embeddings": True},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"model_parallel_size": 2, "attention_dropout": 0.1},
    {"extras": {"head_dim": None, "note": "of no concern"}},
]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_equal_is_refused_by_name(case: str) -> None:
    changes, reason = REFUSED[case]
    with pytest.raises(ConfigError, match=r"vLLM can't serve FOLDER as chameleon_core runs it") as caught:
        check_supported(make_config(**changes), "FOLDER")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("Use chameleon_core.Chameleon.")


@pytest.mark.parametrize("changes", SERVED, ids=str)
def test_every_other_variant_is_served(changes: dict[str, Any]) -> None:
    assert why_unsupported(make_config(**changes)) == []


def test_all_reasons_are_given_at_once() -> None:
    assert len(why_unsupported(make_config(hidden_act="gelu", qk_norm=False, vocabulary_map=None))) == 3


def test_importing_the_package_loads_neither_torch_nor_vllm() -> None:
    code = "import sys, chameleon_vllm; sys.exit(bool({'torch', 'vllm'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_the_plugin_is_registered_without_torch() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["chameleon"].partition(":")
    code = f"""
import importlib, sys, types
calls = []
registry = types.SimpleNamespace(register_model=lambda *arguments: calls.append(arguments))
sys.modules["vllm"] = types.SimpleNamespace(ModelRegistry=registry)
getattr(importlib.import_module({module!r}), {function!r})()
name = "ChameleonForConditionalGeneration"
assert calls == [(name, "chameleon_vllm.model:" + name)], calls
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
