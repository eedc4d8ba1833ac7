"""What a probe gives, in a form that can be compared: plain values, numbers of tensors, or the kind of an error."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

RELATIVE, ABSOLUTE = 2e-4, 2e-5
"""float32, what two orders of the same additions may differ by in a model of two layers."""


@dataclass(frozen=True)
class Numbers:
    """A tensor or an array."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    values: np.ndarray

    def __repr__(self) -> str:
        flat = ", ".join(f"{value:.4g}" for value in self.values.ravel()[:6].tolist())
        dots = ", …" if self.values.size > 6 else ""
        return f"{self.kind} {self.dtype} {list(self.shape)}: {flat}{dots}"


@dataclass(frozen=True)
class Failure:
    """An exception."""

    kind: str
    message: str
    is_ours: bool

    def __repr__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Thing:
    """An object without a value of its own: its class."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


def failure(error: BaseException) -> Failure:
    """The kind of an exception, and whether a package of ours raised it."""
    message = " ".join(str(error).split())
    return Failure(type(error).__name__, message, type(error).__module__.startswith("chameleon_"))


def plain(value: Any, without: Any = None) -> Any:
    """``value`` without its types: mappings, sequences, numbers, names.

    ``without`` are columns (ids of pictures) that the two sides mask differently, left out of logits.
    """
    match value:
        case enum.Enum():
            return plain(value.value)
        case None | bool() | int() | str() | bytes() | float():
            return value
        case torch.Tensor():
            if without is not None and value.is_floating_point() and value.dim() and len(without) == value.shape[-1]:
                value = value[..., ~without]
            shown = value.detach().cpu()
            array = (shown.float() if shown.is_floating_point() else shown).numpy()
            return Numbers("tensor", tuple(value.shape), str(value.dtype).removeprefix("torch."), array)
        case np.ndarray():
            return Numbers("array", value.shape, str(value.dtype), value)
        case np.generic():
            return value.item()
        case torch.dtype() | torch.device():
            return str(value)
        case torch.Size() | tuple() | list():
            return [plain(each, without) for each in value]
        case Set():
            return sorted(map(repr, value))
        case Mapping():
            return {str(key): plain(each, without) for key, each in value.items()}
        case PIL.Image.Image():
            return plain(np.asarray(value))
        case type():
            return Thing(value.__name__)
    if hasattr(value, "keys") and hasattr(value, "__getitem__"):
        return {str(key): plain(value[key], without) for key in value.keys()}  # noqa: SIM118
    return Thing(type(value).__name__)


def equal(theirs: Any, ours: Any) -> bool:
    """Whether two plain values are the same but for rounding."""
    match theirs, ours:
        case Failure(), Failure():
            return True
        case Numbers(), Numbers():
            return (theirs.kind, theirs.shape, theirs.dtype) == (ours.kind, ours.shape, ours.dtype) and bool(
                np.allclose(theirs.values, ours.values, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
                if theirs.values.dtype.kind in "fiub"
                else np.array_equal(theirs.values, ours.values)
            )
        case dict(), dict():
            return theirs.keys() == ours.keys() and all(equal(theirs[key], ours[key]) for key in theirs)
        case list(), list():
            return len(theirs) == len(ours) and all(map(equal, theirs, ours))
        case float(), float():
            return math.isclose(theirs, ours, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(theirs) is type(ours) and bool(theirs == ours)
