"""The choice of the next ids of row machines, from logits over the whole vocabulary.

Shapes: R rows, V vocabulary, A ids that may come next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ChameleonCoreError, GenerationError
from .allowed import AllowedIds, AllowedTable
from .choosing import choose_among
from .finite import find_not_finite
from .row_machine import RowMachine
from .scoring import forbid_beginnings


class RowChooser:
    """Chooses the next ids of rows as the engine does, for an engine of another kind that computes the logits.

    One serves the rows of one vocabulary of ``vocab_size`` ids, whose logits are on ``device``.
    """

    def __init__(self, vocab_size: int, *, device: torch.device | str = "cpu") -> None:
        self.vocab_size = vocab_size
        self._table = AllowedTable(vocab_size, lambda ids_A, _: AllowedIds(ids_A.to(device)))

    @torch.inference_mode()
    def choose(self, machines: Sequence[RowMachine], logits_RV: Tensor) -> list[int | ChameleonCoreError]:
        """Return the next id of each row, or what went wrong there; the machines stay as they are.

        ``logits_RV`` [R, V] are of any floating-point type: raw, or where a row has branches the weighted sum. Raises
        ``GenerationError`` where their shape doesn't fit, or a row has ended.
        """
        if logits_RV.shape != (len(machines), self.vocab_size):
            raise GenerationError(
                f"logits must be [{len(machines)}, {self.vocab_size}], rows and vocabulary; got "
                f"{list(logits_RV.shape)}."
            )
        groups: dict[AllowedIds, list[int]] = defaultdict(list)
        for number, machine in enumerate(machines):
            if machine.finish_reason is not None:
                raise GenerationError(f"row {machine.row.index} has ended ({machine.finish_reason}); choose no more.")
            groups[self._table.of(machine.row)].append(number)
        chosen: dict[int, int | ChameleonCoreError] = {}
        for allowed, numbers in groups.items():
            points = [machines[number].point() for number in numbers]
            logits_RA = logits_RV[numbers].index_select(1, allowed.ids_A).float()
            errors = find_not_finite(logits_RA, [point.row for point in points], None)
            forbid_beginnings(logits_RA, allowed, points)
            chosen.update(zip(numbers, choose_among(allowed, points, logits_RA, errors), strict=True))
        return [chosen[number] for number in range(len(machines))]
