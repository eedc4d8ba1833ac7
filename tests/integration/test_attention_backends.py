"""The model gives the same with every attention backend that runs here."""

from __future__ import annotations

import pytest
import torch

from chameleon_backends import attention_backend_names, why_attention_unsupported
from chameleon_core.testing import make_config, make_model

RUNNING = [name for name in attention_backend_names() if why_attention_unsupported(name) is None]


def test_there_are_backends_to_compare() -> None:
    assert {"eager", "sdpa", "flash"} <= set(RUNNING)


@pytest.mark.parametrize("name", [name for name in RUNNING if name != "eager"])
@pytest.mark.parametrize("num_key_value_heads", [2, 4])
def test_greedy_ids_are_those_of_eager(name: str, num_key_value_heads: int) -> None:
    """In float32: a whole prompt, then one new token after another, with padding on the left."""
    prompt = torch.tensor([[1, 1, 40, 41, 42], [43, 44, 45, 46, 47]])
    expected, actual = (
        make_model(make_config(num_key_value_heads=num_key_value_heads), attn_implementation=backend).generate(
            input_ids=prompt, attention_mask=(prompt != 1).long(), max_new_tokens=12, do_sample=False
        )
        for backend in ("eager", name)
    )
    assert torch.equal(actual, expected)
