"""What logits processors are tested with: rows as a model would write them, and logits.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..generation import FORBIDDEN, GenerationOptions, LogitsProcessor, RowView
from ..generation.processors import Kind
from ..layout import TokenLayout
from .models import make_config

LAYOUT = TokenLayout.from_config(make_config())
"""64 ids: 16 codes, four of them a picture, the specials, and 41 ids of text."""
STEPS = 6
"""The most ids that a row has after its prompt, where it has no picture."""

_TEXT_IDS: list[int] = LAYOUT.text_allowed_V.nonzero()[:, 0].tolist()
_PIECES = dict(zip(_TEXT_IDS, (*string.ascii_lowercase, *string.digits, " ", ".", ",", '"', "the"), strict=True))


class SmallTokenizer:
    """Decodes the text ids of ``LAYOUT``: letters, digits, a space, ``.``, ``,``, ``"`` and ``the``."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some ids; every other id is ``<id>``."""
        return "".join(_PIECES.get(each, f"<{each}>") for each in ids)


@dataclasses.dataclass(frozen=True)
class WrittenRow:
    """A row: what a processor knows of it at its start, and the ids after its prompt."""

    view: RowView
    ids: tuple[int, ...]

    def state(self, processor: LogitsProcessor) -> Any:
        """Return the processor's state after all ids."""
        state = processor.start(self.view)
        for token_id in self.ids:
            state = processor.advance(state, token_id)
        return state

    def with_prompt(self, prompt: Sequence[int]) -> WrittenRow:
        """Return the row with another prompt."""
        return dataclasses.replace(self, view=dataclasses.replace(self.view, prompt=tuple(prompt)))


@dataclasses.dataclass(frozen=True)
class ProcessorProblem:
    """Rows of one kind, the ids that may come next, and their logits, none of which is forbidden."""

    rows: tuple[WrittenRow, ...]
    ids_A: Tensor
    logits_RA: Tensor

    def states(self, processor: LogitsProcessor) -> list[Any]:
        """Return the processor's state of each row."""
        return [row.state(processor) for row in self.rows]

    def process(self, processor: LogitsProcessor) -> Tensor:
        """Return the processed logits."""
        return _processed(processor, self.logits_RA, self.ids_A, self.states(processor))


def candidates(kind: Kind) -> Tensor:
    """Return the ids that a choice of this kind is made from, int64 [A]."""
    if kind == "image":
        return LAYOUT.code_to_id_Z.clone()
    return torch.tensor(sorted([*_TEXT_IDS, LAYOUT.eos_id, LAYOUT.begin_image_id]))


def make_view(kind: Kind, prompt: Sequence[int], tokenizer: Any) -> RowView:
    """Return what a processor knows of a row of ``LAYOUT`` when it starts."""
    return RowView(
        prompt=tuple(prompt),
        options=GenerationOptions(modality="interleaved", do_sample=True),
        layout=LAYOUT,
        tokenizer=tokenizer,
        kind=kind,
        stop_ids=frozenset({LAYOUT.eos_id}),
    )


def make_problem(processor: LogitsProcessor, kind: Kind, seed: int, *, device: str, tokenizer: Any) -> ProcessorProblem:
    """Return up to four rows that the processor let be written, and logits for what comes next."""
    generator = torch.Generator().manual_seed(seed)
    ids_A = candidates(kind)

    def number(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    rows = []
    for _ in range(1 + number(4)):
        # Few different ids, so that a row repeats itself.
        prompt = [LAYOUT.bos_id, *(_TEXT_IDS[number(6)] for _ in range(number(5)))]
        prompt += [LAYOUT.begin_image_id] if kind == "image" else []
        view = make_view(kind, prompt, tokenizer)
        rows.append(WrittenRow(view, _written(processor, view, ids_A.to(device), number(STEPS), generator)))
    scale = (0.1, 1.0, 5.0)[number(3)]
    logits_RA = scale * torch.randn(len(rows), len(ids_A) + 1, generator=generator)
    # Rows that don't follow each other in memory, as where a processor before it wrote to a column more.
    return ProcessorProblem(tuple(rows), ids_A.to(device), logits_RA.to(device)[:, :-1])


def _written(
    processor: LogitsProcessor, view: RowView, ids_A: Tensor, steps: int, generator: torch.Generator
) -> tuple[int, ...]:
    """Return ids that the processor allows one after the other, up to the row's end."""
    state, written = processor.start(view), []
    for _ in range(steps):
        logits_RA = torch.randn(1, len(ids_A), generator=generator).to(ids_A.device)
        allowed = (_processed(processor, logits_RA, ids_A, [state])[0] > FORBIDDEN).nonzero()[:, 0].tolist()
        if not allowed:
            break
        token_id = int(ids_A[allowed[int(torch.randint(len(allowed), (), generator=generator))]])
        if token_id in view.stop_ids:
            break
        new_ids = [token_id]
        if token_id == LAYOUT.begin_image_id:
            new_ids += [*LAYOUT.code_to_id_Z[: LAYOUT.tokens_per_image].tolist(), LAYOUT.end_image_id]
        for each in new_ids:
            state = processor.advance(state, each)
        written += new_ids
    return tuple(written)


def _processed(processor: LogitsProcessor, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any]) -> Tensor:
    result = processor.process(logits_RA, ids_A, states)
    assert isinstance(result, Tensor), f"process returned a {type(result).__name__}, expected a tensor of logits"
    return result
