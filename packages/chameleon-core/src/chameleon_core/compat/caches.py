"""Caches of ``transformers`` in the place of the one here: ``past_key_values=DynamicCache()``.

Shapes: L lanes, T new positions, S slots filled so far, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError


class ForeignCache:
    """A cache that grows, or one of a fixed length, as the layers here use one, for one forward pass.

    Those are ``DynamicCache`` and ``StaticCache``. It knows no padding, so that each pass needs the mask of all
    positions, as there. Raises ``InputError`` for an object without ``update`` and ``get_seq_length``.
    """

    def __init__(self, cache: Any, batch_size: int) -> None:
        if not callable(getattr(cache, "update", None)) or not callable(getattr(cache, "get_seq_length", None)):
            raise InputError(
                f"past_key_values is a {type(cache).__name__}; expected what an earlier call returned, "
                "model.new_cache(batch_size), or a DynamicCache."
            )
        self.cache = cache
        self.batch_size = batch_size
        self.length = int(cache.get_seq_length())
        self.capacity: int | None = _capacity(cache)
        self.starts: tuple[int, ...] = (0,) * batch_size
        self.visible_LS: Tensor | None = None

    def pad(self, starts: Sequence[int]) -> None:
        """Declare how many slots at the left of each row are padding."""
        self.starts = tuple(starts)

    def update(self, layer: int, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values and return all so far, ``key_LSKD, value_LSKD``."""
        end = self.length + key_LTKD.shape[1]
        if self.capacity is not None and end > self.capacity:
            raise InputError(
                f"past_key_values is a {type(self.cache).__name__} of {self.capacity} positions, too few for {end}. "
                "Make it longer: max_cache_len."
            )
        key_LKSD, value_LKSD = self.cache.update(key_LTKD.transpose(1, 2), value_LTKD.transpose(1, 2), layer)
        # A cache of a fixed length returns what isn't filled yet, too.
        return key_LKSD[:, :, :end].transpose(1, 2), value_LKSD[:, :, :end].transpose(1, 2)

    def advance(self, count: int) -> None:
        """Move the end by ``count`` positions, which the cache itself did when it stored them."""
        self.length += count


def _capacity(cache: Any) -> int | None:
    """Return the number of positions of a cache of a fixed length, None of one that grows."""
    limit = getattr(cache, "get_max_length", None) or getattr(cache, "get_max_cache_shape", None)
    length = limit() if getattr(cache, "is_compileable", False) and callable(limit) else None
    return length if isinstance(length, int) and length > 0 else None
