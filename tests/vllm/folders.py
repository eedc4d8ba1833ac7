"""Folders of random models: each variant of the transformer, and pictures of several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chameleon_core import Chameleon, ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.testing import randomize
from chameleon_text import ChameleonProcessor
from chameleon_text.testing import make_tokenizer
from chameleon_vq.testing import make_image_tokenizer

SMALL = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2}


def save_variant(folder: Path, **changes: Any) -> None:
    """Write a random model with the words and the image tokenizer of the embedded one."""
    emoji = Chameleon.from_pretrained("emoji")
    model = ChameleonForConditionalGeneration(emoji.model.config.replace(**{**SMALL, **changes}))
    Chameleon(randomize(model).eval(), emoji.processor, emoji.image_tokenizer).save_pretrained(folder)


def save_lumina(folder: Path) -> None:
    """Write a random model with Lumina's grammar: pictures of up to 8×8 codes, in units of two codes."""
    tokenizer = make_tokenizer(more_specials=tuple(reserved(8799 + number) for number in range(6)))
    image_tokenizer = make_image_tokenizer()
    config = ChameleonConfig(
        **SMALL,
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        vocabulary_map=dict(tokenizer.token_ids),
        vq_config=image_tokenizer.config_dict(),
        picture_grammar="lumina",
        swin_norm=True,
    )
    model = randomize(ChameleonForConditionalGeneration(config)).eval()
    processor = ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer, picture_format=model.layout.pictures)
    Chameleon(model, processor).save_pretrained(folder)
