"""Linear layers with each installed weight quantizer beside ``F.linear``, and the memory of quantizing while loading.

    python benchmarks/weight_quantizers.py [--rows 1 16] [--threads 2] [--seconds 2]
    python benchmarks/weight_quantizers.py --load int4 [--layers 4]

The first prints, for a feed-forward layer of the 7B model and bfloat16 inputs, the milliseconds of each, the best of
many runs that alternate, and how many times as fast as ``F.linear`` in bfloat16 each one is. ``by blocks`` is what
int8 and int4 do with more rows than their kernels are fast for (``cpu_rows``), here for any number of rows.

The second writes a model of the 7B model's width in several shards, 2.7 GB on disk with 4 layers, and prints the most
anonymous memory that loading it takes.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _memory import stored_bytes, watching_memory
from _race import race
from torch import nn
from torch.nn import functional as F

from chameleon_backends import (
    LinearSpec,
    QuantizedLinear,
    get_weight_quantizer,
    weight_quantizer_names,
    why_quantizer_unsupported,
)
from chameleon_backends.quantizers.int4_kernels import CPUInt4Weight
from chameleon_backends.quantizers.int8 import Int8Weight
from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, write_checkpoint
from chameleon_core.formats import Checkpoint, StoredTensor

PEER = "F.linear"
PACKED = ("int8", "int4")
SHARD = 10**9


def main() -> None:
    """Print a table, or the memory of loading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a row of the table takes")
    parser.add_argument("--rows", type=int, nargs="+", default=[1], help="rows of input")
    parser.add_argument("--in-features", type=int, default=4096)
    parser.add_argument("--out-features", type=int, default=11008)
    parser.add_argument("--load", metavar="QUANTIZER", help="measure the memory of loading instead")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096, help="of the model that is loaded")
    parser.add_argument("--folder", type=Path, help="load this folder (used by the script itself)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.folder is not None:
        print(json.dumps(load(options.folder, options.load)))
    elif options.load is not None:
        measure_loading(options.load, options.layers, options.width)
    else:
        compare_layers(options)


def compare_layers(options: argparse.Namespace) -> None:
    """Print the milliseconds of a layer, for each number of rows."""
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"bfloat16 instructions: {torch.ops.mkldnn._is_mkldnn_bf16_supported()}, {options.threads} threads\n"
        f"{options.in_features} to {options.out_features} features: "
        f"milliseconds (times as fast as {PEER} in bfloat16)\n"
    )
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(options.in_features, options.out_features, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(0.02 * torch.randn(linear.weight.shape, generator=generator))
    layers = quantized(linear)
    for rows in options.rows:
        values_MI = torch.randn(rows, options.in_features, generator=generator).bfloat16()
        best = race(contestants(linear, layers, values_MI), options.seconds)
        times = "  ".join(f"{who} {ms:.2f} ({best[PEER] / ms:.2f}x)" for who, ms in best.items())
        print(f"{rows:5} rows  {times}", flush=True)


def quantized(linear: nn.Linear) -> dict[str, QuantizedLinear]:
    """Return the layer quantized by each quantizer that serves it here."""
    spec = LinearSpec(
        in_features=linear.in_features,
        out_features=linear.out_features,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    layers = {}
    for name in weight_quantizer_names():
        reason = why_quantizer_unsupported(name, spec)
        if reason is None:
            layers[name] = QuantizedLinear.from_linear(linear, get_weight_quantizer(name))
        else:
            print(f"without {name}: {reason}")
    return layers


def contestants(
    linear: nn.Linear, layers: dict[str, QuantizedLinear], values_MI: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return a call of each layer."""
    calls: dict[str, Callable[[], object]] = {PEER: lambda: F.linear(values_MI, linear.weight)}
    for name, layer in layers.items():
        calls[name] = lambda layer=layer: layer(values_MI)  # type: ignore[misc]
    calls |= {f"{name} by blocks": lambda name=name: without_kernel(layers[name], values_MI) for name in PACKED}  # type: ignore[misc]
    return calls


def without_kernel(layer: QuantizedLinear, values_MI: torch.Tensor) -> torch.Tensor:
    """Run a layer as it runs with many rows."""
    weight = layer.prepared
    assert isinstance(weight, CPUInt4Weight | Int8Weight)
    return weight.multiply_blocks(values_MI)


def measure_loading(quantizer: str, layers: int, width: int) -> None:
    """Write a model, load it in another process, and print the memory that it took beside the bound."""
    with tempfile.TemporaryDirectory() as folder:
        largest = write_model(Path(folder), layers, width)
        command = [sys.executable, __file__, "--load", quantizer, "--folder", folder]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    bound = largest + 1.3 * found["size"]
    print(
        f"{layers} layers of width {width}, {found['float'] / 1e9:.2f} GB of floats in shards of up to "
        f"{largest / 1e9:.2f} GB; {quantizer} takes {found['size'] / 1e9:.2f} GB\n"
        f"loaded in {found['seconds']:.1f} s, at most {found['peak'] / 1e9:.2f} GB of anonymous memory: "
        f"{found['peak'] / bound:.0%} of the largest shard + 1.3 x the quantized size ({bound / 1e9:.2f} GB)"
    )


def write_model(folder: Path, layers: int, width: int) -> int:
    """Write a model of the 7B model's shape in bfloat16, never all in memory; return the bytes of its largest shard."""
    config = ChameleonConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=256 * round(width * 43 / 16 / 256),
        num_attention_heads=width // 128,
        num_key_value_heads=width // 128,
    )
    with torch.device("meta"):
        state = ChameleonForConditionalGeneration(config).state_dict()
    tensors = {
        name: StoredTensor(tuple(tensor.shape), torch.bfloat16, lambda tensor=tensor: random_weight(tensor.shape))  # type: ignore[misc]
        for name, tensor in state.items()
    }
    write_checkpoint(Checkpoint(config, tensors), folder, max_shard_size=min(SHARD, SHARD * width // 4096))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


def random_weight(shape: torch.Size) -> torch.Tensor:
    """Return numbers as large as weights are."""
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.03, 0.03)


def load(folder: Path, quantizer: str | None) -> dict[str, float]:
    """Return the bytes and the seconds that loading a folder takes, quantized or not."""
    floats = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    began = time.perf_counter()
    with watching_memory() as rise:
        model = ChameleonForConditionalGeneration.from_pretrained(folder, quantization=quantizer)
        seconds = time.perf_counter() - began
    return {"float": floats, "size": stored_bytes(model), "peak": rise[0], "seconds": seconds}


if __name__ == "__main__":
    main()
