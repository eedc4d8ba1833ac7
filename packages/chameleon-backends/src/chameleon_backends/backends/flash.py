"""Flash attention: the kernels of the flash-attn package where it is there, else torch's own.

Neither kernel knows padding or documents, so that a batch with them runs as pieces (``segments``). The package takes
all pieces in one call, with their lengths; torch's kernel is called for each. Finding the pieces reads the padding and
the documents back from the device, once in a forward pass.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, N tokens of all pieces.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention import AttentionSpec
from ..errors import UnsupportedAttentionError
from .segments import Segment, has_window, is_uniform, segments

MODULES = {2: "flash_attn", 3: "flash_attn_interface"}
"""The package's module by its version."""
INSTALL = {2: "pip install flash-attn", 3: "build it from the folder hopper/ of the flash-attention repository"}
HALF_DTYPES = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256


def why_torch_unsupported(spec: AttentionSpec | None) -> str | None:
    """Why torch's flash kernel can't serve the request."""
    if spec is None:
        return None
    if spec.device.type not in ("cpu", "cuda"):
        return f"torch has no flash kernel for the device {spec.device.type!r}"
    if spec.device.type == "cuda" and (spec.dtype not in HALF_DTYPES or spec.head_dim > MAX_HEAD_DIM):
        return (
            f"torch's flash kernel on CUDA reads float16 and bfloat16 of widths up to {MAX_HEAD_DIM}, "
            f"not {spec.dtype} of width {spec.head_dim}"
        )
    if spec.dropout and spec.device.type == "cpu":
        return "torch's flash kernel has no dropout on a CPU"
    if has_window(spec) and spec.query_length > 1:
        return "torch's flash kernel has no sliding window"
    return None


def why_package_missing(version: int) -> str | None:
    """Why this version of the flash-attn package can't run on this machine."""
    if importlib.util.find_spec(MODULES[version]) is None:
        return f"the module {MODULES[version]!r} of flash-attn {version} isn't installed ({INSTALL[version]})"
    if not torch.cuda.is_available():
        return "flash-attn needs a CUDA device, and torch finds none"
    needed, found = (8, 9)[version - 2], torch.cuda.get_device_capability()[0]
    if found < needed or (version == 3 and found > needed):
        return f"flash-attn {version} needs a CUDA device of compute capability {needed}.x, this one has {found}.x"
    return None


def why_package_unsupported(version: int, spec: AttentionSpec | None, *, device_type: str = "cuda") -> str | None:
    """Why this version of the package can't serve the request, were it there."""
    if spec is None:
        return None
    if spec.device.type != device_type:
        return f"flash-attn runs on {device_type}, not on {spec.device.type}"
    if spec.dtype not in HALF_DTYPES:
        return f"flash-attn reads float16 and bfloat16, not {spec.dtype}"
    if spec.head_dim > MAX_HEAD_DIM or spec.head_dim % 8:
        return f"flash-attn takes head widths up to {MAX_HEAD_DIM} in steps of 8, not {spec.head_dim}"
    if spec.dropout and version == 3:
        return "flash-attn 3 has no dropout"
    return None


def why_flash_unsupported(spec: AttentionSpec | None) -> str | None:
    """Why neither the package nor torch's kernel can serve the request."""
    if any(why_version_unsupported(version, spec) is None for version in MODULES):
        return None
    return why_torch_unsupported(spec)


def why_version_unsupported(version: int, spec: AttentionSpec | None) -> str | None:
    """Why this version of the package can't serve the request on this machine."""
    return why_package_missing(version) or why_package_unsupported(version, spec)


def _check(reason: str | None) -> None:
    if reason is not None:
        raise UnsupportedAttentionError(reason)


@dataclass(frozen=True, slots=True)
class TorchFlashPlan:
    """How to call torch's kernel: once for the whole batch, or for each piece."""

    pieces: list[Segment] | None
    causal: bool = False
    window: int | None = None
    """How many of the last keys a single query sees. None: all."""


class TorchFlashAttention:
    """The contract over torch's flash kernel, which is never given a mask."""

    def plan(self, spec: AttentionSpec) -> TorchFlashPlan:
        """The pieces, or None of them where the batch is served whole."""
        _check(why_torch_unsupported(spec))
        whole = is_uniform(spec) and (not spec.causal or spec.query_length <= spec.key_length)
        if not whole:
            return TorchFlashPlan(segments(spec))
        return TorchFlashPlan(
            None,
            causal=spec.causal and spec.query_length > 1,
            window=spec.sliding_window if has_window(spec) else None,
        )

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: TorchFlashPlan,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """``out_BTHD`` in the query's dtype."""
        if prepared.pieces is None:
            if prepared.window is not None:
                key_BSKD, value_BSKD = key_BSKD[:, -prepared.window :], value_BSKD[:, -prepared.window :]
            return _torch_flash(query_BTHD, key_BSKD, value_BSKD, prepared.causal, scale, dropout)
        out_BTHD = _zeros(query_BTHD, key_BSKD, value_BSKD)
        for piece in prepared.pieces:
            rows, queries = slice(piece.row, piece.row + 1), slice(piece.query_start, piece.query_end)
            keys = slice(piece.key_start, piece.key_end)
            out_BTHD[rows, queries] = _torch_flash(
                query_BTHD[rows, queries], key_BSKD[rows, keys], value_BSKD[rows, keys], piece.causal, scale, dropout
            )
        return out_BTHD


def _zeros(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Zeros like the query that gradients flow through, also where there is no piece: zeros to all three."""
    return torch.zeros_like(query) + sum(tensor[:0].sum() for tensor in (query, key, value))


def _torch_flash(
    query_BTHD: torch.Tensor,
    key_BSKD: torch.Tensor,
    value_BSKD: torch.Tensor,
    causal: bool,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """Torch's kernel; causal is aligned to the last key."""
    missing = key_BSKD.shape[1] - query_BTHD.shape[1] if causal else 0
    if missing:
        # The kernel aligns the first query with the first key. With queries for all keys, first and last agree.
        query_BTHD = F.pad(query_BTHD, (0, 0, 0, 0, missing, 0))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out_BHTD = F.scaled_dot_product_attention(
            query_BTHD.transpose(1, 2),
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            dropout_p=dropout,
            is_causal=causal,
            scale=scale,
            enable_gqa=key_BSKD.shape[2] < query_BTHD.shape[2],
        )
    return out_BHTD.transpose(1, 2)[:, missing:]


@dataclass(frozen=True, slots=True)
class PackedPieces:
    """Pieces for one call with lengths: which tokens of the flattened batch, and where each piece begins."""

    query_index_N: torch.Tensor
    key_index_N: torch.Tensor
    query_offsets: torch.Tensor
    """int32, one more than pieces: begins, and the end."""
    key_offsets: torch.Tensor
    longest_query: int
    longest_key: int
    causal: bool
    window: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PackageFlashPlan:
    """How to call the package: on the whole batch, or on pieces of it, alike in their rules."""

    packs: list[PackedPieces] | None
    causal: bool = False
    window: tuple[int, int] = (-1, -1)


class PackageFlashAttention:
    """The contract over the flash-attn package, version 2 or 3. ``module`` is the package's."""

    def __init__(self, module: ModuleType | Any, version: int, *, device_type: str = "cuda") -> None:
        self.module = module
        self.version = version
        self.device_type = device_type

    def plan(self, spec: AttentionSpec) -> PackageFlashPlan:
        """The pieces and their lengths, or None of them where the batch is served whole."""
        _check(why_package_unsupported(self.version, spec, device_type=self.device_type))
        window = _window(spec)
        if is_uniform(spec) and spec.query_length <= spec.key_length:
            return PackageFlashPlan(None, causal=spec.causal, window=window)
        alike: dict[tuple[bool, bool], list[Segment]] = {}
        for piece in segments(spec):
            alike.setdefault((piece.causal, piece.windowed), []).append(piece)
        packs = [
            _packed(spec, pieces, causal, window if windowed else (-1, -1))
            for (causal, windowed), pieces in alike.items()
        ]
        return PackageFlashPlan(packs)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: PackageFlashPlan,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """``out_BTHD`` in the query's dtype."""
        # Version 3 has no argument for dropout at all.
        options = {"dropout_p": dropout} if self.version == 2 else {}
        if prepared.packs is None:
            out = self.module.flash_attn_func(
                query_BTHD,
                key_BSKD,
                value_BSKD,
                softmax_scale=scale,
                causal=prepared.causal,
                window_size=prepared.window,
                **options,
            )
            return _output(out)
        query_NHD, key_NKD, value_NKD = (tensor.flatten(0, 1) for tensor in (query_BTHD, key_BSKD, value_BSKD))
        out_NHD = _zeros(query_NHD, key_NKD, value_NKD)
        for pack in prepared.packs:
            out = self.module.flash_attn_varlen_func(
                query_NHD[pack.query_index_N],
                key_NKD[pack.key_index_N],
                value_NKD[pack.key_index_N],
                cu_seqlens_q=pack.query_offsets,
                cu_seqlens_k=pack.key_offsets,
                max_seqlen_q=pack.longest_query,
                max_seqlen_k=pack.longest_key,
                softmax_scale=scale,
                causal=pack.causal,
                window_size=pack.window,
                **options,
            )
            out_NHD = out_NHD.index_copy(0, pack.query_index_N, _output(out))
        return out_NHD.view_as(query_BTHD)


def _output(result: Any) -> torch.Tensor:
    """The first releases of version 3 return the logarithms of the sums as well."""
    output: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return output


def _window(spec: AttentionSpec) -> tuple[int, int]:
    """The package's window: how many keys a query sees to its left and to its right, itself not counted."""
    if spec.sliding_window is None or not has_window(spec):
        return (-1, 0) if spec.causal else (-1, -1)
    left = spec.sliding_window - 1
    return (left, 0 if spec.causal else left)


def _packed(spec: AttentionSpec, pieces: list[Segment], causal: bool, window: tuple[int, int]) -> PackedPieces:
    queries = [
        (piece.row * spec.query_length + piece.query_start, piece.query_end - piece.query_start) for piece in pieces
    ]
    keys = [(piece.row * spec.key_length + piece.key_start, piece.key_end - piece.key_start) for piece in pieces]

    def index(ranges: list[tuple[int, int]]) -> torch.Tensor:
        return torch.cat([torch.arange(begin, begin + length) for begin, length in ranges]).to(spec.device)

    def offsets(ranges: list[tuple[int, int]]) -> torch.Tensor:
        lengths = torch.tensor([0, *(length for _, length in ranges)])
        return lengths.cumsum(0).to(device=spec.device, dtype=torch.int32)

    return PackedPieces(
        query_index_N=index(queries),
        key_index_N=index(keys),
        query_offsets=offsets(queries),
        key_offsets=offsets(keys),
        longest_query=max(length for _, length in queries),
        longest_key=max(length for _, length in keys),
        causal=causal,
        window=window,
    )


class FlashAttention:
    """The first that serves the request: flash-attn 3, flash-attn 2, torch's kernel."""

    def __init__(self) -> None:
        self._packages = {version: load_package(version) for version in (3, 2) if why_package_missing(version) is None}
        self._torch = TorchFlashAttention()

    def plan(self, spec: AttentionSpec) -> tuple[PackageFlashAttention | TorchFlashAttention, Any]:
        """Whose kernel it is, and its plan."""
        for version, package in self._packages.items():
            if why_package_unsupported(version, spec) is None:
                return package, package.plan(spec)
        return self._torch, self._torch.plan(spec)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: tuple[PackageFlashAttention | TorchFlashAttention, Any],
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """``out_BTHD`` in the query's dtype."""
        kernels, plan = prepared
        return kernels.attend(query_BTHD, key_BSKD, value_BSKD, plan, scale=scale, dropout=dropout)


def load_package(version: int) -> PackageFlashAttention:
    """The contract over an installed version of the package. Raises ``ImportError`` where it can't be imported."""
    return PackageFlashAttention(importlib.import_module(MODULES[version]), version)
