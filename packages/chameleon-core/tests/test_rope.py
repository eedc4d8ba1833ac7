"""Rotary embeddings, worked out by hand.

Shapes: B batch, T query length, H heads, D head width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chameleon_core.config import ChameleonConfig
from chameleon_core.model.rope import RotaryTable, apply_rotary, rotary_embedding
from chameleon_core.testing import make_config

# Two heads of width 4: pairs (0, 2) and (1, 3), of frequencies 1 and theta^(-2/4) = 1/100.
NARROW = make_config(hidden_size=8, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8)
LINEAR = {"type": "linear", "factor": 4.0}
DYNAMIC = {"type": "dynamic", "factor": 4.0}


def angles(config: ChameleonConfig, *positions: int) -> Tensor:
    """The angle of each pair (0, 2) and (1, 3) at each position, [T, D / 2]."""
    rotary = rotary_embedding(config, torch.tensor([positions]), torch.float64)
    units_BTHD = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand(1, len(positions), 1, 4)
    rotated_TD = apply_rotary(units_BTHD, rotary)[0, :, 0]
    return torch.atan2(rotated_TD[:, 2:], rotated_TD[:, :2])


def test_a_pair_turns_by_its_position_times_its_frequency() -> None:
    torch.testing.assert_close(
        angles(NARROW, 0, 1, 2), torch.tensor([[0, 0], [1, 0.01], [2, 0.02]], dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_pairs_are_halves_apart_and_not_neighbours() -> None:
    rotary = rotary_embedding(NARROW, torch.tensor([[1]]), torch.float64)
    first_D = apply_rotary(torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]], dtype=torch.float64), rotary).flatten()
    expected_D = torch.tensor([math.cos(1), 0, math.sin(1), 0], dtype=torch.float64)
    torch.testing.assert_close(first_D, expected_D, rtol=0, atol=1e-6)
    second_D = apply_rotary(torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]], dtype=torch.float64), rotary).flatten()
    expected_D = torch.tensor([0, -math.sin(0.01), 0, math.cos(0.01)], dtype=torch.float64)
    torch.testing.assert_close(second_D, expected_D, rtol=0, atol=1e-6)


def test_theta_sets_the_frequencies() -> None:
    slow = NARROW.replace(rope_theta=16.0)
    torch.testing.assert_close(angles(slow, 1), torch.tensor([[1, 0.25]], dtype=torch.float64), rtol=0, atol=1e-6)


def test_linear_scaling_divides_positions() -> None:
    torch.testing.assert_close(
        angles(NARROW.replace(rope_scaling=LINEAR), 0, 4, 8), angles(NARROW, 0, 1, 2), rtol=0, atol=1e-6
    )


def test_dynamic_scaling_changes_nothing_up_to_the_trained_length() -> None:
    assert torch.equal(angles(NARROW.replace(rope_scaling=DYNAMIC), 3, 7), angles(NARROW, 3, 7))


def test_dynamic_scaling_raises_the_base_past_the_trained_length() -> None:
    # Twice the trained length: base · (4 · 2 − 3)^(4 / 2) = 10,000 · 25, whose square root is 500.
    dynamic = NARROW.replace(rope_scaling=DYNAMIC)
    torch.testing.assert_close(
        angles(dynamic, 1, 15),
        torch.tensor([[1, 1 / 500], [15 - 4 * math.pi, 15 / 500]], dtype=torch.float64),
        rtol=0,
        atol=1e-5,
    )


def test_dynamic_scaling_takes_the_length_of_the_longest_row() -> None:
    dynamic = NARROW.replace(rope_scaling=DYNAMIC)
    alone = rotary_embedding(dynamic, torch.tensor([[0, 5]]), torch.float32)
    beside_a_long_row = rotary_embedding(dynamic, torch.tensor([[0, 5], [0, 15]]), torch.float32)
    assert not torch.equal(alone.cos_BT1D[0], beside_a_long_row.cos_BT1D[0])


@pytest.mark.parametrize("scaling", [None, LINEAR, DYNAMIC], ids=["none", "linear", "dynamic"])
def test_rotating_keeps_lengths_and_depends_on_the_difference_of_positions_alone(
    scaling: dict[str, object] | None,
) -> None:
    config = NARROW.replace(rope_scaling=scaling, max_position_embeddings=64)
    query_BTHD, key_BTHD = torch.randn(2, 1, 1, 1, 4, generator=torch.Generator().manual_seed(0)).unbind()

    def score(query_position: int, key_position: int) -> float:
        rotated_query = apply_rotary(
            query_BTHD, rotary_embedding(config, torch.tensor([[query_position]]), torch.float32)
        )
        rotated_key = apply_rotary(key_BTHD, rotary_embedding(config, torch.tensor([[key_position]]), torch.float32))
        assert float(rotated_query.norm()) == pytest.approx(float(query_BTHD.norm()), rel=1e-6)
        return float((rotated_query * rotated_key).sum())

    assert score(5, 2) == pytest.approx(score(40, 37), abs=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-3)


def test_angles_are_float32_whatever_the_dtype_of_the_states() -> None:
    # In bfloat16 itself, position 1,001 would already be 1,000.
    config = make_config(max_position_embeddings=4096)
    exact = rotary_embedding(config, torch.tensor([[1001]]), torch.float32)
    rounded = rotary_embedding(config, torch.tensor([[1001]]), torch.bfloat16)
    assert rounded.cos_BT1D.dtype == torch.bfloat16
    assert torch.equal(rounded.cos_BT1D, exact.cos_BT1D.bfloat16())
    assert torch.equal(rounded.sin_BT1D, exact.sin_BT1D.bfloat16())


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": LINEAR}], ids=str)
def test_what_is_looked_up_is_what_is_computed(changes: dict[str, object]) -> None:
    config = NARROW.replace(**changes)
    table = RotaryTable()
    for positions, dtype in [
        ((0,), torch.float32),
        ((3, 255, 3), torch.float32),
        ((256, 0), torch.float32),  # beyond what the table has so far
        ((5000,), torch.bfloat16),
        ((7, 8), torch.float32),
    ]:
        found = table.look_up(config, positions, dtype, torch.device("cpu"))
        expected = rotary_embedding(config, torch.tensor([positions]), dtype)
        assert torch.equal(found.cos_BT1D, expected.cos_BT1D)
        assert torch.equal(found.sin_BT1D, expected.sin_BT1D)
