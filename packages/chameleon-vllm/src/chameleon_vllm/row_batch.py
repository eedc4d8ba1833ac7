"""The rows in the batch that vLLM runs: their next ids, from the logits of the whole batch.

vLLM samples from logits by rules of its own. Here the toolkit's own machines choose, noise included, and leave vLLM one
id of each row to take. What is chosen is thus what ``chameleon_core`` would choose.

Nothing here raises, whatever a request holds, because vLLM's engine would end with all requests: a request that fails
is ended by a signal, and so are the members of a group that aren't in step.

Shapes: R rows of the batch, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonCoreError, GenerationError, TokenLayout
from chameleon_core.generation import FORBIDDEN, RowChooser, RowMachine, TextDecoder

from .row_parts import RowPart, Signals, machine_of

_LOG = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Slot:
    """A request in the batch."""

    part: RowPart | None
    """None where it can't be read."""
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    """What it has written so far; vLLM appends to the same list."""
    machine: RowMachine | None = None
    taken: int = 0
    """How many of ``output_ids`` the machine knows."""
    error: str = ""


@dataclass(eq=False)
class RowBatch:
    """The requests of the batch that are parts of rows, by their place in it."""

    config: ChameleonConfig
    layout: TokenLayout
    tokenizer: TextDecoder | None = None
    device: torch.device | str = "cpu"
    _slots: dict[int, _Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.signals = Signals.of(self.layout)
        self._chooser = RowChooser(self.config.vocab_size, device=self.device)

    def add(self, place: int, parameter: object, prompt_ids: Sequence[int] | None, output_ids: Sequence[int]) -> None:
        """Add a request, in the place of the one that was there; without a ``parameter`` it is left to vLLM."""
        self._slots.pop(place, None)
        if parameter is None:
            return
        slot = self._slots[place] = _Slot(None, prompt_ids or (), output_ids)
        try:
            slot.part = RowPart.decode(parameter)
            if not slot.part.member:
                ids = [*slot.prompt_ids, *output_ids]
                slot.machine = machine_of(slot.part, ids, self.config, self.layout, self.tokenizer)
                slot.taken = len(output_ids)
        except Exception as error:
            self._fail(slot, error)

    def remove(self, place: int) -> None:
        """Remove the request of a place, if there is one."""
        self._slots.pop(place, None)

    def move(self, source: int, target: int, *, swaps: bool) -> None:
        """Move a request to another place, and with ``swaps`` the one from there to its own."""
        moved, other = self._slots.pop(source, None), self._slots.pop(target, None)
        if moved is not None:
            self._slots[target] = moved
        if swaps and other is not None:
            self._slots[source] = other

    @torch.inference_mode()
    def apply(self, logits_RV: Tensor) -> Tensor:
        """Leave, in place, only the next id of each row that isn't left to vLLM, and return the logits."""
        next_ids: dict[int, int] = {}
        choosing: list[list[int]] = []
        for places in self._groups():
            found = self._without_choice([self._slots[place] for place in places])
            if found is None:
                choosing.append(places)
            else:
                next_ids.update(dict.fromkeys(places, found))
        next_ids.update(self._chosen(choosing, logits_RV))
        if next_ids:
            places, ids = list(next_ids), list(next_ids.values())
            logits_RV[places] = FORBIDDEN
            logits_RV[places, ids] = 0.0
        return logits_RV

    def _groups(self) -> list[list[int]]:
        """Return the places of the requests of each row, in the order of members."""
        groups: dict[object, list[int]] = defaultdict(list)
        for place, slot in self._slots.items():
            groups[place if slot.part is None or not slot.part.group else slot.part.group].append(place)
        return [sorted(places, key=self._member) for places in groups.values()]

    def _member(self, place: int) -> int:
        part = self._slots[place].part
        return 0 if part is None else part.member

    def _without_choice(self, slots: Sequence[_Slot]) -> int | None:
        """Return the id that comes next without a choice in all members of a group, a signal or one that must come."""
        first = slots[0]
        for slot in slots:
            if slot.machine is not None and not slot.error:
                try:
                    _catch_up(slot)
                except Exception as error:
                    self._fail(slot, error)
        if any(slot.error for slot in slots):
            return self.signals.failed
        assert first.part is not None
        members = [slot.part.member for slot in slots if slot.part is not None]
        if members != list(range(len(first.part.weights))) or len({len(slot.output_ids) for slot in slots}) > 1:
            return self.signals.split
        assert first.machine is not None
        behind = len(first.prompt_ids) + len(first.output_ids) - len(first.machine.row.prompt)
        if behind < len(first.machine.new_ids):
            return first.machine.new_ids[behind]
        if first.machine.finish_reason is not None or needs_group(first.machine) != bool(first.part.group):
            return self.signals.ended
        return None

    def _chosen(self, groups: Sequence[list[int]], logits_RV: Tensor) -> dict[int, int]:
        """Return the next id at each place of groups that choose."""
        if not groups:
            return {}
        try:
            guided_RV = torch.stack([self._guided(places, logits_RV) for places in groups])
            machines = [self._slots[places[0]].machine for places in groups]
            chosen = self._chooser.choose([machine for machine in machines if machine is not None], guided_RV)
        except Exception as error:
            for places in groups:
                self._fail(self._slots[places[0]], error)
            chosen = [self.signals.failed] * len(groups)
        found: dict[int, int] = {}
        for places, token_id in zip(groups, chosen, strict=True):
            if isinstance(token_id, ChameleonCoreError):
                self._fail(self._slots[places[0]], token_id)
                token_id = self.signals.failed
            found.update(dict.fromkeys(places, token_id))
        return found

    def _guided(self, places: Sequence[int], logits_RV: Tensor) -> Tensor:
        """Return the weighted sum of a group's logits, float32 [V]."""
        part = self._slots[places[0]].part
        assert part is not None
        if len(places) == 1:
            return logits_RV[places[0]].float()
        weights = torch.tensor(part.weights, device=logits_RV.device)
        return (weights[:, None] * logits_RV[list(places)].float()).sum(dim=0)

    def _fail(self, slot: _Slot, error: Exception) -> None:
        slot.error = str(error) or type(error).__name__
        level = logging.WARNING if isinstance(error, ChameleonCoreError) else logging.ERROR
        _LOG.log(level, "a request is ended: %s", slot.error, exc_info=level == logging.ERROR)


def needs_group(machine: RowMachine) -> bool:
    """Return whether the row's next choice is guided by other contexts than its own ids."""
    options = machine.options
    if options.guidance_scale == 1 and not (
        machine.row.lacks_codes and (options.guidance_text, options.guidance_image) != (1, 1)
    ):
        return False
    return bool(machine.branches())


def _catch_up(slot: _Slot) -> None:
    """Let the machine accept what the request has written since. Raises ``GenerationError`` for what it can't have."""
    machine = slot.machine
    assert machine is not None
    place = len(slot.prompt_ids) - len(machine.row.prompt) + slot.taken
    for token_id in slot.output_ids[slot.taken :]:
        if place < len(machine.new_ids):
            if machine.new_ids[place] != token_id:
                raise GenerationError(f"id {token_id} is written where only {machine.new_ids[place]} may come.")
        else:
            problem = machine.row.why_not_next(token_id)
            if problem is not None:
                raise GenerationError(f"id {token_id} was written, which {problem}.")
            machine.accept(token_id)
        place += 1
        slot.taken += 1
