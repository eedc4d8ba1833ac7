"""The family of published models, as data: what their configurations have beyond the fields of this package's.

``docs/family.md`` says which publisher's folder is which.
"""

from __future__ import annotations

import re
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

_SIDE = re.compile(r"mGPT-\d+B-(512|768|1024)(?!\d)")
"""The side of a picture in pixels, in the names of Lumina-mGPT."""
_STRIDE = 16
"""Pixels of a code, in each direction."""


def grammar_of(data: Mapping[str, Any], source: str) -> str | dict[str, Any] | None:
    """Return the picture grammar that the architecture of a configuration's file implies, None where it is the own.

    The largest picture is the one that the published name says (``Lumina-mGPT-7B-768``), in the file or in its path.
    """
    names = data.get("architectures")
    found = [
        grammar
        for name in (names if isinstance(names, list | tuple) else ())
        for beginning, grammar in _GRAMMARS.items()
        if str(name).startswith(beginning)
    ]
    if not found:
        return None
    side = _SIDE.search(str(data.get("_name_or_path"))) or _SIDE.search(source)
    return found[0] if side is None else {"name": found[0], "max_codes": (int(side[1]) // _STRIDE) ** 2}
