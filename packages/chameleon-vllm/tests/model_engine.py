"""An engine of requests on a model of chameleon_core, with what vLLM's does: a batch with places, and its hiccups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.testing import pad_rows
from chameleon_vllm.admission import Limits
from chameleon_vllm.row_batch import RowBatch
from chameleon_vllm.row_parts import RowPart
from chameleon_vllm.runner import Output

ROOMY = Limits(max_requests=64, max_step_ids=10_000, max_positions=100_000, block_size=4)


@dataclass
class _Asked:
    ids: list[int]
    parameter: object
    max_ids: int
    stop_ids: Sequence[int]
    output: list[int] = field(default_factory=list)


class ModelEngine:
    """Runs requests in the order of arrival, ``max_requests`` at a time.

    ``skips`` says, by the number of a step and the name of a request, which requests a step leaves out, as a suspended
    one or one whose prompt is cut. ``calls`` counts what was added in all.
    """

    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        limits: Limits = ROOMY,
        *,
        skips: Callable[[int, str], bool] = lambda step, name: False,
    ) -> None:
        self.model, self.limits, self.skips = model, limits, skips
        self.batch = RowBatch(model.config, model.layout)
        self.requests: dict[str, _Asked] = {}
        self.places: list[str] = []
        self.steps = self.added = self.most = 0

    def add(self, name: str, ids: Sequence[int], part: RowPart, *, max_ids: int, stop_ids: Sequence[int]) -> None:
        self.add_raw(name, ids, part.encode(), max_ids=max_ids, stop_ids=stop_ids)

    def add_raw(
        self, name: str, ids: Sequence[int], parameter: object, *, max_ids: int, stop_ids: Sequence[int] = ()
    ) -> None:
        assert name not in self.requests
        self.requests[name] = _Asked(list(ids), parameter, max_ids, stop_ids)
        self.added += 1

    def abort(self, names: Sequence[str]) -> None:
        for name in names:
            self.requests.pop(name, None)

    @torch.inference_mode()
    def step(self) -> Mapping[str, Output]:
        self.steps += 1
        running = list(self.requests)[: self.limits.max_requests]
        wanted = [name for name in running if not self.skips(self.steps, name)]
        self.most = max(self.most, len(wanted))
        if not wanted:
            return {}
        self._place(wanted)
        rows = [self.requests[name] for name in self.places]
        input_ids_BT, mask_BT = pad_rows([each.ids + each.output for each in rows])
        logits_BV = self.model(input_ids_BT, attention_mask=mask_BT, logits_to_keep=1).logits[:, -1]
        chosen = self.batch.apply(logits_BV.clone()).argmax(dim=-1).tolist()
        found = {}
        for name, each, token_id in zip(list(self.places), rows, chosen, strict=True):
            each.output.append(token_id)
            is_finished = token_id in each.stop_ids or len(each.output) >= each.max_ids
            found[name] = Output((token_id,), is_finished)
            if is_finished:
                del self.requests[name]
        return found

    def _place(self, wanted: Sequence[str]) -> None:
        """Take out who left, close the gaps by moving the last, and append the new, as vLLM's batch does."""
        for place in reversed(range(len(self.places))):
            if self.places[place] not in wanted or self.places[place] not in self.requests:
                self.batch.remove(place)
                last = len(self.places) - 1
                if place != last:
                    self.batch.move(last, place, swaps=False)
                    self.places[place] = self.places[last]
                self.places.pop()
        for name in wanted:
            if name not in self.places:
                each = self.requests[name]
                self.batch.add(len(self.places), each.parameter, each.ids, each.output)
                self.places.append(name)
