"""The tensors of Meta's files, a file for each model-parallel rank, and those of the published ``hf`` layout.

Each rank has some of the heads, of the feed-forward layer's width and of the vocabulary, and a copy of the norms of the
hidden states. Its rotary embeddings rotate adjacent pairs of a head's rows; those of ``hf`` rotate its halves, so the
rows of queries and keys, and their norms, are permuted. Pieces of ranks stay mapped until a tensor is composed.

Shapes: H heads, D width of a head, E hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileFormatError, WeightsError
from .contract import StoredTensor
from .meta_params import MetaParams

Rank = Mapping[str, Tensor]
"""The tensors of a rank by Meta's names."""

ROPE = "rope.freqs"
"""A buffer of Meta's code, which follows from the parameters."""
_OUTER = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", 1),
    "output.weight": ("lm_head.weight", 0),
    "norm.weight": ("model.norm.weight", None),
}
"""Meta's names, ours, and the axis that ranks divide; None where each has all of it."""
_INNER = {
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}
_NORMS = {
    f"attention.{of}_normalization.{part}": f"self_attn.{of}_norm.{part}" for of in "qk" for part in ("weight", "bias")
}
_PERMUTED = ("attention.wq.weight", "attention.wk.weight")
_FUSED_QKV, _FUSED_13 = "attention.wqkv.weight", "feed_forward.w13.weight"
_MOST_LISTED = 8
_ROWS = 1024
"""How many rows of a matrix that ranks divide by columns are joined at a time."""


def names_of(num_layers: int, *, qk_norm: bool) -> Iterator[tuple[str, str, int | None]]:
    """Yield Meta's name, ours, and the axis that ranks divide, of every tensor of a model."""
    yield from ((theirs, ours, axis) for theirs, (ours, axis) in _OUTER.items())
    inner = {**_INNER, **(dict.fromkeys(_NORMS, ("", 0)) if qk_norm else {})}
    for layer in range(num_layers):
        for theirs, (ours, axis) in inner.items():
            yield f"layers.{layer}.{theirs}", f"model.layers.{layer}.{ours or _NORMS[theirs]}", axis


def sizes_of(ranks: Sequence[Rank], params: MetaParams, folder: Path) -> dict[str, int]:
    """Return the sizes of the vocabulary and of the feed-forward layer, which Meta's files say by their tensors."""
    layers = {name.split(".", 2)[1] for name in ranks[0] if name.startswith("layers.")}
    if len(layers) != params.n_layers:
        raise FileFormatError(
            f"{folder} has the weights of {len(layers):,} layers, but its params.json says n_layers "
            f"{params.n_layers:,}. Check that they belong together."
        )
    found = {"vocab_size": "output.weight", "intermediate_size": "layers.0.feed_forward.w2.weight"}
    absent = [name for name in found.values() if any(rank.get(name, torch.empty(0)).dim() != 2 for rank in ranks)]
    if absent:
        raise FileFormatError(f"{folder} lacks the matrices {', '.join(absent)}. Download its files again.")
    return {
        "vocab_size": sum(rank["output.weight"].shape[0] for rank in ranks),
        "intermediate_size": sum(rank["layers.0.feed_forward.w2.weight"].shape[1] for rank in ranks),
    }


def composed(
    ranks: Sequence[Rank], params: MetaParams, sizes: Mapping[str, int], folder: Path, *, average_norms: bool
) -> dict[str, StoredTensor]:
    """Return the tensors by our names, each composed of the ranks' pieces when it is loaded.

    Raises ``FileFormatError`` where a piece is missing, unknown or of another shape or type, and ``WeightsError`` where
    copies of a norm differ between ranks beyond the rounding of bfloat16, unless ``average_norms``.
    """
    separate = [_separate(rank, params, len(ranks), sizes, folder) for rank in ranks]
    shapes = _shapes(params, len(ranks), sizes)
    names = list(names_of(params.n_layers, qk_norm=params.qk_normalization))
    _check_pieces(separate, {name: shapes[_suffix(name)] for name, _, _ in names}, folder)
    tensors, differing = {}, []
    for theirs, ours, axis in names:
        pieces = [rank[theirs] for rank in separate]
        suffix = _suffix(theirs)
        if suffix in _NORMS:
            heads = (params.n_heads if ".q_" in suffix else params.num_key_value_heads) // len(ranks)
            shape: tuple[int, ...] = (heads * len(ranks), params.head_dim)
            load = partial(_norm_per_head, pieces, heads)
        elif axis is None:
            shape = tuple(pieces[0].shape)
            load = partial(_one_norm, pieces)
            if not average_norms and not _agree(pieces):
                differing.append(theirs)
        else:
            width = [*pieces[0].shape]
            width[axis] *= len(ranks)
            shape = tuple(width)
            joined = partial(_joined, pieces, axis, params.head_dim if suffix in _PERMUTED else None)
            tensors[ours] = StoredTensor(shape, pieces[0].dtype, partial(_whole, joined), joined)
            continue
        tensors[ours] = StoredTensor(shape, pieces[0].dtype, load)
    if differing:
        more = f" and {len(differing) - _MOST_LISTED} more" if len(differing) > _MOST_LISTED else ""
        raise WeightsError(
            f"{folder}: {len(differing)} norms of the hidden states differ between the {len(ranks)} ranks beyond the "
            f"rounding of bfloat16, and other layouts have one: {', '.join(differing[:_MOST_LISTED])}{more}. To take "
            "their means, as transformers does: `chameleon convert --average-norms`."
        )
    return tensors


def rank_tensors(
    tensors: Mapping[str, StoredTensor], params: MetaParams, ranks: int, rank: int, *, fused: bool
) -> dict[str, StoredTensor]:
    """Return the tensors of one rank by Meta's names. Where heads share a norm, it is stored once."""
    state: dict[str, StoredTensor] = {}
    for theirs, ours, axis in names_of(params.n_layers, qk_norm=params.qk_normalization):
        stored = tensors[ours] if ours in tensors else tensors["model.embed_tokens.weight"]  # tied embeddings
        suffix = _suffix(theirs)
        if suffix in _NORMS:
            norm = _part(stored, 0, rank, ranks, None).view(-1, 2, params.head_dim // 2).transpose(-1, -2).flatten(-2)
            state[theirs] = StoredTensor.of(norm[0] if bool((norm == norm[0]).all()) else norm)
        elif axis is None:
            state[theirs] = stored
        else:
            shape = [*stored.shape]
            shape[axis] //= ranks
            head_dim = params.head_dim if suffix in _PERMUTED else None
            state[theirs] = StoredTensor(
                tuple(shape), stored.dtype, partial(_part, stored, axis, rank, ranks, head_dim)
            )
    if fused:
        for layer in range(params.n_layers):
            for name, parts in ((_FUSED_QKV, ("wq", "wk", "wv")), (_FUSED_13, ("w1", "w3"))):
                place = f"layers.{layer}.{name.split('.')[0]}."
                pieces = [state.pop(f"{place}{part}.weight") for part in parts]
                state[f"layers.{layer}.{name}"] = _fused(pieces)
    exponents = torch.arange(0, params.head_dim, 2, dtype=torch.float32) / params.head_dim
    state[ROPE] = StoredTensor.of(params.rope_theta**-exponents)
    return state


def _part(stored: StoredTensor, axis: int, rank: int, ranks: int, head_dim: int | None) -> Tensor:
    """Return what a rank has of a tensor, the rows of each head in the order of pairs where ``head_dim`` is given."""
    value = stored.load()
    size = value.shape[axis] // ranks
    value = value.narrow(axis, rank * size, size)
    return value if head_dim is None else _permuted(value, head_dim, to_halves=False)


def _fused(pieces: Sequence[StoredTensor]) -> StoredTensor:
    """Return matrices as one, of all their rows."""
    shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])

    def each() -> Iterator[Tensor]:
        yield from (piece.load() for piece in pieces)

    return StoredTensor(shape, pieces[0].dtype, lambda: torch.cat([*each()]), each)


def _suffix(name: str) -> str:
    """Return a name without its layer."""
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def _shapes(params: MetaParams, ranks: int, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a rank's pieces by the names without layers."""
    dim, width, vocab = params.dim, sizes["intermediate_size"] // ranks, sizes["vocab_size"] // ranks
    queries = params.n_heads // ranks * params.head_dim
    keys = params.num_key_value_heads // ranks * params.head_dim
    return {
        "tok_embeddings.weight": (sizes["vocab_size"], dim // ranks),
        "output.weight": (vocab, dim),
        "norm.weight": (dim,),
        "attention.wq.weight": (queries, dim),
        "attention.wk.weight": (keys, dim),
        "attention.wv.weight": (keys, dim),
        "attention.wo.weight": (dim, queries),
        "feed_forward.w1.weight": (width, dim),
        "feed_forward.w3.weight": (width, dim),
        "feed_forward.w2.weight": (dim, width),
        "attention_norm.weight": (dim,),
        "ffn_norm.weight": (dim,),
        **dict.fromkeys(_NORMS, (params.head_dim,)),
    }


def _separate(rank: Rank, params: MetaParams, ranks: int, sizes: Mapping[str, int], folder: Path) -> dict[str, Tensor]:
    """Return a rank's tensors with its fused ones cut into their parts, which stay views."""
    shapes = _shapes(params, ranks, sizes)
    separate: dict[str, Tensor] = {}
    for name, tensor in rank.items():
        suffix = _suffix(name)
        if name == ROPE:
            continue
        if suffix not in (_FUSED_QKV, _FUSED_13):
            separate[name] = tensor
            continue
        parts = ("wq", "wk", "wv") if suffix == _FUSED_QKV else ("w1", "w3")
        place = f"{suffix.split('.')[0]}."
        rows = [shapes[f"{place}{part}.weight"][0] for part in parts]
        if tensor.dim() != 2 or tensor.shape[0] != sum(rows):
            raise FileFormatError(
                f"{folder}: {name} has the shape {list(tensor.shape)}, expected {sum(rows)} rows of {params.dim}, "
                "which params.json describes. Check that they belong together."
            )
        prefix = name.removesuffix(suffix) + place
        separate |= {
            f"{prefix}{part}.weight": piece for part, piece in zip(parts, torch.split(tensor, rows), strict=True)
        }
    return separate


def _check_pieces(ranks: Sequence[Rank], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    for number, rank in enumerate(ranks):
        where = f"{folder}, rank {number} of {len(ranks)}"
        problems = {
            "missing": sorted(expected.keys() - rank.keys()),
            "unexpected": sorted(rank.keys() - expected.keys()),
            "of another shape or type": [
                f"{name} ({rank[name].dtype} {list(rank[name].shape)}, expected {ranks[0][name].dtype} {list(shape)})"
                for name, shape in expected.items()
                if name in rank and not _fits(rank[name], shape, ranks[0].get(name, rank[name]).dtype, name)
            ],
        }
        listed = [
            f"{kind}: {', '.join(names[:_MOST_LISTED])}"
            + (f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else "")
            for kind, names in problems.items()
            if names
        ]
        if listed:
            raise FileFormatError(f"{where}: the tensors aren't those that params.json describes. {'; '.join(listed)}.")


def _fits(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> bool:
    found = tuple(tensor.shape)
    of_heads = _suffix(name) in _NORMS and len(found) == 2 and found[1:] == shape
    return (found == shape or of_heads) and tensor.dtype == dtype and dtype.is_floating_point


def _permuted(rows: Tensor, head_dim: int, *, to_halves: bool) -> Tensor:
    """Return rows [H·D, E] in the order of halves, or of adjacent pairs, of each head; a view where it can be."""
    split = (-1, head_dim // 2, 2) if to_halves else (-1, 2, head_dim // 2)
    return rows.reshape(*split, rows.shape[1]).transpose(1, 2).flatten(0, 2)


def _joined(pieces: Sequence[Tensor], axis: int, head_dim: int | None) -> Iterator[Tensor]:
    """Yield the pieces of ranks joined on an axis, some rows at a time, those of heads permuted for ``head_dim``."""
    if axis == 0 or len(pieces) == 1:
        yield from (piece if head_dim is None else _permuted(piece, head_dim, to_halves=True) for piece in pieces)
        return
    for start in range(0, pieces[0].shape[0], _ROWS):
        yield torch.cat([piece[start : start + _ROWS] for piece in pieces], dim=axis)


def _whole(pieces: Callable[[], Iterator[Tensor]]) -> Tensor:
    """Return a tensor of all its pieces."""
    found = [*pieces()]
    return found[0] if len(found) == 1 else torch.cat(found)


def _norm_per_head(pieces: Sequence[Tensor], heads: int) -> Tensor:
    """Return the norms of ranks [D], or of each of a rank's heads, as those of all heads [H, D]."""
    rows = [piece.reshape(-1, piece.shape[-1] // 2, 2).transpose(-1, -2).flatten(-2) for piece in pieces]
    return torch.cat([row.expand(heads, -1) for row in rows])


def _agree(pieces: Sequence[Tensor]) -> bool:
    """Return whether copies of a norm are equal but for the rounding of bfloat16."""
    first = pieces[0].float()
    return all(
        bool(
            ((other := piece.float()) - first)
            .abs()
            .le(torch.finfo(torch.bfloat16).eps * torch.maximum(other.abs(), first.abs()))
            .all()
        )
        for piece in pieces[1:]
    )


def _one_norm(pieces: Sequence[Tensor]) -> Tensor:
    """Return what copies of a norm have in common: the one, or the mean where they differ."""
    if all(torch.equal(piece, pieces[0]) for piece in pieces[1:]):
        return pieces[0]
    return torch.stack([piece.float() for piece in pieces]).mean(dim=0).to(pieces[0].dtype)
