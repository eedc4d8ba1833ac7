"""Peak memory of quantizing while loading, measured in a process of its own.

What counts is anonymous memory: pages of a mapped file can be dropped at any time and are shared between processes.
``benchmarks/weight_quantizers.py`` measures the same at the width of the 7B model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, write_checkpoint
from chameleon_core.checkpoints import Checkpoint, StoredTensor

PROGRAM = """
import json, sys
import torch
from peak_memory import Peak
from chameleon_core import ChameleonForConditionalGeneration, Quantization
from chameleon_backends import QuantizedLinear

torch.set_num_threads(1)
folder, output, method = sys.argv[1:]

with Peak() as loading:
    model = ChameleonForConditionalGeneration.from_pretrained(folder, quantization=method)
with Peak() as saving:
    model.save_pretrained(output, max_shard_size="20MB")
size = sum(parameter.nbytes for parameter in model.parameters())
size += sum(tensor.nbytes for layer in model.modules() if isinstance(layer, QuantizedLinear)
            for tensor in layer.stored().values())
print(json.dumps({"size": size, "loading": loading.growth,
                  "saving": saving.growth}))
"""

MEGABYTE = 10**6
SHARD = 20 * MEGABYTE
# What one layer takes to be unpacked from the kernel's order: measured 6 MB.
SLACK = 16 * MEGABYTE

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status of Linux")


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 136 MB in bfloat16, in shards of 20 MB, written without ever holding it."""
    config = ChameleonConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in ChameleonForConditionalGeneration(config).state_dict().items()}
    tensors = {
        name: StoredTensor(tuple(shape), torch.bfloat16, lambda shape=shape: torch.full(shape, 0.5).bfloat16())
        for name, shape in shapes.items()
    }
    folder = tmp_path_factory.mktemp("floats")
    write_checkpoint(Checkpoint(config, tensors), folder, max_shard_size=SHARD)
    return folder


@pytest.mark.parametrize("method", ["int4", "int8"])
def test_loading_takes_one_shard_and_the_result_and_saving_one_shard(floats: Path, method: str, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in floats.glob("*.safetensors")]
    assert sum(sizes) > 130 * MEGABYTE
    shard = max(sizes)
    assert shard < 1.1 * SHARD
    program = [sys.executable, "-c", PROGRAM, str(floats), str(tmp_path), method]
    # The allocator of Linux keeps a varying share of freed memory unless it is told to release everything.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    measured: dict[str, int] = json.loads(result.stdout)
    assert measured["size"] < 95 * MEGABYTE
    assert measured["loading"] <= shard + 1.3 * measured["size"], "loading holds more than a shard beside the result"
    assert measured["saving"] <= shard + SLACK, "saving holds more than a shard"
