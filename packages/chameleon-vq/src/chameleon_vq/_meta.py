# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Build a model on the meta device: names, shapes and dtypes of its tensors, without their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ModelT = TypeVar("ModelT")

_RANDOM_INITS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)


def on_meta(build: Callable[[], ModelT]) -> ModelT:
    """Return what ``build`` makes on the meta device. It must not compute with weights."""
    with torch.device("meta"), _SkipInit():
        return build()


class _SkipInit(TorchFunctionMode):
    """Skips the random initialization of tensors on the meta device.

    It has no effect there, and the first random number makes torch import its compiler: 3 s and 70 MB.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM_INITS:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
