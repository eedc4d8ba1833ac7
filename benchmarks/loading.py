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
import time
from pathlib import Path

import torch
from _memory import watching_memory
from safetensors.torch import save_file

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.testing import make_vocabulary

INDEX = "model.safetensors.index.json"
TINY_IMAGE_TOKENIZER = {
    "resolution": 4,
    "channel_multiplier": [1, 1],
    "base_channels": 32,  # the fewest that the group norms of transformers allow
    "num_res_blocks": 1,
    "embed_dim": 8,
    "latent_channels": 8,
    "num_embeddings": 16,
}


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
            write(folder, wide_config(arguments.layers))
        measure(folder, arguments.tokens, check_finite=not arguments.no_check)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)


def wide_config(layers: int, *, width: int = 4096, vocabulary_size: int = 65536) -> ChameleonConfig:
    """Return the configuration of the 7B model with fewer layers, and narrower ones with the same heads.

    Its image tokenizer is a tiny one, which these weights don't hold, so that nobody's time goes into making it.
    """
    vocabulary = make_vocabulary(num_codes=vocabulary_size // 8, size=vocabulary_size)
    specials = {f"{name}_token_id": vocabulary[token] for name, token in (("bos", "<s>"), ("eos", "</s>"))}
    return ChameleonConfig(
        vocab_size=len(vocabulary),
        vocabulary_map=vocabulary,
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=256 * round(width * 43 / 16 / 256),
        num_attention_heads=width // 128,
        num_key_value_heads=width // 128,
        pad_token_id=vocabulary["<pad>"],
        vq_config=TINY_IMAGE_TOKENIZER,
        **specials,
    )


def random_weight(name: str, shape: torch.Size) -> torch.Tensor:
    """Return a weight in bfloat16: random, or ones and zeros for the norms."""
    tensor = torch.empty(shape, dtype=torch.bfloat16)
    if name.endswith(("norm.weight", "norm.bias")):
        return tensor.fill_(float(name.endswith("weight")))
    # Of standard deviation 0.02; drawing uniform numbers is faster.
    return tensor.uniform_(-0.02 * 3**0.5, 0.02 * 3**0.5)


def write(folder: Path, config: ChameleonConfig) -> None:
    """Write random weights of a model's shape."""
    with torch.device("meta"):
        shapes = ChameleonForConditionalGeneration(config).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    needed = 2 * sum(tensor.numel() for tensor in shapes.values())
    if free < needed + 2**30:
        raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed.")
    config_dict = {**config.to_dict(), "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config_dict), encoding="utf-8")
    shards: dict[str, list[str]] = {}
    for name in shapes:
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    torch.manual_seed(0)
    for file, names in shards.items():
        tensors = {name: random_weight(name, shapes[name].shape) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def measure(folder: Path, tokens: int, *, check_finite: bool) -> None:
    """Print what loading and answering took."""
    with watching_memory() as rise:
        began = time.perf_counter()
        model = ChameleonForConditionalGeneration.from_pretrained(
            folder, dtype=torch.bfloat16, check_finite=check_finite
        )
        seconds = time.perf_counter() - began
        print(f"loaded {model.num_parameters() / 1e9:.2f} billion parameters in {seconds:.2f} s; ", end="")
        print(f"anonymous memory rose by {rise[0] / 1e6:.0f} MB")
        began = time.perf_counter()
        words = model.layout.text_allowed_V.nonzero()[:8, 0][None]
        ids_BT = model.generate(words, max_new_tokens=tokens)
        seconds = time.perf_counter() - began
        print(f"answered with {ids_BT.shape[1] - 8} ids in {seconds:.2f} s; ", end="")
        print(f"anonymous memory rose by {rise[0] / 1e6:.0f} MB in all")


if __name__ == "__main__":
    main()
