"""The arguments that ``save_pretrained`` has in ``transformers``, for the models of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .._hub import take_push_options
from ..errors import ArgumentError, ConfigError

_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "distributed_checkpoint": ((False, None), "one process writes the model"),
    "safe_serialization": ((True, None), "only safetensors is written: a pickle may run code when it is loaded"),
    "save_original_format": ((True, None), "the layout of published checkpoints is the only one"),
    "save_peft_format": ((True, None), "adapters are saved by the handle that add_lora or peft returned"),
    "variant": ((None,), "files of a variant aren't read; use another folder"),
}
"""Arguments with only these values, and why others are refused."""


@dataclass(frozen=True)
class SaveRequest:
    """What a ``save_pretrained`` was asked for."""

    folder: str | os.PathLike[str]
    """Where the model is written."""
    writes: bool
    """Whether this process writes; of several, one does."""
    state_dict: Mapping[str, Tensor] | None
    """Weights in place of the model's own."""
    check_finite: bool
    """Whether weights that hold NaN or infinity are refused, as loading does."""
    push: dict[str, Any] | None
    """How the folder is uploaded; None where it isn't."""

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | None, arguments: Mapping[str, Any]) -> SaveRequest:
        """Understand the arguments of ``save_pretrained`` beyond its own; the folder may be called ``save_directory``.

        Raises ``ArgumentError`` for an unknown argument, ``ConfigError`` for a value that isn't available.
        """
        left = dict(arguments)
        folder = left.pop("save_directory", None) if folder is None else folder
        if folder is None:
            raise ArgumentError("save_pretrained() needs the folder to write to.")
        for name in [name for name in left if name in _ONLY]:
            value = left.pop(name)
            allowed, reason = _ONLY[name]
            if value not in allowed:
                raise ConfigError(f"save_pretrained can't have {name}={value!r:.80}: {reason}.")
        # It writes pickles, of which there are none; accelerate's scripts pass it in any case.
        left.pop("save_function", None)
        request = cls(
            folder=folder,
            writes=bool(left.pop("is_main_process", True)),
            state_dict=left.pop("state_dict", None),
            check_finite=bool(left.pop("check_finite", True)),
            push=take_push_options(left),
        )
        for name in left:
            raise ArgumentError(f"save_pretrained() has no argument {name!r}.")
        return request

    def upload(self, model: Any, *, max_shard_size: int | str) -> None:
        """Upload a model, which was saved, where that is requested."""
        if self.push is not None:
            options = dict(self.push)
            name = options.pop("repo_id", None) or Path(self.folder).resolve().name
            model.push_to_hub(name, max_shard_size=max_shard_size, **options)
