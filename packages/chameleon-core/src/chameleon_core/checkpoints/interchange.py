"""What ``transformers`` reads of a folder without an error and gets wrong, so that nobody finds out by the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ChameleonConfig
from ..formats import IMAGE_PREFIX

_GROUPS_THERE = 32
"""The groups of every norm of an image tokenizer in ``transformers``, which has no field for them."""


def interchange_limit(config: ChameleonConfig, tensors: Mapping[str, Any]) -> str | None:
    """Return what ``transformers`` gets wrong with the folder of a config and its tensors, a sentence; None if nothing.

    The image tokenizer's own configuration has the same limit (``interchange_limit`` of chameleon-vq), which core
    doesn't import for it.
    """
    groups = (config.vq_config or {}).get("norm_num_groups", _GROUPS_THERE)
    if groups == _GROUPS_THERE or not any(name.startswith(IMAGE_PREFIX) for name in tensors):
        return None
    return (
        f"the image tokenizer has norm_num_groups {groups}, which transformers has no field for: it loads the folder "
        f"without an error, takes {_GROUPS_THERE} groups, and computes other codes of pictures; text is the same. Read "
        f"pictures with this toolkit alone, or use an image tokenizer with norm_num_groups={_GROUPS_THERE}."
    )
