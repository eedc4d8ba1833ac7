"""Flash attention by the flash-attn package, version 2 or 3.

Its functions support causality, a window, and lengths. A batch without padding or documents is one call. So is one with
padding on the left where no gradients are needed: to the package's function for caches, which reads the padding from
the device. Everything else runs as pieces (``segments``), all in one call with their lengths.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width,
M positions of the flattened batch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from ..attention import AttentionSpec
from ..errors import UnsupportedAttentionError
from ..masks import visible_ranges
from .segments import Segment, has_window, is_uniform, segments, zeros_like_query

VERSIONS = (3, 2)
"""The newest first."""
MODULES = {2: "flash_attn", 3: "flash_attn_interface"}
"""The package's module, by version."""
FUNCTIONS = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
INSTALL = {2: "pip install flash-attn", 3: "build it from the folder hopper/ of the flash-attention repository"}
CAPABILITIES = {2: 8, 3: 9}
"""The compute capability that it runs on: version 2 on this and later ones, version 3 on this one only."""
DTYPES = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
NO_WINDOW = (-1, -1)


def why_absent(version: int) -> str | None:
    """Return why there is nothing to import of this version of the package, or no device that it could run on.

    Nothing is imported, so that a listing loads no kernels; what that would tell, ``load_package`` raises.
    """
    if importlib.util.find_spec(MODULES[version]) is None:
        return f"the module {MODULES[version]!r} of flash-attn {version} isn't installed ({INSTALL[version]})"
    if not torch.cuda.is_available():
        return "flash-attn needs a CUDA device, and torch finds none"
    needed, found = CAPABILITIES[version], torch.cuda.get_device_capability()[0]
    if found < needed or (version == 3 and found > needed):
        return f"flash-attn {version} needs a CUDA device of compute capability {needed}.x, this one has {found}.x"
    return None


@functools.cache
def why_broken(version: int) -> str | None:
    """Return why this version, which is installed, can't be used. Imports it, once."""
    module = MODULES[version]
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a library built for another torch may raise anything
        return f"flash-attn {version} is installed, but its module {module!r} fails to import: {error!r}"
    missing = [function for function in FUNCTIONS if not hasattr(imported, function)]
    if missing:
        return f"the installed module {module!r} isn't that of flash-attn {version}: it has no {', '.join(missing)}"
    return None


def why_version_unsupported(version: int, spec: AttentionSpec) -> str | None:
    """Return why this version of the package can't serve the request on this machine."""
    return why_absent(version) or why_broken(version) or why_package_unsupported(version, spec)


def why_package_unsupported(version: int, spec: AttentionSpec, *, device_type: str = "cuda") -> str | None:
    """Return why this version of the package can't serve the request, whether it is installed or not."""
    if spec.device.type != device_type:
        return f"flash-attn runs on {device_type}, not on {spec.device.type}"
    if spec.dtype not in DTYPES:
        return f"flash-attn reads float16 and bfloat16, not {spec.dtype}"
    if spec.head_dim > MAX_HEAD_DIM or spec.head_dim % 8:
        return f"flash-attn takes head widths up to {MAX_HEAD_DIM} in steps of 8, not {spec.head_dim}"
    if spec.dropout and version == 3:
        return "flash-attn 3 has no dropout"
    return None


def load_package(version: int) -> PackageFlashAttention:
    """Return the backend of an installed version. Raises ``UnsupportedAttentionError`` where it is broken."""
    reason = why_broken(version)
    if reason is not None:
        raise UnsupportedAttentionError(f"the attention backend 'flash_attention_{version}' can't run here: {reason}.")
    return PackageFlashAttention(importlib.import_module(MODULES[version]), version)


# What the specs of 'flash_attention_2' and 'flash_attention_3' name.
load_version_2, load_version_3 = (functools.partial(load_package, version) for version in (2, 3))
why_version_2_absent, why_version_3_absent = (functools.partial(why_absent, version) for version in (2, 3))
why_version_2_unsupported, why_version_3_unsupported = (
    functools.partial(why_version_unsupported, version) for version in (2, 3)
)


@dataclass(frozen=True, slots=True)
class WholePlan:
    """One call for the whole batch."""

    causal: bool = False
    window: tuple[int, int] = NO_WINDOW


@dataclass(frozen=True, slots=True)
class CachePlan:
    """One call for the whole batch, each row with its own first and last key."""

    key_start_B: torch.Tensor
    """int32, as the package requires."""
    key_end_B: torch.Tensor
    """int32, at least ``key_start_B``."""
    causal: bool = False
    window: tuple[int, int] = NO_WINDOW


@dataclass(frozen=True, slots=True)
class PackedPieces:
    """Pieces for one call with lengths: positions of the flattened batch, and where each piece begins."""

    query_index_M: torch.Tensor
    key_index_M: torch.Tensor
    query_offsets: torch.Tensor
    """int32, one more than there are pieces: where each begins, and the end of the last."""
    key_offsets: torch.Tensor
    longest_query: int
    longest_key: int
    causal: bool
    window: tuple[int, int]


class PackageFlashAttention:
    """The attention contract over the flash-attn package, version 2 or 3. ``module`` is the package's."""

    def __init__(self, module: ModuleType | Any, version: int, *, device_type: str = "cuda") -> None:
        self.module = module
        self.version = version
        self.device_type = device_type

    def plan(self, spec: AttentionSpec) -> WholePlan | CachePlan | list[PackedPieces]:
        """Return how to call the package. Reads values back from the device for pieces only."""
        reason = why_package_unsupported(self.version, spec, device_type=self.device_type)
        if reason is not None:
            raise UnsupportedAttentionError(reason)
        if is_uniform(spec) and spec.query_length <= spec.key_length:
            return WholePlan(spec.causal, _window(spec))
        return _cache_plan(spec) or _packed_pieces(spec)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: WholePlan | CachePlan | list[PackedPieces],
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return ``out_BTHD`` in the query's dtype."""
        if isinstance(prepared, CachePlan):
            out = self.module.flash_attn_with_kvcache(
                query_BTHD,
                key_BSKD,
                value_BSKD,
                cache_seqlens=prepared.key_end_B,
                cache_leftpad=prepared.key_start_B,
                softmax_scale=scale,
                causal=prepared.causal,
                window_size=prepared.window,
            )
            return _output(out)
        # Version 3 has no argument for dropout at all.
        options = {"dropout_p": dropout} if self.version == 2 else {}
        if isinstance(prepared, WholePlan):
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
        query_MHD, key_MKD, value_MKD = (tensor.flatten(0, 1) for tensor in (query_BTHD, key_BSKD, value_BSKD))
        out_MHD = zeros_like_query(query_MHD, key_MKD, value_MKD)
        for pack in prepared:
            out = self.module.flash_attn_varlen_func(
                query_MHD[pack.query_index_M],
                key_MKD[pack.key_index_M],
                value_MKD[pack.key_index_M],
                cu_seqlens_q=pack.query_offsets,
                cu_seqlens_k=pack.key_offsets,
                max_seqlen_q=pack.longest_query,
                max_seqlen_k=pack.longest_key,
                softmax_scale=scale,
                causal=pack.causal,
                window_size=pack.window,
                **options,
            )
            out_MHD = out_MHD.index_copy(0, pack.query_index_M, _output(out))
        return out_MHD.view_as(query_BTHD)

    def __repr__(self) -> str:
        return f"PackageFlashAttention(version {self.version})"


def _output(result: Any) -> torch.Tensor:
    """Return the output; the first releases of version 3 return the logarithms of the sums as well."""
    output: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return output


def _window(spec: AttentionSpec) -> tuple[int, int]:
    """Return the package's window: how many keys a query sees on its left and on its right, without its own."""
    if spec.sliding_window is None or not has_window(spec):
        return NO_WINDOW
    left = spec.sliding_window - 1
    return (left, 0 if spec.causal else left)


def _cache_plan(spec: AttentionSpec) -> CachePlan | None:
    """Return the call for rows of different lengths, None where it can't serve them. Reads nothing back."""
    # The function has no backward pass and no dropout, and its build for AMD ignores where the rows begin.
    if spec.requires_grad or spec.dropout or torch.version.hip is not None:
        return None
    if spec.query_length == 1:  # one range of keys, whatever the rules
        ranges = visible_ranges(spec)
        first_B, end_B = ranges.first_BT[:, 0], ranges.end_BT[:, 0]
        return CachePlan(first_B.minimum(end_B).int(), end_B.int())
    # With a row's last key at its last query the package aligns them as the contract does.
    if spec.key_start_B is None or spec.key_end_B is not None or spec.document_ids_BS is not None:
        return None
    if spec.query_length > spec.key_length:
        return None
    end_B = torch.full_like(spec.key_start_B, spec.key_length)
    return CachePlan(spec.key_start_B.int(), end_B.int(), spec.causal, _window(spec))


def _packed_pieces(spec: AttentionSpec) -> list[PackedPieces]:
    """Return the request's pieces, grouped by their rules."""
    alike: dict[tuple[bool, bool], list[Segment]] = {}
    for piece in segments(spec):
        alike.setdefault((piece.causal, piece.windowed), []).append(piece)
    return [
        _packed(spec, pieces, causal, _window(spec) if windowed else NO_WINDOW)
        for (causal, windowed), pieces in alike.items()
    ]


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
        query_index_M=index(queries),
        key_index_M=index(keys),
        query_offsets=offsets(queries),
        key_offsets=offsets(keys),
        longest_query=max(length for _, length in queries),
        longest_key=max(length for _, length in keys),
        causal=causal,
        window=window,
    )
