"""A limit of the tensors that a quantizer makes for itself, which a number in a configuration may ask to be any size.

A model is first made without memory, to be compared with its file. Classes of other packages may take memory all the
same, because they compute with their tensors while they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from .errors import ConfigError

UNSTORED = 2**25
"""How many numbers a tensor may have that no file holds: a million codes of 32 numbers."""

# What is made of data is as large as the data, and can't be made without memory.
_FACTORIES = _device_constructors() - {torch.tensor, torch.as_tensor, torch.scalar_tensor}


class AllocationLimit(TorchFunctionMode):
    """Raises ``ConfigError`` before torch makes a tensor of more than ``numbers`` numbers.

    ``source`` is the file whose sizes they are.
    """

    def __init__(self, numbers: int, source: str) -> None:
        super().__init__()
        self.numbers = max(numbers, UNSTORED)
        self.source = source

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and torch.device(kwargs.get("device") or "cpu").type != "meta":
            count = func(*args, **{**kwargs, "device": "meta"}).numel()
            if count > self.numbers:
                raise ConfigError(
                    f"{self.source} asks for a tensor of {count:,} numbers, more than the weights beside it hold and "
                    f"more than {UNSTORED:,}. Check that the two belong together."
                )
        return func(*args, **kwargs)
