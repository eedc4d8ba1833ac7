"""The backend ``flash``: torch's kernel as it runs here, and the flash-attn package through a stand-in.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, N tokens of all pieces.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chameleon_backends import (
    AttentionBackend,
    AttentionSpec,
    UnsupportedAttentionError,
    get_attention_backend,
    why_attention_unavailable,
    why_attention_unsupported,
)
from chameleon_backends.backends import flash_package
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.backends.flash import FlashAttention
from chameleon_backends.backends.flash_package import CachePlan, PackageFlashAttention, WholePlan
from chameleon_backends.backends.flash_torch import TorchFlashAttention
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
    """Return what the package documents: aligned to the last key, window (left, right) with -1 for no end."""
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
    """The functions of ``flash_attn`` that are called, with the full signatures of its versions 2.7.0 to 2.8.3."""

    @staticmethod
    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
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
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
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

    @staticmethod
    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        rotary_cos: Tensor | None = None,
        rotary_sin: Tensor | None = None,
        cache_seqlens: int | Tensor | None = None,
        cache_batch_idx: Tensor | None = None,
        cache_leftpad: Tensor | None = None,
        block_table: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        alibi_slopes: Tensor | None = None,
        num_splits: int = 0,
        return_softmax_lse: bool = False,
    ) -> Tensor:
        assert softmax_scale is not None
        assert isinstance(cache_seqlens, Tensor)
        assert cache_leftpad is not None
        assert cache_seqlens.dtype == cache_leftpad.dtype == torch.int32
        assert cache_seqlens.is_contiguous()
        assert cache_leftpad.is_contiguous()
        assert not any(tensor.requires_grad for tensor in (q, k_cache, v_cache)), "it has no backward pass"
        rows = zip(
            q[:, None], k_cache[:, None], v_cache[:, None], cache_leftpad.tolist(), cache_seqlens.tolist(), strict=True
        )
        return torch.cat(
            [
                reference(a, b[:, begin:end], c[:, begin:end], softmax_scale, causal, window_size, 0.0)
                for a, b, c, begin, end in rows
            ]
        )


class StandInThree:
    """The functions of ``flash_attn_interface`` (version 3): no dropout, and its first releases return two values."""

    @staticmethod
    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        qv: Tensor | None = None,
        q_descale: Tensor | None = None,
        k_descale: Tensor | None = None,
        v_descale: Tensor | None = None,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        sm_margin: int = 0,
        return_attn_probs: bool = False,
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
        qv: Tensor | None = None,
        q_descale: Tensor | None = None,
        k_descale: Tensor | None = None,
        v_descale: Tensor | None = None,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        sm_margin: int = 0,
        return_attn_probs: bool = False,
    ) -> tuple[Tensor, None]:
        assert seqused_q is None
        assert seqused_k is None
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return StandInTwo.flash_attn_varlen_func(q, k, v, *lengths, 0.0, softmax_scale, causal, window_size), None

    @staticmethod
    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        qv: Tensor | None = None,
        rotary_cos: Tensor | None = None,
        rotary_sin: Tensor | None = None,
        cache_seqlens: int | Tensor | None = None,
        cache_batch_idx: Tensor | None = None,
        cache_leftpad: Tensor | None = None,
        page_table: Tensor | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k_new: Tensor | None = None,
        max_seqlen_q: int | None = None,
        rotary_seqlens: Tensor | None = None,
        q_descale: Tensor | None = None,
        k_descale: Tensor | None = None,
        v_descale: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        scheduler_metadata: Tensor | None = None,
        num_splits: int = 0,
        pack_gqa: bool | None = None,
        sm_margin: int = 0,
        return_softmax_lse: bool = False,
    ) -> Tensor:
        return StandInTwo.flash_attn_with_kvcache(
            q,
            k_cache,
            v_cache,
            cache_seqlens=cache_seqlens,
            cache_leftpad=cache_leftpad,
            softmax_scale=softmax_scale,
            causal=causal,
            window_size=window_size,
        )


STAND_INS: dict[int, type] = {2: StandInTwo, 3: StandInThree}


class TestFlash(AttentionBackendConformance):
    backend_name = "flash"


class TestPackageTwo(AttentionBackendConformance):
    @pytest.fixture
    def backend(self) -> AttentionBackend:
        return PackageFlashAttention(StandInTwo, 2, device_type="cpu")


class TestPackageThree(AttentionBackendConformance):
    max_examples = 20  # the calls are made by the same code as those of version 2

    @pytest.fixture
    def backend(self) -> AttentionBackend:
        return PackageFlashAttention(StandInThree, 3, device_type="cpu")


def spec(device: str = "cpu", dtype: torch.dtype = torch.bfloat16, **fields: object) -> AttentionSpec:
    plain = {"batch_size": 1, "query_length": 4, "key_length": 4, "num_heads": 1, "num_key_value_heads": 1}
    return AttentionSpec(**{"head_dim": 16, "dtype": dtype, "device": torch.device(device), **plain, **fields})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    """Forget which packages could be imported, which is found out once per process."""
    flash_package.why_broken.cache_clear()
    yield
    flash_package.why_broken.cache_clear()


def pretend_device(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *versions: int) -> None:
    """Pretend that only these versions of the package can be imported."""
    for version, name in flash_package.MODULES.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for function in flash_package.FUNCTIONS:
            setattr(module, function, getattr(STAND_INS[version], function))
        monkeypatch.setitem(sys.modules, name, module if version in versions else None)  # type: ignore[arg-type]


class TestWhatIsThere:
    @pytest.mark.parametrize(("version", "module"), [(2, "flash_attn"), (3, "flash_attn_interface")])
    def test_the_names_of_the_package_require_it(
        self, version: int, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        message = f"'flash_attention_{version}' can't run .* module '{module}' .* isn't installed"
        with pytest.raises(UnsupportedAttentionError, match=message):
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
        self, version: int, capability: tuple[int, int] | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_installed(monkeypatch, version)
        pretend_device(monkeypatch, capability)
        found = why_attention_unavailable(f"flash_attention_{version}")
        assert found is None if reason is None else reason in str(found)

    @pytest.mark.parametrize(
        ("installed", "request_", "served_by"),
        [
            pytest.param((2, 3), spec("cuda"), 3, id="the newest first"),
            pytest.param((2, 3), spec("cuda", dropout=True), 2, id="the one with dropout"),
            pytest.param((2,), spec("cuda"), 2, id="the only one"),
            pytest.param((2, 3), spec("cuda", head_dim=20), None, id="a width that neither has"),
            pytest.param((2, 3), spec("cpu"), None, id="on a CPU"),
            pytest.param((), spec("cuda"), None, id="none is installed"),
        ],
    )
    def test_a_package_that_serves_the_request_comes_before_torchs_kernel(
        self,
        installed: tuple[int, ...],
        request_: AttentionSpec,
        served_by: int | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pretend_device(monkeypatch, (9, 0))
        pretend_installed(monkeypatch, *installed)
        kernels, _ = FlashAttention().plan(request_)
        if served_by is None:
            assert isinstance(kernels, TorchFlashAttention)
        else:
            assert isinstance(kernels, PackageFlashAttention)
            assert kernels.version == served_by
            assert kernels.module is sys.modules[flash_package.MODULES[served_by]]

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            pytest.param(
                "raise ImportError('undefined symbol: _ZN3c104cuda')",
                r"is installed, but its module 'flash_attn' fails to import: ImportError\('undefined symbol",
                id="built for another torch",
            ),
            pytest.param(
                "def flash_attn_func(): ...",
                "isn't that of flash-attn 2: it has no flash_attn_varlen_func, flash_attn_with_kvcache",
                id="another package of that name",
            ),
        ],
    )
    def test_a_broken_package_leaves_torchs_kernel_and_is_named(
        self, source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_device(monkeypatch, (8, 0))
        (tmp_path / "flash_attn.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        pretend_installed(monkeypatch)
        del sys.modules["flash_attn"]  # found in tmp_path, and put back as it was by monkeypatch
        assert why_attention_unavailable("flash_attention_2") is None, "a listing imports nothing"
        with pytest.raises(UnsupportedAttentionError, match=f"'flash_attention_2' can't run here: .*{reason}"):
            get_attention_backend("flash_attention_2")
        assert re.search(reason, str(why_attention_unsupported("flash_attention_2", spec("cuda"))))
        with pytest.warns(UserWarning, match=f"'flash' doesn't use a package: .*{reason}"):
            backend = get_attention_backend("flash")
        kernels, _ = backend.plan(spec("cuda"))
        assert isinstance(kernels, TorchFlashAttention)


class TestWhatItRefuses:
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
    def test_the_package_says_what_it_cannot_do(
        self, version: int, request_: AttentionSpec, reason: str | None
    ) -> None:
        found = flash_package.why_package_unsupported(version, request_)
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
    def test_torchs_kernel_says_what_it_cannot_do(self, request_: AttentionSpec, reason: str | None) -> None:
        found = why_attention_unsupported("flash", request_)
        assert found is None if reason is None else reason in str(found)


class TestWhichCall:
    """Reading back from the device makes the host wait for it; of a tensor on "meta" there is nothing to read."""

    @staticmethod
    def plan(**fields: Any) -> object:
        return PackageFlashAttention(StandInTwo, 2, device_type="meta").plan(spec("meta", batch_size=2, **fields))

    def test_without_padding_the_batch_is_one_call(self) -> None:
        assert isinstance(self.plan(), WholePlan)
        assert isinstance(self.plan(query_length=1, sliding_window=2), WholePlan)

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"query_length": 4}, id="prompt"),
            pytest.param({"query_length": 2, "sliding_window": 2}, id="a few new tokens, window"),
            pytest.param({"query_length": 1}, id="new token"),
            pytest.param({"query_length": 1, "key_end_B": True, "sliding_window": 2}, id="new token, both sides"),
        ],
    )
    def test_generation_with_padding_reads_nothing_back_and_copies_no_keys(self, fields: dict[str, Any]) -> None:
        padding = {"key_start_B": torch.zeros(2, dtype=torch.int64, device="meta")}
        if fields.get("key_end_B"):
            fields = fields | {"key_end_B": padding["key_start_B"]}
        assert isinstance(self.plan(**padding, **fields), CachePlan)

    def test_where_the_kernel_for_caches_would_be_wrong_pieces_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = PackageFlashAttention(StandInTwo, 2, device_type="cpu")
        start_B, end_B = torch.tensor([1]), torch.tensor([3])
        assert isinstance(backend.plan(spec(key_start_B=start_B)), CachePlan)
        assert isinstance(backend.plan(spec(key_start_B=start_B, requires_grad=True)), list)
        assert isinstance(backend.plan(spec(key_start_B=start_B, dropout=True)), list)
        assert isinstance(backend.plan(spec(key_start_B=start_B, key_end_B=end_B)), list)
        monkeypatch.setattr(torch.version, "hip", "6.4")
        assert isinstance(backend.plan(spec(key_start_B=start_B)), list)


class Settings(TorchDispatchMode):
    """Notes at each operation whether torch's other kernels are switched off, which would hit all threads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[bool, bool]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add((torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        return func(*args, **(kwargs or {}))


def test_torchs_settings_for_all_threads_are_left_alone() -> None:
    spec = AttentionSpec(
        batch_size=1,
        query_length=3,
        key_length=3,
        num_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    backend = TorchFlashAttention()
    states = [torch.ones(1, 3, heads, 4) for heads in (2, 1, 1)]
    with Settings() as settings:
        backend.attend(*states, backend.plan(spec), scale=1.0)
    assert settings.found == {(True, True)}
