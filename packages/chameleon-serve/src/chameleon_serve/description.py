"""What the model is and what the server takes, for ``/v1/models`` and the page."""

from __future__ import annotations

import time
from typing import Any

from chameleon_core import Chameleon, ChameleonCoreError, __version__

from .images import size_name
from .options import ServeOptions
from .refusals import always_refused


def described(chameleon: Chameleon, options: ServeOptions) -> dict[str, Any]:
    """Return the entry of the model in ``/v1/models``; the field ``chameleon`` is the toolkit's own."""
    layout, config = chameleon.layout, chameleon.model.config
    draws = can_draw(chameleon)
    modalities = ["text", *(["image", "interleaved"] if draws else []), *layout.segment_grammars]
    sizes = [
        {
            "size": size_name(layout, grid),
            "pixels": list(layout.pictures.pixels(grid)),
            "grid": [grid.height, grid.width],
            "tokens": layout.pictures.most_ids(grid),
        }
        for grid in layout.pictures.grids
    ]
    return {
        "id": options.model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "chameleon",
        "chameleon": {
            "version": __version__,
            "engine": options.engine,
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "num_codes": layout.num_codes,
            "modalities": modalities,
            "reads_pictures": draws or can_read(chameleon),
            "draws_pictures": draws,
            "sizes": sizes,
            "templates": ["chat", "completion"],
            "options": _plain_options(chameleon),
            "refused_options": always_refused(options.engine),
            "limits": {
                "body_bytes": options.max_body_bytes,
                "pictures": options.max_pictures,
                "pixels": options.max_pixels,
                "max_new_tokens": min(options.max_new_tokens or config.context_length, config.context_length),
                "rows": options.max_rows,
                "rows_per_request": options.max_rows_per_request,
                "queue": options.max_waiting,
                "seconds": options.max_seconds,
            },
        },
    }


def can_draw(chameleon: Chameleon) -> bool:
    """Return whether the model's image tokenizer is there, and can draw."""
    try:
        chameleon.image_tokenizer.decode(_no_codes(chameleon))
    except (ChameleonCoreError, ImportError, ValueError):
        return False
    return True


def can_read(chameleon: Chameleon) -> bool:
    """Return whether there is an image tokenizer."""
    try:
        return chameleon.image_tokenizer is not None
    except (ChameleonCoreError, ImportError, ValueError):
        return False


def _no_codes(chameleon: Chameleon) -> Any:
    import torch

    return torch.empty(0, chameleon.layout.tokens_per_image, dtype=torch.int64)


def _plain_options(chameleon: Chameleon) -> dict[str, Any]:
    """Return the model's own options as plain JSON."""
    options = chameleon.model.generation_options
    values = {name: getattr(options, name) for name in type(options).__struct_fields__ if name != "extras"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
