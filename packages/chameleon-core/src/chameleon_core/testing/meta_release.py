"""Tiny folders in Meta's exact layout, and the logits of its mathematics, computed apart from the toolkit's model.

``make_ranks`` draws the weights of each model-parallel rank, ``write_release`` writes them as Meta's release has them,
and ``logits_of`` computes as its code does: rotary embeddings on adjacent pairs, a norm of queries and keys for each
rank, and the sum of what the ranks compute.

Shapes: T positions, E hidden width, H heads of a rank, D width of a head, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu


@dataclass(frozen=True, kw_only=True)
class Release:
    """The shape of a tiny model in Meta's layout."""

    ranks: int = 1
    """The number of model-parallel ranks; a divisor of both numbers of heads."""
    swin_norm: bool = False
    """Whether norms follow attention and the feed-forward layer."""
    n_heads: int = 4
    """The number of query heads."""
    n_kv_heads: int = 4
    """The number of key/value heads."""
    fused: bool = False
    """Whether the files have ``wqkv`` and ``w13``."""
    n_layers: int = 2
    """The number of layers."""
    dim: int = 32
    """The hidden width."""
    multiple_of: int = 16
    """What the width of the feed-forward layer is a multiple of."""
    vocab_size: int = 64
    """The number of ids."""
    norm_eps: float = 1e-5
    """What RMSNorm adds to the mean square."""
    rope_theta: float = 10000.0
    """The base of the rotary embeddings' wavelengths."""

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.dim // self.n_heads

    @property
    def width(self) -> int:
        """The width of the feed-forward layer, by Meta's formula."""
        return self.multiple_of * ((int(8 * self.dim / 3) + self.multiple_of - 1) // self.multiple_of)


def make_ranks(release: Release, *, seed: int = 0) -> list[dict[str, Tensor]]:
    """Return random weights of each rank under Meta's names, float32. The norms of hidden states are copies."""
    generator = torch.Generator().manual_seed(seed)
    dim, ranks, head_dim = release.dim, release.ranks, release.head_dim

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    def norm(size: int, around: float = 1.0) -> Tensor:
        return around + 0.2 * torch.randn(size, generator=generator)

    queries, keys = release.n_heads // ranks * head_dim, release.n_kv_heads // ranks * head_dim
    files: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    shared = {"norm.weight": norm(dim)}
    for layer in range(release.n_layers):
        shared |= {f"layers.{layer}.{name}.weight": norm(dim) for name in ("attention_norm", "ffn_norm")}
    for file in files:
        file["tok_embeddings.weight"] = matrix(release.vocab_size, dim // ranks)
        file["output.weight"] = matrix(release.vocab_size // ranks, dim)
        file["rope.freqs"] = torch.zeros(head_dim // 2)
        for layer in range(release.n_layers):
            place = f"layers.{layer}."
            parts = [matrix(rows, dim) for rows in (queries, keys, keys)]
            gates = [matrix(release.width // ranks, dim) for _ in range(2)]
            if release.fused:
                file[f"{place}attention.wqkv.weight"] = torch.cat(parts)
                file[f"{place}feed_forward.w13.weight"] = torch.cat(gates)
            else:
                named = zip(("wq", "wk", "wv"), parts, strict=True)
                file |= {f"{place}attention.{name}.weight": part for name, part in named}
                file |= {
                    f"{place}feed_forward.w{number}.weight": part for number, part in zip((1, 3), gates, strict=True)
                }
            file[f"{place}attention.wo.weight"] = matrix(dim, queries)
            file[f"{place}feed_forward.w2.weight"] = matrix(dim, release.width // ranks)
            for of in "qk":
                file[f"{place}attention.{of}_normalization.weight"] = norm(head_dim)
                file[f"{place}attention.{of}_normalization.bias"] = norm(head_dim, around=0.0)
        file |= {name: tensor.clone() for name, tensor in shared.items()}
    return files


def write_release(
    folder: Path,
    release: Release,
    ranks: Sequence[Mapping[str, Tensor | None]],
    *,
    tokenizer: Mapping[str, Any] | None = None,
    root: bool = False,
) -> Path:
    """Write the files of a model, and of its tokenizer where it is given; return the model's folder.

    With ``root`` the model is in ``models/7b`` and the tokenizer in ``tokenizer``, as in Meta's release.
    """
    model, words = (folder / "models" / "7b", folder / "tokenizer") if root else (folder, folder)
    for each in (model, words):
        each.mkdir(parents=True, exist_ok=True)
    fields = ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "norm_eps", "rope_theta", "swin_norm")
    params = {**{name: getattr(release, name) for name in fields}, "qk_normalization": True, "ffn_dim_multiplier": None}
    (model / "params.json").write_text(json.dumps({"model": params, "seed": 42}))
    consolidated = {"model_parallel_size": release.ranks, "vocab_size": release.vocab_size}
    (model / "consolidate_params.json").write_text(json.dumps(consolidated))
    for number, tensors in enumerate(ranks):
        name = "consolidated.pth" if release.ranks == 1 else f"consolidated.{number:02d}.pth"
        torch.save(dict(tensors), model / name)
    if tokenizer is not None:
        (words / "text_tokenizer.json").write_text(json.dumps(tokenizer))
    return model


@torch.no_grad()
def logits_of(ranks: Sequence[Mapping[str, Tensor]], release: Release, ids_T: Tensor) -> Tensor:
    """Return the logits [T, V] that Meta's code computes for one row of ids."""
    hidden_TE = torch.cat([rank["tok_embeddings.weight"][ids_T] for rank in ranks], dim=-1)
    for layer in range(release.n_layers):
        place = f"layers.{layer}."
        for name, inner in (("attention_norm", _attention), ("ffn_norm", _feed_forward)):
            weight = ranks[0][f"{place}{name}.weight"]
            given_TE = hidden_TE if release.swin_norm else _rms(hidden_TE, weight, release)
            sum_TE = torch.stack([inner(rank, place, release, given_TE) for rank in ranks]).sum(dim=0)
            hidden_TE = hidden_TE + (_rms(sum_TE, weight, release) if release.swin_norm else sum_TE)
    hidden_TE = _rms(hidden_TE, ranks[0]["norm.weight"], release)
    return torch.cat([hidden_TE @ rank["output.weight"].T for rank in ranks], dim=-1)


def _rms(hidden_TE: Tensor, weight_E: Tensor, release: Release) -> Tensor:
    return hidden_TE / (hidden_TE.square().mean(-1, keepdim=True) + release.norm_eps).sqrt() * weight_E


def _attention(rank: Mapping[str, Tensor], place: str, release: Release, hidden_TE: Tensor) -> Tensor:
    heads, keys = release.n_heads // release.ranks, release.n_kv_heads // release.ranks
    if release.fused:
        rows = [count * release.head_dim for count in (heads, keys, keys)]
        weights = torch.split(rank[f"{place}attention.wqkv.weight"], rows)
    else:
        weights = tuple(rank[f"{place}attention.{name}.weight"] for name in ("wq", "wk", "wv"))
    query_THD, key_THD, value_THD = (
        (hidden_TE @ weight.T).reshape(-1, count, release.head_dim)
        for weight, count in zip(weights, (heads, keys, keys), strict=True)
    )
    query_THD = _rotated(_normed(query_THD, rank, f"{place}attention.q_normalization"), release)
    key_THD = _rotated(_normed(key_THD, rank, f"{place}attention.k_normalization"), release)
    key_THD, value_THD = (each.repeat_interleave(heads // keys, dim=1) for each in (key_THD, value_THD))
    scores = torch.einsum("thd,shd->hts", query_THD, key_THD) / release.head_dim**0.5
    length = hidden_TE.shape[0]
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    mixed_THD = torch.einsum("hts,shd->thd", scores.softmax(dim=-1), value_THD)
    return mixed_THD.flatten(1) @ rank[f"{place}attention.wo.weight"].T


def _normed(heads_THD: Tensor, rank: Mapping[str, Tensor], name: str) -> Tensor:
    return layer_norm(heads_THD, heads_THD.shape[-1:], rank[f"{name}.weight"], rank[f"{name}.bias"])


def _rotated(heads_THD: Tensor, release: Release) -> Tensor:
    """Rotate each adjacent pair of a head, as one complex number."""
    exponents = torch.arange(0, release.head_dim, 2) / release.head_dim
    angles = torch.outer(torch.arange(heads_THD.shape[0]), release.rope_theta**-exponents)
    pairs = torch.view_as_complex(heads_THD.reshape(*heads_THD.shape[:2], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)


def _feed_forward(rank: Mapping[str, Tensor], place: str, release: Release, hidden_TE: Tensor) -> Tensor:
    if release.fused:
        gate, up = rank[f"{place}feed_forward.w13.weight"].chunk(2)
    else:
        gate, up = (rank[f"{place}feed_forward.w{number}.weight"] for number in (1, 3))
    return (silu(hidden_TE @ gate.T) * (hidden_TE @ up.T)) @ rank[f"{place}feed_forward.w2.weight"].T
