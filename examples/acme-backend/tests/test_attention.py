"""The attention backend: the toolkit's conformance suite, and a test of its own."""

from __future__ import annotations

import torch

from acme_backend.blockwise import BLOCK
from chameleon_backends import AttentionSpec, get_attention_backend
from chameleon_backends.testing import AttentionBackendConformance


class TestBlockwise(AttentionBackendConformance):
    """Compares it with float64 attention on drawn requests, and checks every other rule of the contract."""

    backend_name = "acme-blockwise"


def test_the_last_block_counts_as_much_as_the_first() -> None:
    """With equal keys the output is the mean of the values, over three blocks."""
    S = 2 * BLOCK + 1
    backend = get_attention_backend("acme-blockwise")
    spec = AttentionSpec(
        batch_size=1,
        query_length=1,
        key_length=S,
        num_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    value_BSKD = torch.arange(2 * S, dtype=torch.float64).view(1, S, 1, 2)
    query_BTHD, key_BSKD = torch.ones(1, 1, 1, 2).double(), torch.ones(1, S, 1, 2).double()
    out_BTHD = backend.attend(query_BTHD, key_BSKD, value_BSKD, backend.plan(spec), scale=1.0)
    torch.testing.assert_close(out_BTHD, value_BSKD.mean(dim=1, keepdim=True))
