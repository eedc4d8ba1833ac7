"""What chameleon-core reads of Meta's layout: parameters, weights of ranks, the tokenizer, the image tokenizer."""

from __future__ import annotations

import json
import warnings
from functools import cache, partial
from pathlib import Path

import torch

from chameleon_core import ChameleonCoreError
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.folder_parts import load_image_tokenizer, load_processor
from chameleon_core.formats import IMAGE_PREFIX, StoredTensor
from chameleon_core.formats.vqgan_files import write_vqgan
from chameleon_core.testing.meta_release import Release, make_ranks, write_release
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig

from ..engine import Files, Format
from ..mutations import mutate_bytes, mutate_folder, mutate_json, mutate_pickle
from .core import read_model
from .seeds import words, written

WORDS = words(
    """
    model dim n_layers n_heads n_kv_heads vocab_size multiple_of ffn_dim_multiplier norm_eps rope_theta swin_norm
    qk_normalization model_parallel_size max_position_embeddings
    """
)
IMAGE = {"base_channels": 32, "channel_multiplier": [1, 1], "resolution": 4, "num_res_blocks": 1, "latent_channels": 32}


@cache
def _files() -> Files:
    """A model of two ranks, with its tokenizer and its image tokenizer."""

    def write(folder: Path) -> None:
        tokenizer = make_tokenizer(16)
        release = Release(ranks=2, vocab_size=-(-len(tokenizer) // 2) * 2)
        data = json.loads(tokenizer.to_json())
        write_release(folder, release, make_ranks(release), tokenizer=data)
        sizes = {**IMAGE, "embed_dim": 32, "num_embeddings": 16}
        torch.manual_seed(0)
        network = ChameleonVQVAE(ChameleonVQVAEConfig(**sizes))
        tensors = {IMAGE_PREFIX + name: StoredTensor.of(each) for name, each in network.state_dict().items()}
        write_vqgan(folder, sizes, tensors)

    return written(write)


def _read_parts(folder: Path) -> None:
    warnings.simplefilter("ignore")
    load_image_tokenizer(folder, device="cpu")


def _read_words(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    checkpoint.processor_files["tokenizer.json"]()
    load_processor(folder)


meta = partial(Format, error=ChameleonCoreError)
LOAD = "ChameleonForConditionalGeneration.from_pretrained of Meta's folder"
FORMATS = (
    meta("meta-params", _files, mutate_json("params.json", WORDS), read_model, what=f"params.json: {LOAD}", share=0.5),
    meta(
        "meta-ranks",
        _files,
        mutate_json("consolidate_params.json", WORDS),
        read_model,
        what=f"consolidate_params.json: {LOAD}",
        share=0.2,
    ),
    meta(
        "meta-weights",
        _files,
        mutate_pickle("consolidated.01.pth"),
        read_model,
        what=f"consolidated.NN.pth: {LOAD}",
        share=0.5,
    ),
    meta(
        "meta-words",
        _files,
        mutate_json("text_tokenizer.json", words("model vocab added_tokens content id <image> <reserved08707>")),
        _read_words,
        what="text_tokenizer.json: load_processor",
        share=0.3,
    ),
    meta(
        "meta-yaml",
        _files,
        mutate_bytes("vqgan.yaml"),
        _read_parts,
        what="vqgan.yaml: load_image_tokenizer",
        share=0.5,
    ),
    meta(
        "meta-vqgan",
        _files,
        mutate_pickle("vqgan.ckpt"),
        _read_parts,
        what="vqgan.ckpt: load_image_tokenizer",
        share=0.3,
    ),
    meta("meta-folder", _files, mutate_folder(), read_model, what=f"files that aren't there: {LOAD}", share=0.05),
)
