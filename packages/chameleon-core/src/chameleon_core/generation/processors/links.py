"""A processor in a chain, and what is wrong with what it returns: errors that name it and its distribution.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from chameleon_backends.plugin_calls import described, is_ours, said
from chameleon_backends.plugins import always_supported

from ...errors import BrokenPluginError, GenerationError
from .contract import LogitsProcessor, RowView, StatelessProcessor

T = TypeVar("T")


class NothingAllowedError(GenerationError):
    """Processors forbid every id that may come next."""


class Link:
    """A processor, with what errors call it.

    What it raises is a ``BrokenPluginError``, except for errors of the toolkit's packages, which pass with a note of
    where they came from.
    """

    def __init__(
        self,
        processor: LogitsProcessor,
        owner: str,
        *,
        unsupported: Callable[[RowView], str | None] = always_supported,
        is_trusted: bool = False,
    ) -> None:
        self.processor = processor
        self.owner = owner
        self.unsupported = unsupported
        self.is_trusted = is_trusted
        """Whether it is one of this package's own, which are checked once, after all of them."""
        self.has_states = not all(_is_inherited(processor, name) for name in ("start", "advance"))
        """Whether a row's state may be another one than None."""

    def start(self, row: RowView) -> Any:
        """Return the state of a row. Raises ``GenerationError`` where the processor can't serve it."""
        reason = called(self.owner, "asked whether it supports a row", self.unsupported, row)
        if reason is not None:
            raise GenerationError(f"{self.owner} can't be used here: {reason.rstrip('.')}.")
        return called(self.owner, "starting a row", self.processor.start, row)

    def advance(self, state: Any, token_id: int) -> Any:
        """Return the state after one more id."""
        try:
            return self.processor.advance(state, token_id)
        except BaseException as error:
            failed(self.owner, "advancing a row", error)

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any]) -> Tensor:
        """Return the processed logits."""
        processed_RA = called(self.owner, "processing logits", self.processor.process, logits_RA, ids_A, states)
        if self.is_trusted:
            return processed_RA
        expected = (logits_RA.shape, logits_RA.dtype, logits_RA.device)
        if not isinstance(processed_RA, Tensor):
            raise BrokenPluginError(f"{self.owner} returned {described(processed_RA)} in place of logits.")
        if (processed_RA.shape, processed_RA.dtype, processed_RA.device) != expected:
            raise BrokenPluginError(
                f"{self.owner} returned logits {list(processed_RA.shape)} of {processed_RA.dtype} on "
                f"{processed_RA.device}; expected {list(logits_RA.shape)} of {logits_RA.dtype} on {logits_RA.device}."
            )
        self.check(processed_RA)
        return processed_RA

    def check(self, processed_RA: Tensor) -> None:
        """Raise an error where logits are NaN or infinite, or all of a row are forbidden."""
        if has_choices(processed_RA):
            return
        highest_R = processed_RA.amax(dim=-1)
        row = int((~highest_R.isfinite()).nonzero()[0])
        which = f"row {row} of the {len(processed_RA)} of this step"
        if highest_R[row] == -torch.inf:
            raise NothingAllowedError(f"{which}: {self.owner} forbids every id that may come next. Change its options.")
        if self.is_trusted:
            raise GenerationError(f"{which}: {self.owner} makes logits NaN or infinite. Use options that change less.")
        raise BrokenPluginError(f"{self.owner} returned logits of NaN or infinity for {which}.")


def _is_inherited(processor: object, method: str) -> bool:
    """Return whether a processor's method is that of ``StatelessProcessor``."""
    found = getattr(getattr(processor, method, None), "__func__", None)
    return found is getattr(StatelessProcessor, method)


def called(owner: str, doing: str, function: Callable[..., T], *args: Any) -> T:
    """Return what a processor's function returns. Raises ``BrokenPluginError`` for what it raises.

    Unlike ``plugin_call`` it leaves stdout alone, so that each step costs nothing.
    """
    try:
        return function(*args)
    except BaseException as error:
        failed(owner, doing, error)


def failed(owner: str, doing: str, error: BaseException) -> NoReturn:
    """Raise the error that stands for what a processor raised."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    if is_ours(type(error)) or isinstance(error, MemoryError | torch.OutOfMemoryError):
        error.add_note(f"Raised by {owner}, {doing}.")
        raise error
    raise BrokenPluginError(f"{owner} failed, {doing}: {said(error).rstrip('.')}.") from error


def has_choices(logits_RA: Tensor) -> bool:
    """Return whether each row has an id that isn't forbidden, and no logit is NaN or infinity."""
    highest_R = logits_RA.amax(dim=-1)
    # The sum is a kernel less, and says so unless it overflows.
    return math.isfinite(float(highest_R.sum())) or bool(highest_R.isfinite().all())
