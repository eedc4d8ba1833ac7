"""How far a backend may be from ``eager`` in float64, by dtype, and why."""

from __future__ import annotations

import torch

TOLERANCES: dict[torch.dtype, float] = {
    # Unit roundoff u = 2^-53. As float32.
    torch.float64: 2.0**-53 * 2**11,
    # u = 2^-24. Rounding errors of a sum of n terms grow with the root of n. A score sums up to 256 products (the
    # head's width), whose absolute values add up to at most about 2^5 at the scales drawn here: 2^4 * 2^5 u, which is
    # then the relative error of a weight. The sums over keys add less. The backward pass takes such errors in once
    # more from the weights and once from the gradients of the scores: 4 * 2^9 u.
    torch.float32: 2.0**-24 * 2**11,
    # u = 2^-11 and u = 2^-9. Products are summed in float32, so width and length don't matter; what counts are single
    # roundings: of the weights or their gradients before the second product, of the output that the backward pass
    # reads, of the result, and of each head's share where a group's gradients are added up: 4 u, with a factor of 2
    # for kernels that also round the score's gradient and the scaled query.
    torch.float16: 2.0**-11 * 8,
    torch.bfloat16: 2.0**-9 * 8,
}
"""The allowed error of an element, relative to the sum of the absolute values of the terms that add up to it.

Relative to that sum, not to the element: where terms cancel, their rounding errors don't.
"""


def assert_close(
    what: str, actual: torch.Tensor, expected: torch.Tensor, terms: torch.Tensor, dtype: torch.dtype
) -> None:
    """Raise ``AssertionError`` unless each element of ``actual`` is within its tolerance of ``expected``.

    ``expected`` and ``terms``, the sums of the absolute terms of each element, are float64 and of one shape. ``dtype``
    is that of the backend's inputs.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{what} has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if actual.dtype != dtype:
        raise AssertionError(f"{what} is {actual.dtype}, expected {dtype}")
    if actual.isnan().any():
        raise AssertionError(f"{what} has NaN")
    # The smallest normal number, so that results near zero may underflow.
    allowed = TOLERANCES[dtype] * terms + torch.finfo(dtype).tiny
    excess = (actual.double() - expected).abs() / allowed
    if excess.max() > 1:
        worst = tuple(int(index) for index in torch.unravel_index(excess.argmax(), excess.shape))
        raise AssertionError(
            f"{what} is {actual[worst].item():.6g} at {worst}, expected {expected[worst].item():.6g} "
            f"within {allowed[worst].item():.1e} ({(excess > 1).sum()} of {excess.numel()} elements are off)"
        )
