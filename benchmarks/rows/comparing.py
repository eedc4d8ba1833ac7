"""Whether two sides computed the same: by relative errors, whose bounds are stated here for each dtype.

Shapes: B batch, T query length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .row import DifferentResultsError

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""The largest ‖ours − theirs‖ / ‖theirs‖: rounding errors (6e-8, 4e-3) of both sides, added up by some dozens of
operations one after the other."""
MASKED = -1e30
"""What is below is no logit, but masks one."""


def require_near(ours: Tensor, theirs: Tensor, dtype: torch.dtype, what: str) -> None:
    """Raise ``DifferentResultsError`` where tensors differ by more than the rounding of ``dtype``."""
    ours, theirs = ours.detach().float(), theirs.detach().float()
    if ours.shape != theirs.shape:
        raise DifferentResultsError(f"{what}: ours is {list(ours.shape)}, theirs {list(theirs.shape)}.")
    error = float((ours - theirs).norm() / theirs.norm())
    if not error <= TOLERANCES[dtype]:
        raise DifferentResultsError(f"{what} differ by {error:.1e}; the rounding allows {TOLERANCES[dtype]:.0e}.")


def require_near_logits(ours_BTV: Tensor, theirs_BTV: Tensor, dtype: torch.dtype) -> None:
    """Raise ``DifferentResultsError`` where logits differ, or others are masked by the dtype's lowest number."""
    kept = theirs_BTV > MASKED
    require_equal(ours_BTV > MASKED, kept, "masks of logits")
    require_near(ours_BTV[kept], theirs_BTV[kept], dtype, "logits")


def require_equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raise ``DifferentResultsError`` where tensors aren't the same."""
    if not torch.equal(ours, theirs):
        raise DifferentResultsError(f"{what} aren't equal.")


def require_close_numbers(ours: float, theirs: float, bound: float, what: str) -> None:
    """Raise ``DifferentResultsError`` where a number is further from theirs than a share ``bound`` of it."""
    if not math.isclose(ours, theirs, rel_tol=bound):
        raise DifferentResultsError(f"{what}: ours is {ours:.6g}, theirs {theirs:.6g}; they may differ by {bound:.0e}.")


def require_likeliest(logits_BTV: Tensor, chosen_BT: Tensor, dtype: torch.dtype) -> None:
    """Raise ``DifferentResultsError`` unless each chosen id is the likeliest by the other side's logits, or a near-tie.

    A tie is near where the logits differ by six of the errors that ``TOLERANCES`` allows in their size.
    """
    logits_BTV = logits_BTV.float()
    gap_BT = logits_BTV.amax(-1) - logits_BTV.gather(-1, chosen_BT[..., None])[..., 0]
    allowed = text_deviation(logits_BTV) * 6 * TOLERANCES[dtype]
    if not bool((gap_BT <= allowed).all()):
        raise DifferentResultsError(
            f"an id was chosen whose logit is {float(gap_BT.max()):.2g} below the likeliest one's by the other side; "
            f"the rounding allows {allowed:.2g}."
        )


def require_in_nucleus(logits_BTV: Tensor, chosen_BT: Tensor, top_p: float, temperature: float) -> None:
    """Raise ``DifferentResultsError`` unless each chosen id is in the nucleus that the other side's logits give."""
    probabilities_BTV = (logits_BTV.float() / temperature).softmax(-1)
    chosen_BT1 = probabilities_BTV.gather(-1, chosen_BT[..., None])
    likelier_BT = (probabilities_BTV * (probabilities_BTV > chosen_BT1)).sum(-1)
    # The mass of the likelier ids is below top_p for each id of the nucleus.
    if not bool((likelier_BT <= top_p + 1e-3).all()):
        raise DifferentResultsError(
            f"an id was sampled outside the nucleus of {top_p}: likelier ids hold {float(likelier_BT.max()):.4f}."
        )


def text_deviation(logits_BTV: Tensor) -> float:
    """Return the standard deviation of logits, without those that are masked by the dtype's lowest number."""
    return float(logits_BTV[logits_BTV > MASKED].std())


def all_of(*checks: Callable[[], None]) -> Callable[[], None]:
    """Return a comparison that makes several."""

    def compare() -> None:
        for check in checks:
            check()

    return compare
