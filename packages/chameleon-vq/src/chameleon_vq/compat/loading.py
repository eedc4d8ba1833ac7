"""The arguments that ``from_pretrained`` and ``save_pretrained`` have in ``transformers``, for an image tokenizer.

Those that can only have one effect here are accepted with the values that mean it, and refused with others.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._hub import HubOptions, push_saved, take_push_options
from ..config import ChameleonVQVAEConfig
from ..errors import ConfigError

_PICKLES = "pickles aren't read or written, because they may run code; use safetensors"
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "attn_implementation": ((None, "eager", "sdpa"), "the attention of the network has one implementation"),
    "ignore_mismatched_sizes": ((False, None), "give the configuration that the weights have"),
    "low_cpu_mem_usage": ((True, None), "weights are never held twice"),
    "max_memory": ((None,), "the network is on one device"),
    "max_shard_size": ((None, "5GB", "50GB"), "the weights are one file, of about 300 MB at full size"),
    "quantization_config": ((None,), "the network isn't quantized, because codes depend on its weights"),
    "safe_serialization": ((True, None), _PICKLES),
    "use_safetensors": ((True, None), _PICKLES),
    "variant": ((None,), "files of a variant aren't read; use a revision that has them as model.safetensors"),
    "weights_only": ((True, None), _PICKLES),
}
"""Arguments with only these values, and why others are refused."""
_OTHERS = ("dtype", "torch_dtype", "device", "device_map", "check_finite", "config", *HubOptions.__dataclass_fields__)


@dataclass(frozen=True)
class VQRequest:
    """What a ``from_pretrained`` was asked for."""

    dtype: torch.dtype | None
    """The type of the weights; None is the stored one."""
    device: torch.device | str
    hub: HubOptions
    config: ChameleonVQVAEConfig | None
    """A configuration in place of the folder's."""
    fields: Mapping[str, Any]
    """Fields that replace those of the configuration."""
    tells_more: bool
    """Whether the network is returned beside what its loading found."""

    @classmethod
    def of(
        cls,
        arguments: Mapping[str, Any],
        *,
        dtype: torch.dtype | str | None,
        device: torch.device | str,
        tells_more: bool = True,
    ) -> VQRequest:
        """Understand the arguments of a ``from_pretrained``. Raises ``ConfigError``, with the closest name.

        Without ``tells_more`` what loading found can't be requested.
        """
        left = dict(arguments)
        if not tells_more and left.pop("output_loading_info", False):
            raise ConfigError("from_pretrained returns the image tokenizer alone: leave output_loading_info out.")
        only(left, "from_pretrained")
        hub = HubOptions.taken_from(left)
        other = left.pop("torch_dtype", None)
        if other is not None:
            dtype = other
        config = left.pop("config", None)
        if isinstance(config, Mapping):  # a model's vq_config
            config = ChameleonVQVAEConfig.from_dict({k: v for k, v in config.items() if k != "model_type"})
        elif config is not None and not isinstance(config, ChameleonVQVAEConfig):
            config = ChameleonVQVAEConfig.from_pretrained(config)
        tells_more = bool(left.pop("output_loading_info", False))
        request = cls(_dtype(dtype), _device(left.pop("device_map", None), device), hub, config, left, tells_more)
        for name in left:
            if not ChameleonVQVAEConfig()._has_field(name):
                raise ConfigError(_unknown("from_pretrained", name))
        return request

    def returned(self, model: Any) -> Any:
        """Return the network, or with it what was missing or not expected, which is nothing, since it is an error."""
        if not self.tells_more:
            return model
        nothing: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
        return model, {**nothing, "error_msgs": []}

    def changed(self, config: ChameleonVQVAEConfig) -> ChameleonVQVAEConfig:
        """Return the configuration to use in place of a folder's."""
        changed: ChameleonVQVAEConfig = (self.config or config)._with(self.fields)
        return changed


def save(model: Any, write: Any, folder: Any, arguments: Mapping[str, Any]) -> None:
    """Write a model by ``write(folder)``, and upload it where the arguments of a ``save_pretrained`` ask for that.

    Raises ``ConfigError`` for what isn't available.
    """
    left = dict(arguments)
    folder = left.pop("save_directory", None) if folder is None else folder
    if folder is None:
        raise ConfigError("save_pretrained needs the folder to write to.")
    only(left, "save_pretrained")
    left.pop("save_function", None)  # it writes pickles, of which there are none
    push = take_push_options(left)
    writes = left.pop("is_main_process", True)
    for name in left:
        raise ConfigError(_unknown("save_pretrained", name))
    if not writes:
        return
    write(folder)
    if push is not None:
        push_saved(write, push.pop("repo_id", None) or Path(folder).resolve().name, push)


def only(arguments: dict[str, Any], function: str) -> None:
    """Take out the arguments that have one effect here. Raises ``ConfigError`` for other values of them."""
    for name in [name for name in arguments if name in _ONLY]:
        value = arguments.pop(name)
        allowed, reason = _ONLY[name]
        if not any(value is each or (type(value) is type(each) and value == each) for each in allowed):
            raise ConfigError(f"{function} can't have {name}={value!r:.80}: {reason}.")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype of torch by its name; "auto" and None are that of the weights."""
    if dtype in ("auto", None):
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype is {dtype!r}, expected a dtype of torch, its name, or 'auto'.")
    return found


def _device(device_map: Any, device: torch.device | str) -> torch.device | str:
    if device_map is None:
        return device
    if isinstance(device_map, Mapping):
        devices = set(device_map.values())
        if len(devices) != 1:
            raise ConfigError(f"device_map is {device_map!r}; the network is on one device.")
        device_map = devices.pop()
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return torch.device("cuda", device_map) if isinstance(device_map, int) else device_map


def _unknown(function: str, name: str) -> str:
    names = (*_OTHERS, *_ONLY, *ChameleonVQVAEConfig.__struct_fields__)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Its arguments are {', '.join(_OTHERS)}."
    return f"{function} has no argument {name!r}.{hint}"
