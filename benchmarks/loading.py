"""Load a checkpoint with the shape of the 7B model in bfloat16 and answer a short prompt: time and memory.

The weights are random, written once into a folder of its own, a shard for each layer, and removed afterwards: 14 GB for
all 32 layers. Loading maps the files, so it takes nearly no anonymous memory, and 24 GB of memory are enough to answer.

    python benchmarks/loading.py --layers 4        # 2.7 GB
    python benchmarks/loading.py                   # all layers; --keep FOLDER keeps the files for another run
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.testing import make_vocabulary

INDEX = "model.safetensors.index.json"


def main() -> None:
    """Write, load, answer and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="layers (default: 32, the 7B model's)")
    parser.add_argument("--tokens", type=int, default=4, help="ids to write (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--keep", type=Path, help="folder of the checkpoint, which is kept, and used where it exists")
    parser.add_argument("--no-check", action="store_true", help="leave out the check for NaN, which reads all weights")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="chameleon-7b-"))
    try:
        if not (folder / INDEX).exists():
            write(folder, arguments.layers)
        measure(folder, arguments.tokens, check_finite=not arguments.no_check)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)


def write(folder: Path, layers: int) -> None:
    """Write random weights of the 7B model's shape; all layers have the same ones."""
    vocabulary = make_vocabulary(num_codes=8192, size=65536)
    specials = {f"{name}_token_id": vocabulary[token] for name, token in (("bos", "<s>"), ("eos", "</s>"))}
    config = ChameleonConfig(
        vocab_size=len(vocabulary),
        vocabulary_map=vocabulary,
        num_hidden_layers=layers,
        pad_token_id=vocabulary["<pad>"],
        **specials,
    )
    with torch.device("meta"):
        shapes = ChameleonForConditionalGeneration(config).state_dict()
    free = shutil.disk_usage(folder.parent).free
    needed = 2 * sum(tensor.numel() for tensor in shapes.values())
    if free < needed + 2**30:
        raise SystemExit(f"{folder.parent} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed.")
    folder.mkdir(parents=True, exist_ok=True)
    config_dict = {**config.to_dict(), "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config_dict), encoding="utf-8")
    shards: dict[str, list[str]] = {}
    for name in shapes:
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    torch.manual_seed(0)
    for file, names in shards.items():
        tensors = {name: torch.empty(shapes[name].shape, dtype=torch.bfloat16) for name in names}
        for name, tensor in tensors.items():
            if name.endswith(("norm.weight", "norm.bias")):
                tensor.fill_(float(name.endswith("weight")))
            else:
                tensor.normal_(std=0.02)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def measure(folder: Path, tokens: int, *, check_finite: bool) -> None:
    """Print what loading and answering took."""
    peak = [anonymous()]
    before = peak[0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.perf_counter()
        model = ChameleonForConditionalGeneration.from_pretrained(
            folder, dtype=torch.bfloat16, check_finite=check_finite
        )
        seconds = time.perf_counter() - began
        print(f"loaded {model.num_parameters() / 1e9:.2f} billion parameters in {seconds:.2f} s; ", end="")
        print(f"anonymous memory rose by {(peak[0] - before) / 1e6:.0f} MB")
        began = time.perf_counter()
        words = model.layout.text_allowed_V.nonzero()[:8, 0][None]
        ids_BT = model.generate(words, max_new_tokens=tokens)
        seconds = time.perf_counter() - began
        print(f"answered with {ids_BT.shape[1] - 8} ids in {seconds:.2f} s; ", end="")
        print(f"anonymous memory rose by {(peak[0] - before) / 1e6:.0f} MB in all")
    finally:
        ended.set()
        watcher.join()


def anonymous() -> int:
    """Return the bytes of this process's anonymous memory, by Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    main()
