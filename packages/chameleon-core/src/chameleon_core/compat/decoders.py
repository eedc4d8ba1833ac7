"""Models as the engine runs them for arguments of ``generate``: prompts as embeddings, no cache, a cache passed in.

Shapes: B batch, T prompt length, S length so far, M flattened ids of all lanes, E hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import GenerationError


class OtherDecoder:
    """A model whose attributes are another one's."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class EmbeddedPrompts(OtherDecoder):
    """A model that is fed embeddings in the place of the prompts, once, in the order of the rows."""

    def __init__(self, model: Any, embeddings: Sequence[Tensor]) -> None:
        super().__init__(model)
        self._embeddings: Sequence[Tensor] = embeddings

    def feed_lanes(self, feeds: Sequence[tuple[Any, Sequence[int]]], cache: Any) -> Tensor:
        """Run the model, the first time on embeddings of the first ids of each lane."""
        embeddings, self._embeddings = self._embeddings, ()
        if not embeddings:
            return cast(Tensor, self._model.feed_lanes(feeds, cache))
        embed = self._model.get_input_embeddings()
        parts = []
        for (_, ids), prompt_TE in zip(feeds, embeddings, strict=True):
            rest = torch.tensor(ids[len(prompt_TE) :], dtype=torch.int64, device=prompt_TE.device)
            parts += [prompt_TE.to(embed.weight.dtype), embed(rest)]
        return cast(Tensor, self._model.model.feed_lanes(feeds, cache, inputs_embeds=torch.cat(parts)))


@dataclass(slots=True, eq=False)
class IdLane:
    """A lane that stores its ids."""

    ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many ids it has."""
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """As many as it has, for it takes no room."""
        return len(self.ids)


class IdCache:
    """Lanes that store ids, so that each step computes all their keys and values again."""

    positions = 0

    def capacity_for(self, length: int) -> int:
        """Return the room that a lane takes."""
        return 0

    def add(self, expected: int) -> IdLane:
        """Return a new lane."""
        return IdLane()

    def free(self, lane: IdLane) -> None:
        """Forget a lane."""
        lane.ids = []

    def fork(self, lane: IdLane) -> IdLane:
        """Return a copy of a lane, which grows apart from it."""
        return IdLane(list(lane.ids))

    def truncate(self, lane: IdLane, length: int) -> None:
        """Forget the ids from ``length`` on."""
        del lane.ids[length:]

    def copy_out(self, lane: IdLane, start: int, end: int) -> list[int]:
        """Return some ids of a lane."""
        return lane.ids[start:end]

    def copy_in(self, lane: IdLane, positions: Sequence[int]) -> None:
        """Append ids to a lane."""
        lane.ids += positions


class Uncached(OtherDecoder):
    """A model that keeps no keys and values, and so computes each step from the first id on."""

    def new_lane_cache(self, name: str) -> IdCache:
        """Return a cache of ids."""
        return IdCache()

    def feed_lanes(self, feeds: Sequence[tuple[IdLane, Sequence[int]]], cache: IdCache) -> Tensor:
        """Run the model on all ids of each lane, and return the hidden states of the new ones."""
        parts = []
        for lane, ids in feeds:
            lane.ids += ids
            ids_1S = torch.tensor([lane.ids], device=self._model.device)
            parts.append(self._model.model(ids_1S, use_cache=False).last_hidden_state[0, -len(ids) :])
        return torch.cat(parts)


class PassedCache:
    """A cache of keys and values that the caller has, as the beginnings of the prompts that an engine knows."""

    def __init__(self, cache: Any, prompts: Sequence[Sequence[int]], lanes: Any) -> None:
        self.cache = cache
        self.lanes = lanes
        self._rows = {tuple(prompt): row for row, prompt in enumerate(prompts)}
        if cache.batch_size != len(prompts):
            raise GenerationError(
                f"past_key_values has {cache.batch_size} rows and there are {len(prompts)} prompts; "
                "make one with model.new_cache(batch_size)."
            )
        if cache.visible_LS is not None:
            raise GenerationError(
                "past_key_values has rows with padding between their positions, which generation can't continue; "
                "compute it again from the ids without padding."
            )
        for row, prompt in enumerate(prompts):
            known = cache.length - cache.starts[row]
            if known >= len(prompt):
                raise GenerationError(
                    f"past_key_values has {known} positions of row {row}, whose prompt has {len(prompt)} ids; pass all "
                    "ids of the text so far, and at least one that isn't in the cache."
                )

    def restore(self, lane: Any, ids: Sequence[int]) -> int:
        """Append what is known of a row to its lane; return how many positions that is."""
        row = self._rows.get(tuple(ids))
        known = 0 if row is None else self.cache.length - self.cache.starts[row]
        if known:
            assert row is not None
            self.lanes.copy_in(lane, [self._stored(layer, row) for layer in range(self.lanes.num_layers)])
        return known

    def begin(self, ids: Sequence[int]) -> None:
        """Note nothing: rows don't share beginnings."""

    def finish(self, key: object) -> None:
        """Note nothing."""

    def is_being_computed(self, ids: Sequence[int]) -> bool:
        """Return that no row waits for another's beginning."""
        return False

    def _stored(self, layer: int, row: int) -> tuple[Tensor, ...]:
        """Return a layer's positions of a row as the lanes store them."""
        key_1KSD, value_1KSD = (
            states[row : row + 1, :, self.cache.starts[row] :] for states in self.cache.layer(layer)
        )
        pairs = zip(self.lanes.encode(key_1KSD), self.lanes.encode(value_1KSD), strict=True)
        return tuple(torch.stack((key[0], value[0])) for key, value in pairs)
