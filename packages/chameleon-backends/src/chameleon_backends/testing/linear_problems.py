"""Hypothesis strategies for weight quantizers: a layer, its weight and an input.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..weight_quantizer import LinearSpec
from .strategies import DTYPES

# Widths that groups fill, widths that blocks don't, and widths that no kernel takes.
IN_FEATURES = (1, 7, 32, 64, 96, 128, 200, 256, 512)
OUT_FEATURES = (1, 5, 16, 48, 64, 80, 130)
# Kernels are made for one row and a few; many, and none, they may refuse.
INPUT_SHAPES = ((1,), (3,), (2, 3), (150,), (1, 0), ())
INPUT_LAYOUTS = ("contiguous", "part of a longer one", "every other row", "columns first")


@dataclass(frozen=True)
class LinearProblem:
    """A layer with a weight [O, I] and an input [..., I] that fit it, both of the layer's dtype."""

    spec: LinearSpec
    weight_OI: Tensor
    input: Tensor

    def __repr__(self) -> str:
        """Return the request; the numbers would be noise."""
        return f"LinearProblem({self.spec}, input of shape {list(self.input.shape)} and strides {self.input.stride()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print a failing example for hypothesis."""
        printer.text(repr(self))


@st.composite
def linear_problems(
    draw: st.DrawFn, *, dtypes: Sequence[torch.dtype] = DTYPES, device: str = "cpu", plain: bool = False
) -> LinearProblem:
    """Draw layers of various widths with normally distributed weights and inputs.

    The rows of a weight may have different magnitudes, and some may be zero; with ``plain`` all are alike. The input
    has one of several memory layouts.
    """
    spec = LinearSpec(
        in_features=draw(st.sampled_from(IN_FEATURES)),
        out_features=draw(st.sampled_from(OUT_FEATURES)),
        dtype=draw(st.sampled_from(dtypes)),
        device=torch.device(device),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight_OI = 0.05 * torch.randn(spec.out_features, spec.in_features, generator=generator)
    if not plain:
        exponents = draw(st.lists(st.integers(-6, 6) | st.none(), min_size=1, max_size=4))
        sizes = [0.0 if exponent is None else 2.0**exponent for exponent in exponents]
        weight_OI *= torch.tensor([sizes[row % len(sizes)] for row in range(spec.out_features)])[:, None]
    shape = (*draw(st.sampled_from(INPUT_SHAPES)), spec.in_features)
    values = _laid_out(torch.randn(shape, generator=generator).to(spec.dtype), draw(st.sampled_from(INPUT_LAYOUTS)))
    return LinearProblem(spec, weight_OI.to(spec.dtype).to(device), values.to(device))


def make_linear_problem(spec: LinearSpec, *, rows: int = 3, seed: int = 0) -> LinearProblem:
    """Return a problem for a layer, with rows of like magnitude."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = 0.05 * torch.randn(spec.out_features, spec.in_features, generator=generator)
    values_MI = torch.randn(rows, spec.in_features, generator=generator)
    return LinearProblem(spec, weight_OI.to(spec.device, spec.dtype), values_MI.to(spec.device, spec.dtype))


def _laid_out(values: Tensor, layout: str) -> Tensor:
    """Return the same numbers in another memory layout."""
    if layout == "part of a longer one":
        # Begins at an address that no aligned load may read.
        longer = values.new_zeros(values.numel() + 1)
        longer[1:] = values.flatten()
        return longer[1:].view(values.shape)
    if layout == "every other row" and values.dim() > 1:
        doubled = values.repeat_interleave(2, dim=0)
        return doubled[::2]
    if layout == "columns first":
        return values.transpose(-1, 0).contiguous().transpose(-1, 0)
    return values
