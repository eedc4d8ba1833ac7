"""Caches of ``transformers`` in the place of the one here: ``past_key_values=DynamicCache()``.

And what their users ask the one here for: ``CacheQuestions``.

Shapes: L lanes, T new positions, S slots filled so far, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import InputError, UnknownAttributeError

INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "activate_past_recording": "crop() forgets the last positions in any case.",
        "early_initialization": "make it with model.new_cache(batch_size, capacity=...).",
        "from_legacy_cache": "feed the ids to the model; it returns the cache.",
        "get_max_cache_shape": "use get_max_length().",
        "get_usable_length": "use get_seq_length().",
        "key_cache": "use layers[index].keys.",
        "offload": "keys and values stay on the device of the model.",
        "offloading": "keys and values stay on the device of the model.",
        "prefetch": "keys and values stay on the device of the model.",
        "seen_tokens": "use get_seq_length().",
        "to_legacy_cache": "use tuple(cache), a pair of keys and values for each layer.",
        "value_cache": "use layers[index].values.",
    }
)
"""For attributes that caches of releases of ``transformers`` have and the one here doesn't, what to do."""


class CacheQuestions:
    """What users of ``transformers`` ask a cache that grows."""

    __slots__ = ()

    length: int

    if TYPE_CHECKING:

        def __len__(self) -> int:
            """Return the number of layers."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions so far, padding included; it is the same for all layers."""
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return −1: it grows without a limit."""
        return -1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of the next id, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the length of a mask for ``query_length`` new positions, and where it begins, which is 0."""
        return self.length + query_length, 0

    @property
    def is_compileable(self) -> bool:
        """False: its shapes change with each position; ``compile_decoding`` compiles steps over a cache "static"."""
        return False

    @property
    def is_croppable(self) -> bool:
        """True: ``crop`` leaves it as it was before the positions that it forgets."""
        return True

    @property
    def is_initialized(self) -> bool:
        """Whether a pass has stored keys and values."""
        return self.length > 0

    @property
    def is_sliding(self) -> list[bool]:
        """False for each layer: none forgets positions outside a window."""
        return [False] * len(self)

    def __getattr__(self, name: str) -> Any:
        if name in INSTEAD:
            raise UnknownAttributeError(f"{type(self).__name__} has no attribute {name!r}: {INSTEAD[name]}")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")


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
