"""The output layer's fast layout: the same logits, of the weight as it is now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from chameleon_core.generation.repacked_head import MAX_ROWS, MIN_ELEMENTS, RepackedHead, RepackedRows
from chameleon_core.testing import make_config, make_model, make_vocabulary

WIDTH = 64
SIZE = MIN_ELEMENTS // WIDTH
PROMPT = torch.tensor([[40000, 40001]])
CONFIG = make_config(vocab_size=SIZE, hidden_size=WIDTH, vocabulary_map=make_vocabulary(size=SIZE), num_hidden_layers=1)


def layer(width: int = WIDTH, size: int = SIZE) -> nn.Linear:
    return nn.Linear(width, size, bias=False)


ROWS = torch.arange(1, SIZE, 3)


HIDDEN = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
# Sums of 64 products of about 1, in another order.
ROUNDING = {"rtol": 0.0, "atol": 1e-5}


def assert_repacked(head: nn.Linear, repacked: RepackedRows | None, rows_A: Tensor) -> None:
    assert repacked is not None
    torch.testing.assert_close(repacked.logits(HIDDEN), HIDDEN @ head.weight[rows_A].T, **ROUNDING)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_repacked_rows_give_the_products_of_the_rows(count: int, rows: int) -> None:
    weight_AE = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))
    logits_RA = RepackedRows.repack(weight_AE).logits(HIDDEN[:rows])
    assert logits_RA.shape == (rows, count)
    torch.testing.assert_close(logits_RA, HIDDEN[:rows] @ weight_AE.T, **ROUNDING)


def test_the_copy_is_kept_while_the_weight_and_the_rows_are_the_same() -> None:
    head, repacked = layer(), RepackedHead()
    assert repacked.rows(head, ROWS) is repacked.rows(head, ROWS.clone())


def test_other_rows_are_copied_again() -> None:
    head, repacked = layer(), RepackedHead()
    for rows_A in (ROWS, ROWS + 1, ROWS[:-1]):
        assert_repacked(head, repacked.rows(head, rows_A), rows_A)


@torch.no_grad()
def train(head: nn.Linear) -> None:
    head.weight.add_(0.1)


def write_through_data(head: nn.Linear) -> None:
    head.weight.data[7, 3] += 1


def replace(head: nn.Linear) -> None:
    head.weight = nn.Parameter(torch.randn(SIZE, WIDTH))


@torch.no_grad()
def swap_rows(head: nn.Linear) -> None:
    head.weight[[0, 1]] = head.weight[[1, 0]]


@torch.no_grad()
def swap_columns(head: nn.Linear) -> None:
    head.weight[:, [0, 1]] = head.weight[:, [1, 0]]


@pytest.mark.parametrize("change", [train, write_through_data, replace, swap_rows, swap_columns])
def test_a_weight_that_changed_in_any_way_is_copied_again(change: Callable[[nn.Linear], None]) -> None:
    head, repacked = layer(), RepackedHead()
    everything = torch.arange(SIZE)
    repacked.rows(head, everything)
    change(head)
    assert_repacked(head, repacked.rows(head, everything), everything)


@pytest.mark.parametrize(
    "head",
    [layer(size=SIZE // 2), layer(width=1024, size=SIZE // 16), layer().bfloat16(), nn.Sequential(layer())],
    ids=["small", "wide", "half precision", "another layer"],
)
def test_what_wouldnt_be_faster_is_left_as_it_is(head: nn.Module) -> None:
    assert RepackedHead().rows(head, ROWS[:9]) is None


def test_ids_are_the_output_layers_own() -> None:
    model = make_model(CONFIG)
    found = model.generate(PROMPT, max_new_tokens=6)
    too_many = PROMPT.expand(MAX_ROWS + 1, -1)
    assert torch.equal(model.generate(too_many, max_new_tokens=6)[:1], found)


def test_generation_follows_training_in_between() -> None:
    model = make_model(CONFIG)
    first = model.generate(PROMPT, max_new_tokens=1)[0, -1]
    with torch.no_grad():
        model.lm_head.weight[first].neg_()
    assert model.generate(PROMPT, max_new_tokens=1)[0, -1] != first
