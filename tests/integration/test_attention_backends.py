"""The model gives the same with every attention backend that runs here.

Shapes: B batch, T new positions, S positions so far.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from chameleon_backends import AttentionSpec, attention_backend_names, why_attention_unsupported
from chameleon_core import KVCache
from chameleon_core.layout import BEGIN_IMAGE, END_IMAGE
from chameleon_core.testing import code_name, make_config, make_model

PROMPT = AttentionSpec(
    batch_size=1,
    query_length=2,
    key_length=2,
    num_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    dtype=torch.float32,
    device=torch.device("cpu"),
)
RUNNING = [name for name in attention_backend_names() if why_attention_unsupported(name, PROMPT) is None]
OTHERS = pytest.mark.parametrize("name", [name for name in RUNNING if name != "eager"])
BEGIN, END, *CODES = (
    make_config().vocabulary_map[name] for name in (BEGIN_IMAGE, END_IMAGE, *map(code_name, range(4)))
)
PICTURE = [BEGIN, *CODES, END]


def test_there_are_backends_to_compare() -> None:
    assert {"eager", "sdpa", "flash", "flex"} <= set(RUNNING)


@OTHERS
@pytest.mark.parametrize("num_key_value_heads", [2, 4])
def test_greedy_ids_are_those_of_eager(name: str, num_key_value_heads: int) -> None:
    """In float32: a whole prompt of text and a picture, then one new token after another; with padding on the left."""
    prompt = torch.tensor([[1, 1, 40, *PICTURE, 41, 42], [43, 44, 45, 46, 47, *PICTURE]])
    expected, actual = (
        make_model(make_config(num_key_value_heads=num_key_value_heads), attn_implementation=backend).generate(
            input_ids=prompt, attention_mask=(prompt != 1).long(), max_new_tokens=12, do_sample=False
        )
        for backend in ("eager", name)
    )
    assert torch.equal(actual, expected)


@OTHERS
def test_greedy_ids_of_packed_documents_are_those_of_eager(name: str) -> None:
    assert torch.equal(continue_packed(name), continue_packed("eager"))


@cache
@torch.inference_mode()
def continue_packed(backend: str) -> Tensor:
    """The likeliest next id at each of 20 positions: [B, S].

    Rows of two and three documents, one of them a picture, and padding. They come in two chunks, of which the second
    sees a cache, and the last document of each row goes on token by token.
    """
    model = make_model(make_config(num_key_value_heads=2), attn_implementation=backend)
    ids_BS = torch.tensor([[1, 1, 40, 41, *PICTURE, 42, 43], [44, 45, 46, 47, *PICTURE, 48, 49]])
    documents_BS = torch.tensor([[-1, -1, 0, 0, *[0] * 6, 1, 1], [0, 0, 0, 1, *[2] * 6, 2, 2]])
    positions_BS = torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1], [0, 1, 2, 0, 0, 1, 2, 3, 4, 5, 6, 7]])
    mask_BS = (documents_BS >= 0).long()
    past = KVCache(model.config.num_hidden_layers, batch_size=2)
    next_ids: list[Tensor] = []

    def read(begin: int, end: int) -> None:
        output = model(
            ids_BS[:, begin:end],
            attention_mask=mask_BS[:, :end] if begin == 0 else None,
            position_ids=positions_BS[:, begin:end],
            document_ids=documents_BS[:, :end],
            cache=past,
        )
        next_ids.append(output.logits.argmax(dim=-1))

    read(0, 7)
    read(7, 12)
    for position in range(12, 20):
        ids_BS = torch.cat([ids_BS, next_ids[-1][:, -1:]], dim=1)
        documents_BS = torch.cat([documents_BS, documents_BS[:, -1:]], dim=1)
        positions_BS = torch.cat([positions_BS, positions_BS[:, -1:] + 1], dim=1)
        read(position, position + 1)
    return torch.cat(next_ids, dim=1)
