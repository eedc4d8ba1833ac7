"""The family of published models, as data: what their configurations have beyond the fields of this package's.

``docs/family.md`` says which publisher's folder is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODEL_TYPES = ("chameleon", "anole")
"""What files of the family call the model; "anole" is a proposal to ``transformers`` with the same architecture."""
IMAGE_TOKENIZER_TYPE = "chameleon_vqgan"
"""What a folder of the image tokenizer alone says in place of it."""
OF_FINETUNES = frozenset(
    {
        "action_dim",
        "dropout",
        "mask_image_logits",
        "multimodal_generation_mode",
        "qk_layernorm",
        "time_horizon",
        "z_loss_weight",
    }
)
"""Entries of finetunes that describe their training or heads of their own, and that change nothing in the model."""
UNPERMUTED = "qk_layernorm"
"""The entry of the early fork whose weights rotate adjacent pairs, as Meta's do."""
_GRAMMARS = {"ChameleonXLLMX": "lumina"}
"""Beginnings of the names of architectures, and the picture grammar that their pictures are written by."""


def grammar_of(data: Mapping[str, Any]) -> str | None:
    """Return the picture grammar that the architecture of a configuration's file implies, None where it is the own."""
    names = data.get("architectures")
    found = [
        grammar
        for name in (names if isinstance(names, list | tuple) else ())
        for beginning, grammar in _GRAMMARS.items()
        if str(name).startswith(beginning)
    ]
    return found[0] if found else None
