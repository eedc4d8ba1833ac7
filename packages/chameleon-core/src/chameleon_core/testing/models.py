"""Tiny vocabularies, configurations and models, and hypothesis strategies over them.

Shapes: B batch, T length of the longest row, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ..config import ChameleonConfig
from ..layout import BEGIN_IMAGE, BOS, END_IMAGE, EOS, PAD, PLACEHOLDERS, SEPARATOR
from ..model import ChameleonForConditionalGeneration

M = TypeVar("M", bound=nn.Module)

# 4 × 4 pixels at stride 2: four codes per picture.
TINY_VQ_CONFIG = {"resolution": 4, "channel_multiplier": [1, 1]}


def code_name(code: int) -> str:
    """Return the vocabulary's name of a picture code: ``code_name(257) == "IMGIMGCFHZ"``."""
    return "IMGIMG" + str(code).translate(str.maketrans("0123456789", "ABCDEFGHIJ")) + "Z"


def make_vocabulary(
    *, num_codes: int = 16, size: int = 64, seed: int | None = 0, more_specials: Sequence[str] = ()
) -> dict[str, int]:
    """Return a vocabulary, name → id, of ``size`` ids: the specials, ``num_codes`` picture codes, and words.

    ``more_specials`` are names of further special tokens, such as "<reserved08799>", which come after the words.
    ``seed`` shuffles the codes among their ids, so that no code works only because they are in order; None keeps the
    order. Raises ``ValueError`` where ``size`` leaves no room for a word.
    """
    codes = [code_name(code) for code in range(num_codes)]
    if seed is not None:
        random.Random(seed).shuffle(codes)
    names = [BOS, PAD, EOS, *codes, END_IMAGE, BEGIN_IMAGE, SEPARATOR, PLACEHOLDERS[0]]
    if len(names) >= size:
        raise ValueError(f"{num_codes} codes and the specials are {len(names)} names; size must be larger, got {size}.")
    names += [f"word{index}" for index in range(size - len(names))] + list(more_specials)
    return {name: token_id for token_id, name in enumerate(names)}


def make_config(**changes: Any) -> ChameleonConfig:
    """Return a configuration that runs in milliseconds: two layers, 32 wide, 64 ids, pictures of four codes.

    ``changes`` are fields of ``ChameleonConfig``.
    """
    tiny: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "vq_config": TINY_VQ_CONFIG,
        "vocabulary_map": make_vocabulary(),
    }
    return ChameleonConfig(**{**tiny, **changes})


def make_model(
    config: ChameleonConfig | None = None, *, seed: int = 0, attn_implementation: str = "sdpa"
) -> ChameleonForConditionalGeneration:
    """Return a model in eval mode with weights from ``randomize``."""
    model = ChameleonForConditionalGeneration(config or make_config(), attn_implementation=attn_implementation)
    return randomize(model, seed=seed).eval()


@torch.no_grad()
def make_scripted_model(following: Mapping[int, int], *, seed: int = 0) -> ChameleonForConditionalGeneration:
    """Return a tiny model whose likeliest id of text after ``id`` is ``following[id]``, whatever came before.

    A test can thus decide which row of a batch begins a picture when. The codes of pictures depend on the context.
    """
    model = make_model(make_config(hidden_size=64), seed=seed)
    # Each id has a dimension of its own, which the layers change little and the output layer reads.
    model.model.embed_tokens.weight.copy_(8 * torch.eye(64))
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(0.1)
    model.lm_head.weight[model.layout.id_to_code_V < 0] = 0
    for token_id, next_id in following.items():
        model.lm_head.weight[next_id, token_id] = 10
    return model


@torch.no_grad()
def randomize(module: M, *, seed: int = 0) -> M:
    """Randomize all parameters in place, norms and biases too, with matrices that keep the scale of their input.

    Initial weights hide mistakes: norms of ones and biases of zeros do nothing, and matrices as small as those of a new
    model give almost equal logits for all ids. Returns ``module``.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if parameter.dim() == 1 or "norm" in name:
            parameter.add_(noise, alpha=0.2)
        else:
            parameter.copy_(2 * noise / parameter[0].numel() ** 0.5)
    return module


def pad_rows(rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "left") -> tuple[Tensor, Tensor]:
    """Return ``input_ids_BT`` and ``attention_mask_BT``, int64, of rows of different lengths; padding is id 0."""
    width = max(map(len, rows))
    input_ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
    attention_mask_BT = torch.zeros_like(input_ids_BT)
    for place, row in enumerate(rows):
        real = slice(width - len(row), None) if side == "left" else slice(len(row))
        input_ids_BT[place, real] = torch.tensor(row, dtype=torch.int64)
        attention_mask_BT[place, real] = 1
    return input_ids_BT, attention_mask_BT


def configs() -> st.SearchStrategy[ChameleonConfig]:
    """Return a strategy of tiny configurations: grouped heads, swin_norm, biases, tied embeddings, RoPE scaling."""
    return st.builds(
        make_config,
        num_key_value_heads=st.sampled_from([4, 2, 1]),
        swin_norm=st.booleans(),
        attention_bias=st.booleans(),
        mlp_bias=st.booleans(),
        tie_word_embeddings=st.booleans(),
        rope_scaling=st.sampled_from([None, {"type": "linear", "factor": 2.0}, {"type": "dynamic", "factor": 2.0}]),
    )


def text_ids(config: ChameleonConfig) -> st.SearchStrategy[int]:
    """Return a strategy of ids of text: words, neither specials nor codes."""
    assert config.vocabulary_map is not None
    return st.sampled_from([id_ for name, id_ in config.vocabulary_map.items() if name.startswith("word")])


def batches(config: ChameleonConfig, *, max_rows: int = 4, max_length: int = 12) -> st.SearchStrategy[list[list[int]]]:
    """Return a strategy of batches: rows of text ids of different lengths ≥ 1."""
    row = st.lists(text_ids(config), min_size=1, max_size=max_length)
    return st.lists(row, min_size=1, max_size=max_rows)
