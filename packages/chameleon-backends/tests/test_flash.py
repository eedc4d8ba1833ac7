"""The backend ``flash``: torch's kernel as it runs here, and the flash-attn package through a stand-in.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, N tokens of all pieces.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chameleon_backends import (
    AttentionBackend,
    AttentionSpec,
    UnsupportedAttentionError,
    get_attention_backend,
    why_attention_unsupported,
)
from chameleon_backends.backends import flash
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.testing import AttentionBackendConformance


def reference(
    query_BTHD: Tensor,
    key_BSKD: Tensor,
    value_BSKD: Tensor,
    scale: float,
    causal: bool,
    window: tuple[int, int],
    dropout: float,
) -> Tensor:
    """What the package documents: aligned to the last key, window (left, right) with -1 for no end."""
    T, S = query_BTHD.shape[1], key_BSKD.shape[1]
    ahead_TS = torch.arange(S) - (torch.arange(T) + S - T)[:, None]
    left, right = window[0], 0 if causal else window[1]
    visible_TS = torch.ones(T, S, dtype=torch.bool)
    if left >= 0:
        visible_TS &= ahead_TS >= -left
    if right >= 0:
        visible_TS &= ahead_TS <= right
    return EagerAttention().attend(query_BTHD, key_BSKD, value_BSKD, visible_TS[None], scale=scale, dropout=dropout)


class StandInTwo:
    """The two functions that are called of ``flash_attn`` (version 2), with its arguments."""

    @staticmethod
    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert softmax_scale is not None
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        return reference(q, k, v, softmax_scale, causal, window_size, dropout_p)

    @staticmethod
    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert softmax_scale is not None
        assert q.ndim == k.ndim == v.ndim == 3
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert cu_seqlens_q[-1] == len(q)
        assert cu_seqlens_k[-1] == len(k) == len(v)
        assert cu_seqlens_q.diff().max() == max_seqlen_q
        assert cu_seqlens_k.diff().max() == max_seqlen_k
        pieces = zip(
            q.split(cu_seqlens_q.diff().tolist()),
            k.split(cu_seqlens_k.diff().tolist()),
            v.split(cu_seqlens_k.diff().tolist()),
            strict=True,
        )
        return torch.cat(
            [
                reference(a[None], b[None], c[None], softmax_scale, causal, window_size, dropout_p)[0]
                for a, b, c in pieces
            ]
        )


class StandInThree:
    """The same of ``flash_attn_interface`` (version 3): no dropout, and its first releases return two things."""

    @staticmethod
    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        return StandInTwo.flash_attn_func(q, k, v, 0.0, softmax_scale, causal, window_size)

    @staticmethod
    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        seqused_q: Tensor | None = None,
        seqused_k: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> tuple[Tensor, None]:
        assert seqused_q is None
        assert seqused_k is None
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return StandInTwo.flash_attn_varlen_func(q, k, v, *lengths, 0.0, softmax_scale, causal, window_size), None


class TestFlash(AttentionBackendConformance):
    backend_name = "flash"


class TestPackageTwo(AttentionBackendConformance):
    @pytest.fixture
    def backend(self) -> AttentionBackend:
        return flash.PackageFlashAttention(StandInTwo, 2, device_type="cpu")


class TestPackageThree(AttentionBackendConformance):
    @pytest.fixture
    def backend(self) -> AttentionBackend:
        return flash.PackageFlashAttention(StandInThree, 3, device_type="cpu")


def spec(device: str = "cpu", dtype: torch.dtype = torch.bfloat16, **fields: object) -> AttentionSpec:
    plain = {"batch_size": 1, "query_length": 4, "key_length": 4, "num_heads": 1, "num_key_value_heads": 1}
    return AttentionSpec(**{"head_dim": 16, "dtype": dtype, "device": torch.device(device), **plain, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(("version", "module"), [(2, "flash_attn"), (3, "flash_attn_interface")])
def test_the_names_of_the_package_insist_on_it(version: int, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedAttentionError, match=f"'flash_attention_{version}' can't run .* module '{module}'"):
        get_attention_backend(f"flash_attention_{version}")


@pytest.mark.parametrize(
    ("version", "capability", "reason"),
    [
        (2, None, "needs a CUDA device"),
        (2, (7, 5), "capability 8.x"),
        (2, (8, 0), None),
        (2, (9, 0), None),
        (3, (8, 9), "capability 9.x"),
        (3, (9, 0), None),
        (3, (10, 0), "capability 9.x"),
    ],
)
def test_an_installed_package_needs_its_device(
    version: int, capability: tuple[int, int] | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    found = flash.why_version_unsupported(version, None)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("version", "request_", "reason"),
    [
        pytest.param(2, spec(), "runs on cuda, not on cpu", id="device"),
        pytest.param(2, spec("cuda", torch.float32), "reads float16 and bfloat16", id="dtype"),
        pytest.param(2, spec("cuda", head_dim=20), "in steps of 8", id="width"),
        pytest.param(2, spec("cuda", dropout=True), None, id="dropout of version 2"),
        pytest.param(3, spec("cuda", dropout=True), "flash-attn 3 has no dropout", id="dropout of version 3"),
    ],
)
def test_the_package_says_what_it_cannot_do(version: int, request_: AttentionSpec, reason: str | None) -> None:
    found = flash.why_package_unsupported(version, request_)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(spec(dropout=True), "no dropout on a CPU", id="dropout"),
        pytest.param(spec(sliding_window=2), "no sliding window", id="window"),
        pytest.param(spec(sliding_window=4), None, id="window as long as the keys"),
        pytest.param(spec(query_length=1, sliding_window=2), None, id="window of one new token"),
        pytest.param(spec("cuda", torch.float32), "not torch.float32", id="float32 on CUDA"),
        pytest.param(spec("meta"), "no flash kernel for the device 'meta'", id="device"),
    ],
)
def test_torchs_kernel_says_what_it_cannot_do(request_: AttentionSpec, reason: str | None) -> None:
    found = why_attention_unsupported("flash", request_)
    assert found is None if reason is None else reason in str(found)
