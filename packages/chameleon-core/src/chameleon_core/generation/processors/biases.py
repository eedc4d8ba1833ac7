"""The processors that change how likely some ids are: a bias after certain others, and an end that becomes likelier.

Shapes: R rows, A ids that may be chosen, X any number of ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...errors import ConfigError
from .checks import checked_number, checked_sequences
from .contract import RowView
from .places import places, with_spare_column


class SequenceBias:
    """Adds a bias to the last id of each of some sequences after the others of it.

    ``biases`` are pairs of a sequence of ids and a finite number; above 0, the sequence becomes likelier.
    """

    def __init__(self, biases: Iterable[tuple[Sequence[int], float]]) -> None:
        pairs = [tuple(each) for each in biases]
        for pair in pairs:
            if len(pair) != 2:
                raise ConfigError(
                    f"biases of the logits processor 'sequence-bias' must be pairs of ids and a number; "
                    f"got {pair!r:.80}."
                )
        sequences = checked_sequences("sequence-bias", "biases", [ids for ids, _ in pairs])
        numbers = [checked_number("sequence-bias", "biases", bias, "-1e30…1e30") for _, bias in pairs]
        self.biases = dict(zip(sequences, numbers, strict=True))
        self._longest = max(map(len, sequences), default=1) - 1

    def start(self, row: RowView, /) -> tuple[int, ...]:
        """Return the ids that a sequence may have begun with."""
        return self._last(row.prompt)

    def advance(self, state: tuple[int, ...], token_id: int, /) -> tuple[int, ...]:
        """Return the last ids after one more."""
        return self._last((*state, token_id)) if self._longest else state

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, ...]], /) -> Tensor:
        """Return the logits with the biases."""
        found = [
            (row, sequence[-1], bias)
            for row, ids in enumerate(states)
            for sequence, bias in self.biases.items()
            if ids[len(ids) - len(sequence) + 1 :] == sequence[:-1]
        ]
        if not found:
            return logits_RA
        rows, ids, numbers = zip(*found, strict=True)
        rows_X, ids_X = torch.tensor([rows, ids], device=ids_A.device)
        changed_RA = with_spare_column(logits_RA)
        biases_X = torch.tensor(numbers, dtype=changed_RA.dtype, device=changed_RA.device)
        changed_RA.index_put_((rows_X, places(ids_A, ids_X)), biases_X, accumulate=True)
        return changed_RA[:, :-1]

    def _last(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids[max(len(ids) - self._longest, 0) :]


class LikelierEnd:
    """Makes the ids that end a row likelier, the more so the longer it is.

    After ``start`` new ids, ≥ 0, the logit of such an id grows by its size times ``factor`` ** n − 1, where n counts
    the ids beyond ``start``; ``factor`` is 0.001…1,000.
    """

    def __init__(self, start: int, factor: float) -> None:
        self.start_at = int(checked_number("likelier-end", "start", start, "≥ 0", kind=int))
        self.factor = checked_number("likelier-end", "factor", factor, "0.001…1000")

    def start(self, row: RowView, /) -> tuple[int, tuple[int, ...]]:
        """Return the number of new ids, 0, and the ids that end the row."""
        return 0, tuple(row.stop_ids)

    def advance(self, state: tuple[int, tuple[int, ...]], token_id: int, /) -> tuple[int, tuple[int, ...]]:
        """Return the state with one id more."""
        return state[0] + 1, state[1]

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, tuple[int, ...]]], /) -> Tensor:
        """Return the logits with likelier ends."""
        late = [(row, count - self.start_at, ends) for row, (count, ends) in enumerate(states) if count > self.start_at]
        if not any(ends for *_, ends in late):
            return logits_RA
        rows_X, ids_X = torch.tensor(
            [[row for row, _, ends in late for _ in ends], [each for *_, ends in late for each in ends]],
            device=ids_A.device,
        )
        gains_X = logits_RA.new_tensor([self._gain(beyond) for _, beyond, ends in late for _ in ends])
        columns_X = places(ids_A, ids_X)
        changed_RA = with_spare_column(logits_RA)
        logits_X = changed_RA[rows_X, columns_X]
        larger_X = (logits_X + logits_X.abs() * gains_X).clamp(max=torch.finfo(logits_X.dtype).max)
        # What is forbidden stays so.
        changed_RA[rows_X, columns_X] = torch.where(logits_X.isfinite(), larger_X, logits_X)
        return changed_RA[:, :-1]

    def _gain(self, beyond: int) -> float:
        try:
            return min(self.factor**beyond - 1, 1e30)
        except OverflowError:
            return 1e30
