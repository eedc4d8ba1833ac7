"""Flash attention by the best kernel available: flash-attn 3, flash-attn 2, torch's own.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ..attention import AttentionSpec
from .flash_package import (
    VERSIONS,
    PackageFlashAttention,
    load_package,
    why_absent,
    why_broken,
    why_package_unsupported,
    why_version_unsupported,
)
from .flash_torch import TorchFlashAttention, why_torch_unsupported


def why_flash_unsupported(spec: AttentionSpec) -> str | None:
    """Return why neither the package nor torch's kernel can serve the request."""
    reason = why_torch_unsupported(spec)
    if reason is None or any(why_version_unsupported(version, spec) is None for version in VERSIONS):
        return None
    return reason


class FlashAttention:
    """The first kernel that serves the request. Warns of a package that is installed and can't be used."""

    def __init__(self) -> None:
        self._packages: dict[int, PackageFlashAttention] = {}
        self._torch = TorchFlashAttention()
        for version in VERSIONS:
            if why_absent(version) is not None:
                continue
            broken = why_broken(version)
            if broken is None:
                self._packages[version] = load_package(version)
            else:
                warnings.warn(f"the attention backend 'flash' doesn't use a package: {broken}", stacklevel=2)

    def plan(self, spec: AttentionSpec) -> tuple[PackageFlashAttention | TorchFlashAttention, Any]:
        """Return the backend whose kernel serves the request, and its plan."""
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
        """Return ``out_BTHD`` in the query's dtype."""
        kernels, plan = prepared
        return kernels.attend(query_BTHD, key_BSKD, value_BSKD, plan, scale=scale, dropout=dropout)

    def __repr__(self) -> str:
        return f"FlashAttention({', '.join(map(repr, (*self._packages.values(), self._torch)))})"
