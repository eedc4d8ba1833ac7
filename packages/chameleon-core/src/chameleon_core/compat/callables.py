"""Logits processors and stopping criteria as ``transformers`` calls them: ``(input_ids, scores)`` of the whole batch.

Shapes: B batch, T prompt length, S length so far, R rows of a call, A ids that may be chosen, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, GenerationError
from ..generation import FORBIDDEN, RowView
from ..generation.processors.row_ids import RowIds

Processor = Callable[[Tensor, Tensor], Tensor]
"""What changes logits: called with the ids [B, S] and float32 scores [B, V], it returns scores."""
Criterion = Callable[[Tensor, Any], Any]
"""What ends rows: called with the ids [B, S] and the scores so far, it returns a bool, or one for each row."""


class WrittenSoFar(NamedTuple):
    """The state of a row for a processor of the whole batch."""

    row: int
    """The index of the row."""
    prompt_length: int
    """How many ids its prompt has, without padding."""
    ids: RowIds
    """Its ids."""


class BatchProcessors:
    """Runs processors that are called with the whole batch, as one processor here.

    Rows that have ended are in the calls too, filled with padding and with scores of 0. Ids that may not come next have
    the score -inf; a processor can't bring them back. What a processor raises is in ``error``, as it was.
    """

    def __init__(self, processors: Sequence[Processor], prompts_BT: Tensor, pad_id: int, vocab_size: int) -> None:
        self.processors = processors
        self.prompts_BT = prompts_BT
        self.pad_id = pad_id
        self.vocab_size = vocab_size
        self.error: Exception | None = None
        self._latest: dict[int, list[int]] = {}

    def start(self, row: RowView, /) -> WrittenSoFar:
        """Return the state of a row at the end of its prompt."""
        return WrittenSoFar(row.index, len(row.prompt), RowIds(row.prompt))

    def advance(self, state: WrittenSoFar, token_id: int, /) -> WrittenSoFar:
        """Return the state after one more id."""
        return state._replace(ids=state.ids.plus(token_id))

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[WrittenSoFar], /) -> Tensor:
        """Return the logits after all processors."""
        changed_RA = logits_RA.clone()
        new_ids = [state.ids.ids_T[state.prompt_length :].tolist() for state in states]
        for length in sorted(set(map(len, new_ids))):
            places = [place for place, ids in enumerate(new_ids) if len(ids) == length]
            rows = [states[place].row for place in places]
            if len(set(rows)) < len(rows):  # the hypotheses of a search, of which a row has several
                changed_RA[places] = self._searched(logits_RA[places], ids_A, rows, [new_ids[each] for each in places])
                continue
            self._latest.update(zip(rows, (new_ids[place] for place in places), strict=True))
            scores_BV = logits_RA.new_full((len(self.prompts_BT), self.vocab_size), FORBIDDEN)
            scores_BV[[row for row in range(len(scores_BV)) if row not in rows]] = 0
            scores_RV = logits_RA.new_full((len(rows), self.vocab_size), FORBIDDEN)
            scores_RV[:, ids_A] = logits_RA[places]
            scores_BV[rows] = scores_RV
            changed_RA[places] = self._called(self._batch(length), scores_BV)[rows][:, ids_A]
        return changed_RA

    def _searched(self, logits_RA: Tensor, ids_A: Tensor, rows: Sequence[int], new_ids: Sequence[list[int]]) -> Tensor:
        """Return the logits of hypotheses, which are a batch of their own, after all processors."""
        scores_RV = logits_RA.new_full((len(rows), self.vocab_size), FORBIDDEN)
        scores_RV[:, ids_A] = logits_RA
        written = torch.tensor(new_ids, dtype=torch.int64, device=self.prompts_BT.device).reshape(len(rows), -1)
        return self._called(torch.cat((self.prompts_BT[list(rows)], written), dim=1), scores_RV, rows)[:, ids_A]

    def _batch(self, length: int) -> Tensor:
        """Return the ids of all rows, int64 [B, T + length]."""
        rows = [self._latest.get(row, [])[:length] for row in range(len(self.prompts_BT))]
        padded = [ids + [self.pad_id] * (length - len(ids)) for ids in rows]
        new = torch.tensor(padded, dtype=torch.int64, device=self.prompts_BT.device).reshape(len(rows), length)
        return torch.cat((self.prompts_BT, new), dim=1)

    def _called(self, input_ids_BS: Tensor, scores_BV: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        for processor in self.processors:
            try:
                own = {"rows": rows} if isinstance(processor, AllowedIds) else {}
                changed_BV = processor(input_ids_BS, scores_BV, **own)
                if not isinstance(changed_BV, Tensor) or changed_BV.shape != scores_BV.shape:
                    raise GenerationError(
                        f"the logits processor {_name(processor)} returned {_shown(changed_BV)}; expected scores "
                        f"{list(scores_BV.shape)}."
                    )
            except Exception as error:
                self.error = error
                raise
            scores_BV = changed_BV.float()
        return scores_BV


class AllowedIds:
    """Leaves the ids that ``prefix_allowed_tokens_fn(row, ids)`` returns for each row of the batch."""

    def __init__(self, allowed: Callable[[int, Tensor], Iterable[int]]) -> None:
        self.allowed = allowed

    def __call__(self, input_ids_BS: Tensor, scores_BV: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Return the scores with all other ids forbidden. Raises ``GenerationError`` where a row may have none.

        ``rows`` are the prompts' indices where they aren't those of the batch.
        """
        mask_BV = torch.full_like(scores_BV, FORBIDDEN)
        for place, ids_S in enumerate(input_ids_BS):
            row = place if rows is None else rows[place]
            allowed = list(self.allowed(row, ids_S))
            if not allowed:
                raise GenerationError(f"prefix_allowed_tokens_fn allows no id for row {row}; return at least one.")
            mask_BV[place, allowed] = 0
        return scores_BV + mask_BV


class ScoreRecorder:
    """Keeps the logits that each id was chosen from, and changes nothing.

    ``normalized`` keeps them as logarithms of probabilities.
    """

    def __init__(self, vocab_size: int, *, normalized: bool = False) -> None:
        self.vocab_size = vocab_size
        self.normalized = normalized
        self._scores: dict[tuple[int, int], Tensor] = {}

    def start(self, row: RowView, /) -> tuple[int, int]:
        """Return the index of the row and the number of its new ids, 0."""
        return row.index, 0

    def advance(self, state: tuple[int, int], token_id: int, /) -> tuple[int, int]:
        """Return the state after one more id."""
        return state[0], state[1] + 1

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, int]], /) -> Tensor:
        """Return the logits as they are."""
        kept_RA = logits_RA.log_softmax(dim=-1) if self.normalized else logits_RA
        scores_RV = kept_RA.new_full((len(states), self.vocab_size), FORBIDDEN)
        scores_RV[:, ids_A] = kept_RA
        self._scores.update(zip(states, scores_RV, strict=True))
        return logits_RA

    def scores(self, written: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, ...]:
        """Return the scores [B, V] of each step; what wasn't chosen, as an end that fills a row, has the score 0."""
        steps = []
        for step in range(max(map(len, written), default=0)):
            rows = []
            for row, ids in enumerate(written):
                found_V = self._scores.get((row, step)) if step < len(ids) else None
                if found_V is None:
                    found_V = torch.full((self.vocab_size,), FORBIDDEN, device=device)
                    found_V[ids[step] if step < len(ids) else pad_id] = 0
                rows.append(found_V)
            steps.append(torch.stack(rows))
        return tuple(steps)


class Criteria:
    """Ends rows where a criterion says so."""

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        self.criteria = criteria

    def ended(self, input_ids_BS: Tensor, scores: Any) -> list[bool]:
        """Return for each row whether a criterion ends it."""
        found = [False] * len(input_ids_BS)
        for criterion in self.criteria:
            answer = criterion(input_ids_BS, scores)
            answers = answer.reshape(-1).tolist() if isinstance(answer, Tensor) else answer
            if not isinstance(answers, list | tuple):
                answers = [answers]
            if len(answers) not in (1, len(found)):
                raise GenerationError(
                    f"the stopping criterion {_name(criterion)} returned {_shown(answer)}; expected a bool, or one for "
                    f"each of the {len(found)} rows."
                )
            found = [before or bool(each) for before, each in zip(found, itertools.cycle(answers), strict=False)]
        return found


def listed_callables(name: str, given: object) -> list[Any]:
    """Return the callables of an argument. Raises ``ArgumentError`` where it isn't a list of them."""
    if given is None:
        return []
    if not isinstance(given, Iterable):
        raise ArgumentError(f"{name} must be a list of callables; got {given!r:.80}. Put it in a list.")
    found = list(given)
    for each in found:
        if not callable(each):
            raise ArgumentError(f"{name} holds {each!r:.80}; expected callables of (input_ids, scores).")
    return found


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shown(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"
