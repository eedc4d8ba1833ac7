"""Tolerances per dtype between quantized latents and the latents of their codes, each with its reason."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES: dict[torch.dtype, float] = {
    # Unit roundoff u = 2^-53. As float32.
    torch.float64: 2.0**-53 * 2**4,
    # u = 2^-24. The latent of a code is a weight, a function of a number that both computations share, or a sum of a
    # few of these; a straight-through estimate z + (q - z) rounds twice more. 2^4 u covers eight operations of one
    # rounding each in the worst case.
    torch.float32: 2.0**-24 * 2**4,
    # u = 2^-11 and u = 2^-9. Computed in float32 and rounded once, or twice more by a straight-through estimate.
    torch.float16: 2.0**-11 * 2**2,
    torch.bfloat16: 2.0**-9 * 2**2,
}
"""Largest error of an element, relative to the absolute values that it is computed from."""


def assert_close(what: str, actual: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """Raise ``AssertionError`` unless each element is within its tolerance, that of the coarser of the two dtypes.

    ``magnitude`` is what the tolerance is relative to: the absolute values of the terms behind each element.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{what} have shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    tolerance = max(TOLERANCES[actual.dtype], TOLERANCES[expected.dtype])
    error = (actual.double() - expected.double()).abs()
    # The smallest normal number, so that results near zero may underflow.
    excess = error / (tolerance * magnitude.double() + torch.finfo(torch.float32).tiny)
    if not (excess <= 1).all():
        worst = tuple(int(index) for index in torch.unravel_index(excess.nan_to_num(torch.inf).argmax(), excess.shape))
        raise AssertionError(
            f"{what} are {actual[worst].item():.6g} at {worst}, expected {expected[worst].item():.6g} "
            f"({(~(excess <= 1)).sum()} of {excess.numel()} elements are off)"
        )
