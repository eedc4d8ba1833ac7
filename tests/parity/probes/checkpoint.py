"""The folder that both sides read: a tiny model and its processor, saved by transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_core.testing import randomize
from chameleon_text.testing import make_tokenizer

NUM_CODES = 16
PICTURE_IDS = 4
"""Ids of one picture: two rows of two codes."""
SIDE = 8
"""Pixels on a side of a picture."""


def save_checkpoint(folder: Path) -> None:
    """Write the model, the processor and their configurations with the methods of transformers."""
    tokenizer = make_tokenizer(NUM_CODES)
    tokenizer.save(folder / "words.json")
    peer_tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "words.json"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        sep_token="<reserved08706>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"},
    )
    (folder / "words.json").unlink()
    image_processor = ChameleonImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = transformers.ChameleonProcessor(image_processor, peer_tokenizer, image_seq_length=PICTURE_IDS)
    config = transformers.ChameleonConfig(**fields(dict(tokenizer.token_ids)))
    torch.manual_seed(0)
    model = randomize(transformers.ChameleonForConditionalGeneration(config), seed=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        model.model.vqmodel.save_pretrained(folder / "vqvae")


def fields(token_ids: dict[str, int]) -> dict[str, Any]:
    """The configuration of a model that runs in milliseconds."""
    return {
        "vocab_size": len(token_ids),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": token_ids["<s>"],
        "pad_token_id": token_ids["<pad>"],
        "eos_token_id": token_ids["</s>"],
        "vocabulary_map": token_ids,
        # The smallest that the peer's group norms of 32 groups allow.
        "vq_config": {
            "resolution": SIDE,
            "channel_multiplier": [1, 1, 1],
            "base_channels": 32,
            "num_res_blocks": 1,
            "embed_dim": 8,
            "latent_channels": 8,
            "num_embeddings": NUM_CODES,
        },
    }
