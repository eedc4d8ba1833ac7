"""Packing: documents that share a row don't know of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, ContextLengthError
from chameleon_core.testing import make_model
from chameleon_core.training import (
    Batch,
    DatasetError,
    LossSums,
    Objective,
    TokenDocument,
    TrainingOptions,
    collate,
)
from chameleon_core.training.packing import BATCH_COST, collate_batches

OPTIONS = TrainingOptions(steps=1, warmup_steps=0, dropout=0.0, z_loss=0.01)
# The model is in float64 but for its norms, which compute in float32: a few of its roundings, 2⁻²⁴ relative each.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


@st.composite
def documents(draw: st.DrawFn) -> list[TokenDocument]:
    made = []
    for index in range(draw(st.integers(1, 6))):
        ids = draw(st.lists(st.integers(0, 63), min_size=2, max_size=12))
        trained = draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        mask = None if trained is None else np.array(trained, dtype=np.bool_)
        made.append(TokenDocument(str(index), np.array(ids), mask))
    return made


def measure(batches: list[Batch], model: ChameleonForConditionalGeneration) -> tuple[LossSums, list[Tensor]]:
    """The sums over all batches, and the gradients of their total."""
    objective = Objective(model, OPTIONS)
    sums = LossSums.add([objective(batch) for batch in batches])
    return sums.detach(), list(torch.autograd.grad(sums.total, list(model.parameters()), allow_unused=True))


@given(documents=documents(), extra=st.integers(0, 20))
@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_a_batch_gives_the_loss_and_gradients_of_its_documents_alone(
    rows: Literal["packed", "padded"], documents: list[TokenDocument], extra: int
) -> None:
    model = make_model().double()
    length = max(map(len, documents)) - 1 + extra
    together, gradients = measure([collate(documents, length, rows=rows)], model)
    alone, expected = measure([collate([document], length) for document in documents], model)
    torch.testing.assert_close(together, alone, **ROUNDING)
    torch.testing.assert_close(gradients, expected, **ROUNDING)


@given(documents=documents(), extra=st.integers(0, 20), batch_cost=st.sampled_from([0, 3, BATCH_COST]))
@pytest.mark.parametrize("rows", ["packed", "padded", "auto"])
def test_several_batches_give_the_loss_of_their_documents_alone(
    rows: Literal["packed", "padded", "auto"], documents: list[TokenDocument], extra: int, batch_cost: int
) -> None:
    model = make_model().double()
    length = max(map(len, documents)) - 1 + extra
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chameleon_core.training.packing.BATCH_COST", batch_cost)
        batches = collate_batches(documents, length, rows=rows)
    together, gradients = measure(batches, model)
    alone, expected = measure([collate([document], length) for document in documents], model)
    torch.testing.assert_close(together, alone, **ROUNDING)
    torch.testing.assert_close(gradients, expected, **ROUNDING)
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] <= length


def text(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(generator.normal(5.5, 1.0, count)).astype(int)


def pictures(generator: np.random.Generator, count: int) -> np.ndarray:
    """One picture or two of 1,026 ids, with a sentence."""
    return 1026 * generator.integers(1, 3, count) + np.exp(generator.normal(3.5, 1.0, count)).astype(int)


def both(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.where(generator.random(count) < 0.5, text(generator, count), pictures(generator, count))


def uniform(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.integers(2, 4097, count)


@pytest.mark.parametrize("lengths", [text, pictures, both, uniform], ids=lambda lengths: lengths.__name__)
@pytest.mark.parametrize("count", [64, 128])
def test_a_step_of_usual_documents_wastes_less_than_two_percent(
    lengths: Callable[[np.random.Generator, int], np.ndarray], count: int
) -> None:
    for seed in range(5):
        drawn = lengths(np.random.default_rng(seed), count).clip(2, 4096)
        documents = [TokenDocument(str(index), np.zeros(length + 1, dtype=int)) for index, length in enumerate(drawn)]
        batches = collate_batches(documents, 4096, rows="packed")
        assert sum(batch.input_ids.numel() for batch in batches) < sum(drawn) / 0.98


def test_documents_whose_padding_costs_little_need_no_mask() -> None:
    like = [TokenDocument.of(str(length), [0] * length) for length in range(900, 1000)]
    assert all(batch.document_ids is None for batch in collate_batches(like, 4096))
    unlike = [TokenDocument.of(str(length), [0] * length) for length in (17, 41, 101, 261, 701, 1801)]
    assert [batch.document_ids is None for batch in collate_batches(unlike, 4096)] == [False]


def test_a_packed_row_by_hand() -> None:
    said = TokenDocument.of("said", [0, 5, 6, 7])
    answered = TokenDocument.with_answer("answered", [0, 8, 9, 2], separator_id=8)
    short = TokenDocument.of("short", [0, 3])
    batch = collate([said, short, answered], 6, rows="packed")
    assert batch.input_ids.tolist() == [[0, 5, 6, 0, 8, 9], [0, 0, 0, 0, 0, 0]]
    assert batch.targets.tolist() == [[5, 6, 7, -100, 9, 2], [3, -100, -100, -100, -100, -100]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 0, 0]]
    assert batch.document_ids is not None
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, 1], [0, -1, -1, -1, -1, -1]]
    assert batch.num_targets == 6


@given(documents=documents(), extra=st.integers(0, 20))
def test_packing_uses_each_document_once_and_no_row_too_long(documents: list[TokenDocument], extra: int) -> None:
    length = max(map(len, documents)) - 1 + extra
    batch = collate(documents, length, rows="packed")
    assert batch.document_ids is not None
    assert batch.input_ids.shape[1] <= length
    found = []
    for ids_T, numbers_T in zip(batch.input_ids, batch.document_ids, strict=True):
        found += [ids_T[numbers_T == number].tolist() for number in range(int(numbers_T.max()) + 1)]
    assert sorted(found) == sorted(document.ids[:-1].tolist() for document in documents)


def test_rows_of_like_lengths_are_padded_and_others_packed() -> None:
    like = [TokenDocument.of(str(length), [0] * length) for length in (8, 9, 10)]
    unlike = [TokenDocument.of(str(length), [0] * length) for length in (2, 3, 4, 30)]
    assert collate(like, 64).document_ids is None
    assert collate(unlike, 64).document_ids is not None


@pytest.mark.parametrize("rows", ["packed", "padded", "auto"])
def test_documents_that_dont_fit_are_refused(rows: str) -> None:
    with pytest.raises(ContextLengthError, match="document 'long' has 10 ids and a row has room for 9"):
        collate([TokenDocument.of("long", [0] * 10)], 8, rows=rows)
    with pytest.raises(DatasetError, match="document 'short' has 1 ids; expected at least 2"):
        collate([TokenDocument.of("short", [0])], 8, rows=rows)
    with pytest.raises(DatasetError, match="at least one document"):
        collate([], 8, rows=rows)
