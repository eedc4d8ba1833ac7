# Vendored. Source: packages/chameleon-text. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The arguments of a model as a mapping: what a processor, a tokenizer and an image processor return."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError, MissingPackageError

Entries = UserDict[str, Any]


class ModelInputs(Entries):
    """The arguments of a model: ``model(**inputs)``.

    A mutable mapping whose entries are also attributes: ``inputs.input_ids`` is ``inputs["input_ids"]``, and assigning
    either sets both. Made of a mapping, so that a copy with other entries is ``type(inputs)(entries)``.
    """

    data: dict[str, Any]
    """The entries as a plain dict."""

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        super().__init__({} if entries is None else dict(entries))

    def __getattr__(self, name: str) -> Any:
        # Not through self.data: while an object is unpickled it isn't there yet.
        entries = self.__dict__.get("data", {})
        if name in entries:
            return entries[name]
        raise AttributeError(f"the batch has no {name!r}, only {', '.join(map(str, entries)) or 'nothing'}.")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "data" or name.startswith("_"):
            super().__setattr__(name, value)
        elif hasattr(type(self), name):
            raise AttributeError(f"{name} of a {type(self).__name__} can't be assigned; it has no such entry.")
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        if name.startswith("_"):
            super().__delattr__(name)
        elif name in self.data:
            del self[name]
        else:
            raise AttributeError(f"the batch has no {name!r}, only {', '.join(map(str, self.data))}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}: {_shape(value)}' for name, value in self.data.items())})"

    def convert_to_tensors(self, tensor_type: Any = None) -> Any:
        """Make the entries tensors ("pt") or arrays ("np"), in place, and return self; None leaves them as they are.

        Raises ``ConfigError`` for an entry whose rows differ in shape.
        """
        kind = getattr(tensor_type, "value", tensor_type)
        if kind not in ("pt", "np", None):
            raise ConfigError(f"tensor_type is {tensor_type!r:.80}, expected 'pt', 'np' or None.")
        for name, value in self.data.items() if kind is not None else ():
            self.data[name] = _converted(name, value, kind)
        return self

    def to(self, device: Any = None, dtype: Any = None, *, non_blocking: bool = False) -> Any:
        """Move the tensors to another device, and floating-point ones (``pixel_values``) to another dtype; return self.

        As in PyTorch, ``to(torch.bfloat16)`` alone sets the dtype. Ids and masks stay integers, and entries that aren't
        tensors stay as they are. Raises ``ConfigError`` where no entry is a tensor, and where PyTorch hasn't the device
        or the dtype.
        """
        torch = require_torch()
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ConfigError(f"dtype is {dtype!r}, expected a floating-point dtype such as torch.bfloat16.")
        tensors = {name: value for name, value in self.data.items() if isinstance(value, torch.Tensor)}
        if self.data and not tensors:
            name, value = next(iter(self.data.items()))
            raise ConfigError(
                f"{name} is a {type(value).__name__}; only a batch of tensors can move. Pass return_tensors='pt'."
            )
        try:
            for name, tensor in tensors.items():
                own = dtype if tensor.is_floating_point() else None
                self.data[name] = tensor.to(device=device, dtype=own, non_blocking=non_blocking)
        # PyTorch raises any of these for a device that it wasn't built for, or that isn't there.
        except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"the batch can't be moved to device={device!r}, dtype={dtype!r}: {reason}") from error
        return self


def require_torch() -> Any:
    """Import and return torch. Raises ``MissingPackageError`` where it isn't installed."""
    # Imported only here: text and ids need no torch.
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("tensors need PyTorch: pip install torch, or use return_tensors='np'.") from error
    return torch


def _converted(name: str, value: Any, kind: str) -> Any:
    """Return an entry as a tensor or an array; texts and the like as they are."""
    import numpy as np

    if hasattr(value, "layout"):  # a tensor of PyTorch
        return value if kind == "pt" else value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ConfigError(f"the rows of {name} differ in shape and form no tensor: {error}.") from error
    if array.dtype.kind not in "biuf":
        return value
    return array if kind == "np" else require_torch().from_numpy(array)


def _shape(value: Any) -> Any:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return tuple(shape)
    return (len(value),) if isinstance(value, (list, tuple)) else type(value).__name__
