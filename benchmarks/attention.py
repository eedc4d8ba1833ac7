"""Attention of one layer with each installed backend, side by side: prompts and single new tokens.

    python benchmarks/attention.py [--threads 2] [--seconds 1]

Prints milliseconds, the best of many runs that alternate, and how many times as fast as ``eager`` each backend is.
``bare`` is ``scaled_dot_product_attention`` called directly on the same tensors. A backend that can't serve a case is
left out. ``flex`` is made for CUDA, where it is compiled; on a CPU it computes every score.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from _race import race
from torch.nn import functional as F

from chameleon_backends import AttentionSpec, attention_backend_names, get_attention_backend, why_attention_unsupported


class Case(NamedTuple):
    """The attention of one layer: batch, queries, keys, heads, key/value heads, width."""

    B: int
    T: int
    S: int
    H: int = 32
    K: int = 32
    D: int = 128
    padded: bool = False
    """Whether the rows have padding on the left."""
    documents: int = 1
    """How many documents of one length are packed in a row."""


CASES = {
    "prompt": Case(1, 1056, 1056),
    "prompts, padded": Case(2, 528, 528, padded=True),
    "prompts, packed": Case(1, 1056, 1056, documents=8),
    "new token": Case(1, 1, 1056),
    "new token, grouped": Case(1, 1, 1056, K=8),
    "new tokens, padded": Case(4, 1, 1056, padded=True),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a row of the table takes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, milliseconds (times as fast as eager)\n")
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.bfloat16):
            best = race(contestants(case, dtype), options.seconds)
            times = "  ".join(f"{who} {ms:.2f} ({best['eager'] / ms:.1f}x)" for who, ms in best.items())
            print(f"{name:20} {str(dtype).removeprefix('torch.'):10} {times}", flush=True)


def contestants(case: Case, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return a call of each backend, planned beforehand, and of the bare kernel where it needs no mask."""
    B, T, S, H, K, D, padded, documents = case
    generator = torch.Generator().manual_seed(0)
    query_BTHD = torch.randn(B, T, H, D, generator=generator).to(dtype)
    key_BSKD = torch.randn(B, S, K, D, generator=generator).to(dtype)
    value_BSKD = torch.randn(B, S, K, D, generator=generator).to(dtype)
    spec = AttentionSpec(
        batch_size=B,
        query_length=T,
        key_length=S,
        num_heads=H,
        num_key_value_heads=K,
        head_dim=D,
        dtype=dtype,
        device=torch.device("cpu"),
        key_start_B=torch.arange(B) * 8 if padded else None,
        document_ids_BS=(torch.arange(S) * documents // S).expand(B, S) if documents > 1 else None,
    )

    def through(name: str) -> Callable[[], object]:
        backend = get_attention_backend(name)
        prepared = backend.plan(spec)
        return lambda: backend.attend(query_BTHD, key_BSKD, value_BSKD, prepared, scale=D**-0.5)

    def bare() -> object:
        query_BHTD, key_BKSD, value_BKSD = (each.transpose(1, 2) for each in (query_BTHD, key_BSKD, value_BSKD))
        return F.scaled_dot_product_attention(query_BHTD, key_BKSD, value_BKSD, is_causal=T > 1, enable_gqa=K < H)

    usable = (name for name in attention_backend_names() if why_attention_unsupported(name, spec) is None)
    calls = {name: through(name) for name in usable}
    return calls if padded or documents > 1 else calls | {"bare": bare}


if __name__ == "__main__":
    main()
