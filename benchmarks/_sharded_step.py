"""One training step of a tiny model on a few gloo ranks: the bytes that each sends, and its peak of memory.

    python benchmarks/_sharded_step.py CASES.json RANK RANKS FOLDER

``scaling_page.py`` starts a process for each rank. It runs each case twice, the first time for buffers that stay, and
rank 0 writes what the second step took of each rank into ``FOLDER/measured.json``. Nothing here knows the formulas of
``chameleon_core.planning``: bytes are counted by the kernel, on the sockets between the ranks (Linux), and memory by
torch's profiler, from each allocation.

The model is divided as ``chameleon_core.planning`` says: FSDP2 with a group for each layer and one for the rest, and
tensor parallelism by DTensor, with a vocabulary-parallel loss.

Shapes: B batch, T positions of a row, E hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.model.layers import DecoderLayer, HeadNorm
from chameleon_core.training import Objective, TrainingOptions, build_optimizer
from chameleon_core.training.packing import Batch

# Where Linux's tcp_info has the number of bytes that the other side has received.
BYTES_ACKED = 120
STEP = "measured step"
"""What the profiler calls it."""


def main() -> None:
    """Run the cases as one rank."""
    cases_file, rank, ranks, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    # What torch says of its own parts doesn't concern the figures.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # A store in a file, so that all sockets are those of gloo.
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    results = []
    for case in json.loads(Path(cases_file).read_text(encoding="utf-8")):
        mine = run_case(case, folder)
        every: list[Any] = [None] * ranks
        dist.all_gather_object(every, mine)
        results.append({key: [each[key] for each in every] for key in mine})
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    # Threads of gloo may still hold Python objects: one that lets go of them while the interpreter ends is killed
    # within C++, and the process with it.
    os._exit(0)


def run_case(case: dict[str, Any], folder: Path) -> dict[str, float]:
    """Return the bytes that this rank sends in a step, and the peak of its allocations."""
    mesh = init_device_mesh("cpu", (case["data"], case["tensor"]), mesh_dim_names=("data", "tensor"))
    measured = {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step = prepare(case, mesh)
        step()
        dist.barrier()
        before = bytes_sent()
        with torch.profiler.record_function(STEP):
            step()
        dist.barrier()
        measured["sent"] = bytes_sent() - before
        del step
    trace = folder / f"trace-{dist.get_rank()}.json"
    profile.export_chrome_trace(str(trace))
    measured["memory"] = peak_memory(trace)
    return measured


def prepare(case: dict[str, Any], mesh: DeviceMesh) -> Callable[[], None]:
    """Return a function that runs one step of training."""
    torch.manual_seed(0)
    config = ChameleonConfig(**case["config"], max_position_embeddings=case["length"])
    model = ChameleonForConditionalGeneration(config).train()
    options = TrainingOptions(steps=2, warmup_steps=0, dropout=0.0, gradient_checkpointing=case["recomputed"] > 0)
    objective: Any = Objective(model, options)
    dtype = torch.bfloat16 if case["product_bytes"] == 2 else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if case["tensor"] > 1:
        objective = TensorParallel(model, mesh["tensor"], sequence=case["sequence"])
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh["data"], mp_policy=policy)
    fully_shard(objective, mesh=mesh["data"], mp_policy=policy)
    optimizer = build_optimizer(model, options)
    ids_BT = torch.randint(0, config.vocab_size, (case["rows"], case["length"] + 1))
    inputs_BT, targets_BT = ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()
    batch = Batch(inputs_BT, targets_BT, None, None)

    def step() -> None:
        for _ in range(case["passes"]):
            with loss_parallel() if case["tensor"] > 1 else contextlib.nullcontext():
                loss = objective(batch)
                (loss if case["tensor"] > 1 else loss.total).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class TensorParallel(nn.Module):
    """A model divided among the ranks of a group, and its mean loss over all targets."""

    def __init__(self, model: ChameleonForConditionalGeneration, mesh: DeviceMesh, *, sequence: bool) -> None:
        super().__init__()
        self.model = model
        self.sequence = sequence
        self.mesh = mesh
        between: Any = Shard(1) if sequence else Replicate()
        for layer in model.model.layers:
            assert isinstance(layer, DecoderLayer)
            divide_layer(layer, mesh, between, sequence=sequence)
        parallelize_module(
            model.model, mesh, {"embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=between)}
        )
        if sequence:
            parallelize_module(model.model, mesh, {"norm": SequenceParallel()})
        head = ColwiseParallel(input_layouts=between, output_layouts=Shard(-1), use_local_output=False)
        parallelize_module(model, mesh, {"lm_head": head})

    def forward(self, batch: Batch) -> Tensor:
        transformer: Any = self.model.model
        hidden_BTE = transformer.embed_tokens(batch.input_ids)
        # Rotary embedding and mask are those of whole rows.
        whole_BTE = hidden_BTE.new_zeros(()).expand(*batch.input_ids.shape, hidden_BTE.shape[-1])
        context = transformer._context(whole_BTE, None, None, None, None, False)
        hidden_BTE = transformer._run(hidden_BTE, context, None)
        logits_BTV = self.model.lm_head(transformer.norm(hidden_BTE))
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.targets.flatten())


def divide_layer(layer: DecoderLayer, mesh: DeviceMesh, between: Any, *, sequence: bool) -> None:
    """Divide a layer's heads and feed-forward among the ranks, and with ``sequence`` the positions of its norms."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
        assert isinstance(norm, HeadNorm)
        for name, parameter in list(norm.named_parameters()):
            setattr(norm, name, nn.Parameter(parameter.detach().chunk(ranks)[rank].clone()))
    whole = Replicate()
    plan: dict[str, Any] = {
        "self_attn": PrepareModuleInput(input_layouts=(between, None), desired_input_layouts=(whole, None)),
        "mlp": PrepareModuleInput(input_layouts=(between,), desired_input_layouts=(whole,)),
        **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
        **{f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")},
        "self_attn.o_proj": RowwiseParallel(output_layouts=between),
        "mlp.down_proj": RowwiseParallel(output_layouts=between),
    }
    if sequence:
        norms = ("input_layernorm", "post_attention_layernorm")
        plan |= {name: SequenceParallel(use_local_output=True) for name in norms}
    parallelize_module(layer, mesh, plan)


def bytes_sent() -> int:
    """Return the bytes that this process has sent on its TCP sockets and that were received."""
    total = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as each:
                information = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
        except OSError:
            continue  # closed meanwhile, or not of TCP
        total += struct.unpack_from("=Q", information, BYTES_ACKED)[0]
    return total


def peak_memory(trace: Path) -> int:
    """Return the most bytes that were allocated at once in the measured step.

    What gloo copies within an operation isn't counted. It is freed by threads that the profiler doesn't see.
    """
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    (marker,) = (each for each in events if each.get("name") == STEP and each["ph"] == "X")
    inside = [each for each in events if each.get("name", "").startswith("c10d::") and each["ph"] == "X"]
    spans = [(each["ts"], each["ts"] + each["dur"]) for each in inside]
    live: dict[int, int] = {}
    allocated = most = 0
    for each in sorted((each for each in events if each.get("name") == "[memory]"), key=lambda each: each["ts"]):
        address, count, time = each["args"]["Addr"], each["args"]["Bytes"], each["ts"]
        if time > marker["ts"] + marker["dur"]:
            break
        allocated -= live.pop(address, 0)
        if count > 0 and not any(begin <= time <= end for begin, end in spans):
            live[address] = count
            allocated += count
        if time >= marker["ts"]:
            most = max(most, allocated)
    return most


if __name__ == "__main__":
    main()
