"""Convert a checkpoint of the 7B model's width between Meta's layout and that of transformers: peak memory and time.

The weights are random bfloat16, written once into a folder of its own in Meta's layout, and removed afterwards. Each
conversion runs in a process of its own, whose anonymous memory (``RssAnon`` of Linux, the interpreter and torch among
it) is read every millisecond. Pages of mapped files don't count: the system drops them whenever it needs memory.

    python benchmarks/conversion.py                       # 4 layers on 1, 2 and 4 ranks: 2.7 GB, and three times that
    python benchmarks/conversion.py --layers 1 --ranks 2  # 1.5 GB
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.testing import make_vocabulary
from chameleon_core.testing.meta_release import Release, write_release

MOST_TO_HF = 0.7e9
"""Bytes of anonymous memory that a conversion to the layout of transformers may take."""
MOST_TO_META = 1.2
"""What a conversion to Meta's layout may take, in sizes of the largest rank's file."""

CHILD = """
import sys, threading, time
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

peak, ended = [0], threading.Event()

def watch():
    while not ended.wait(0.001):
        peak[0] = max(peak[0], anonymous())

import torch
from chameleon_core.checkpoints.conversion import convert_checkpoint

torch.set_num_threads(1)
before = anonymous()
source, target, checkpoint_format = sys.argv[1:]
watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
convert_checkpoint(source, target, checkpoint_format=checkpoint_format)
seconds = time.perf_counter() - began
ended.set()
watcher.join()
print(max(peak[0], anonymous()), before, seconds)
"""


def main() -> None:
    """Write, convert there and back, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="layers (default: 4; the 7B model has 32)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of ranks (default: 1 2 4)")
    parser.add_argument("--folder", type=Path, help="where the files are written for the time being")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    within = True
    for ranks in arguments.ranks:
        folder = Path(tempfile.mkdtemp(prefix="chameleon-conversion-", dir=arguments.folder))
        try:
            within &= measure(folder, arguments.layers, ranks)
        finally:
            shutil.rmtree(folder)
    raise SystemExit(0 if within else 1)


def measure(folder: Path, layers: int, ranks: int) -> bool:
    """Print what conversions there and back took; return whether both kept within their bounds."""
    write(folder / "meta", layers, ranks)
    rank = max(path.stat().st_size for path in (folder / "meta").glob("consolidated*.pth"))
    size = sum(tensor.num_bytes for tensor in read_checkpoint(folder / "meta").tensors.values())
    print(f"{layers} layers of the 7B model's width, {size / 1e9:.2f} GB on {ranks} ranks:")
    to_hf = converted(folder / "meta", folder / "hf", "hf", MOST_TO_HF)
    shutil.rmtree(folder / "meta")
    return converted(folder / "hf", folder / "back", "meta", MOST_TO_META * rank) and to_hf


def converted(source: Path, target: Path, checkpoint_format: str, most: float) -> bool:
    """Convert a folder in a process of its own, print what it took, and return whether that is less than ``most``."""
    run = [sys.executable, "-c", CHILD, str(source), str(target), checkpoint_format]
    peak, before, seconds = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    print(
        f"  {source.name} to {checkpoint_format}: peak {int(peak) / 1e6:.0f} MB of anonymous memory, of which "
        f"{int(before) / 1e6:.0f} MB were there before; at most {most / 1e6:.0f} MB; {float(seconds):.0f} s"
    )
    return int(peak) < most


def write(folder: Path, layers: int, ranks: int) -> None:
    """Write random weights of the 7B model's width in Meta's layout, a rank after the other."""
    vocabulary = make_vocabulary(num_codes=8192, size=65536)
    release = Release(
        ranks=ranks, dim=4096, n_heads=32, n_kv_heads=32, n_layers=layers, vocab_size=65536, multiple_of=256
    )
    needed = 3 * 2 * (2 * 65536 * 4096 + layers * (4 * 4096 + 3 * release.width) * 4096)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if free < needed + 2**30:
        raise SystemExit(f"{folder.parent} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed.")
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []}
    write_release(folder, release, [], tokenizer=tokenizer)
    heads, width, head_dim = 32 // ranks * release.head_dim, release.width // ranks, release.head_dim
    shapes = {"tok_embeddings.weight": (65536, 4096 // ranks), "output.weight": (65536 // ranks, 4096)}
    shapes["norm.weight"] = (4096,)  # type: ignore[assignment]
    for layer in range(layers):
        place = f"layers.{layer}."
        shapes |= {f"{place}attention.{name}.weight": (heads, 4096) for name in ("wq", "wk", "wv")}
        shapes |= {f"{place}feed_forward.{name}.weight": (width, 4096) for name in ("w1", "w3")}
        shapes |= {f"{place}attention.wo.weight": (4096, heads), f"{place}feed_forward.w2.weight": (4096, width)}
        shapes |= {f"{place}{name}.weight": (4096,) for name in ("attention_norm", "ffn_norm")}  # type: ignore[misc]
        norms = [f"{place}attention.{of}_normalization.{part}" for of in "qk" for part in ("weight", "bias")]
        shapes |= dict.fromkeys(norms, (head_dim,))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    copies = {}
    for rank in range(ranks):
        state = {}
        for name, shape in shapes.items():
            state[name] = torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.1, 0.1, generator=generator)
            if shape == (4096,):  # a norm of the hidden states, the same in each
                state[name] = copies.setdefault(name, state[name])
        torch.save(state, folder / ("consolidated.pth" if ranks == 1 else f"consolidated.{rank:02d}.pth"))


if __name__ == "__main__":
    main()
