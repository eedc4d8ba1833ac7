"""Peak memory of loading and saving, measured in a process of its own.

What counts is anonymous memory: pages of a mapped file can be dropped at any time and are shared between processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A model of 208 MB in float32 whose largest tensors, the two tables, have 67 MB.
PROGRAM = """
import json, sys
import torch
from peak_memory import Peak
from chameleon_core.checkpoints import load_checkpoint, save_checkpoint
from chameleon_core.model import ChameleonForConditionalGeneration
from chameleon_core.config import ChameleonConfig

torch.set_num_threads(1)
task, folder = sys.argv[1:]
config = ChameleonConfig(
    vocab_size=65536, hidden_size=256, intermediate_size=2048, num_hidden_layers=10,
    num_attention_heads=4, num_key_value_heads=4,
)

def build_and_load(dtype):
    return load_checkpoint(folder, build=ChameleonForConditionalGeneration, dtype=dtype).model

if task == "write":
    model = ChameleonForConditionalGeneration(config)
    with Peak() as peak:
        save_checkpoint(model, folder, config=config, max_shard_size="100MB")
elif task == "map":
    with Peak() as peak:
        model = build_and_load(None)
        total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
else:
    with Peak() as peak:
        model = build_and_load(torch.bfloat16)
size = sum(parameter.nbytes for parameter in model.parameters())
print(json.dumps({"size": size, "peak": peak.growth}))
"""

MEGABYTE = 10**6
# The interpreter, the allocator and the headers of the files: measured below 1 MB.
SLACK = 16 * MEGABYTE

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status of Linux")


def measure(task: str, folder: Path) -> dict[str, int]:
    program = [sys.executable, "-c", PROGRAM, task, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    measured: dict[str, int] = json.loads(result.stdout)
    return measured


def test_neither_loading_nor_saving_holds_a_second_copy(tmp_path: Path) -> None:
    saved = measure("write", tmp_path)
    assert saved["size"] > 190 * MEGABYTE
    assert saved["peak"] < SLACK, "saving copies the weights"

    mapped = measure("map", tmp_path)
    assert mapped["size"] == saved["size"]
    assert mapped["peak"] < SLACK, "loading copies weights that need no conversion"

    converted = measure("convert", tmp_path)
    assert converted["size"] == saved["size"] // 2
    assert converted["peak"] < converted["size"] + SLACK, "loading holds more than the converted weights"
