"""Quantized models in the whole: the pipeline, the lists of plugins, and a quantizer that a plugin brings."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from chameleon_backends import QuantizedLinear
from chameleon_core import Chameleon, Quantization

QUANTIZATIONS = pytest.mark.parametrize(
    "quantization", ["int8", Quantization("int4", {"group_size": 32})], ids=["int8", "int4"]
)


@QUANTIZATIONS
def test_a_pipeline_writes_documents_with_a_quantized_model(
    folder: Path, tmp_path: Path, quantization: str | Quantization
) -> None:
    chameleon = Chameleon.from_pretrained(folder, quantization=quantization)
    assert any(isinstance(module, QuantizedLinear) for module in chameleon.model.modules())
    options = {"modality": "image", "do_sample": True, "seed": 0}
    document = chameleon.generate(["A chameleon: "], **options)
    assert document[0].image is not None

    chameleon.save_pretrained(tmp_path)
    again = Chameleon.from_pretrained(tmp_path)
    assert again.generate(["A chameleon: "], **options)[0].codes == document[0].codes


def run(code: str, **environment: str) -> str:
    """What a fresh Python prints, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_listing_quantizers_and_using_the_plain_ones_loads_no_library() -> None:
    libraries = ("bitsandbytes", "torchao", "torch._inductor", "triton", "transformers")
    code = f"""
    import sys, torch
    from chameleon_backends import QuantizedLinear, find_quantizer, get_weight_quantizer
    from chameleon_backends import weight_quantizer_names, why_quantizer_unavailable
    reasons = {{name: why_quantizer_unavailable(name) for name in weight_quantizer_names()}}
    assert reasons["int8"] is None and reasons["int4"] is None
    find_quantizer({{"quant_method": "bitsandbytes", "load_in_8bit": True}})
    for name in ("int8", "int4"):
        QuantizedLinear.from_linear(torch.nn.Linear(128, 16), get_weight_quantizer(name))(torch.ones(1, 128))
    print(*[name for name in {libraries!r} if name in sys.modules])
    """
    assert run(code, CHAMELEON_PLUGINS="") == ""


PLUGIN = """
import torch
from chameleon_backends import HOOK_API_VERSION, TensorLayout, WeightQuantizer, WeightQuantizerSpec, hookimpl

class Signs(WeightQuantizer):
    def layout(self, in_features, out_features):
        return {
            "weight_signs": TensorLayout(torch.int8, (out_features, in_features)),
            "weight_size": TensorLayout(torch.float32, (out_features,)),
        }

    def quantize(self, weight_OI):
        return {"weight_signs": weight_OI.sign().to(torch.int8), "weight_size": weight_OI.float().abs().mean(dim=1)}

    def dequantize(self, stored):
        return stored["weight_signs"].float() * stored["weight_size"][:, None]

@hookimpl
def chameleon_weight_quantizers():
    return [WeightQuantizerSpec(name="signs", factory=Signs, api_version=HOOK_API_VERSION, summary="one bit a weight")]
"""


def test_a_plugin_brings_a_quantizer_and_its_folders_load(folder: Path, tmp_path: Path) -> None:
    """Found by entry point, in a process of its own; and without the plugin the folder names what is missing."""
    package = tmp_path / "acme"
    (package / "acme-1.0.dist-info").mkdir(parents=True)
    (package / "acme_signs.py").write_text(PLUGIN)
    (package / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (package / "acme-1.0.dist-info" / "entry_points.txt").write_text("[chameleon_backends]\nacme = acme_signs\n")
    code = f"""
    import torch
    from chameleon_core import ChameleonForConditionalGeneration as Model
    model = Model.from_pretrained({str(folder)!r}, quantization="signs")
    model.save_pretrained({str(tmp_path / "signs")!r})
    again = Model.from_pretrained({str(tmp_path / "signs")!r})
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, again(ids).logits)
    print(again.config.extras["quantization_config"]["quant_method"], again.model.layers[0].mlp.up_proj.quantizer)
    """
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    assert run(code, PYTHONPATH=path).startswith("signs <acme_signs.Signs")
    with pytest.raises(ValueError, match="no weight quantizer named 'signs'"):
        Chameleon.from_pretrained(tmp_path / "signs")


def test_a_quantized_pipeline_moves_and_changes_its_type(folder: Path) -> None:
    chameleon = Chameleon.from_pretrained(folder, quantization="int8", dtype=torch.bfloat16)
    chameleon.model.float()
    assert chameleon.model.dtype == torch.float32
    assert chameleon.generate("Text: ", max_new_tokens=3) is not None
