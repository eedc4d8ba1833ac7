"""``device_map``: one device for a model, or a device for each of its modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..checkpoints.load import usable_device
from ..errors import ConfigError, MissingPackageError, WeightsError

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
_UNSPLIT = ["DecoderLayer"]
_EMBEDDINGS = "embed_tokens"
_IMAGES = "vqmodel"

Placement = dict[str, torch.device]
"""A device for each module by the beginning of its name; "" is the whole model."""


def placement_of(device_map: Any) -> Placement | str:
    """Return the devices that ``device_map`` states, or one of ``AUTOMATIC`` where they follow from the model.

    Raises ``ConfigError`` for a device that torch can't use here, and for disks.
    """
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        if torch.accelerator.current_accelerator(check_available=True) is None:
            return {"": torch.device("cpu")}
        return device_map
    if not isinstance(device_map, Mapping):
        return {"": _device(device_map)}
    if not device_map:
        raise ConfigError('device_map is empty; expected devices by names of modules, such as {"": "cpu"}.')
    return {str(name): _device(device) for name, device in device_map.items()}


def computed_placement(
    strategy: str, model: nn.Module, *, dtype: torch.dtype | None, max_memory: Mapping[Any, Any] | None
) -> Placement:
    """Return the devices of a model on the meta device that accelerate finds room on, in one of the ``AUTOMATIC`` ways.

    Without accelerate it is the accelerator, where there is one. Raises ``MissingPackageError`` where there are more,
    and ``ConfigError`` where a part finds no room.
    """
    if importlib.util.find_spec("accelerate") is None:
        if torch.accelerator.device_count() == 1 and max_memory is None:
            return {"": torch.device(str(torch.accelerator.current_accelerator()), 0)}
        raise MissingPackageError(f"device_map={strategy!r} needs accelerate: python -m pip install accelerate")
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    options: dict[str, Any] = {"no_split_module_classes": _UNSPLIT, "dtype": dtype}
    memory = None if max_memory is None else dict(max_memory)
    if strategy != "sequential":
        memory = get_balanced_memory(model, memory, low_zero=strategy == "balanced_low_0", **options)
    found = infer_auto_device_map(model, max_memory=memory, **options)
    return {name: _device(device) for name, device in found.items()}


def one_device(placement: Placement) -> torch.device | None:
    """Return the device that has the whole model, None where there are several."""
    devices = {device for name, device in placement.items() if _IMAGES not in name}
    return devices.pop() if len(devices) == 1 else None


def place(model: nn.Module, placement: Placement) -> None:
    """Move the modules of a model to their devices, and let accelerate bring them their inputs.

    Activations stay where the embeddings are: each module takes its inputs to its own device and returns its outputs,
    so that any placement computes the same. Raises ``WeightsError`` where a module has no device, and
    ``MissingPackageError`` without accelerate.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingPackageError(
            "device_map with several devices needs accelerate, which brings each layer its inputs: "
            "python -m pip install accelerate"
        )
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    modules = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False)) or not list(module.children())
    }
    devices = {name: _device_of(name, placement) for name in modules}
    main = next(device for name, device in devices.items() if name.rpartition(".")[2] == _EMBEDDINGS)
    for name, module in modules.items():
        module.to(devices[name])
        if devices[name] != main:
            add_hook_to_module(module, AlignDevicesHook(execution_device=devices[name], io_same_device=True))
    model.hf_device_map = {name: str(device) for name, device in placement.items()}  # type: ignore[assignment]


def _device_of(name: str, placement: Placement) -> torch.device:
    found = [each for each in placement if each == "" or name == each or name.startswith(f"{each}.")]
    if not found:
        raise WeightsError(f"device_map has no device for {name}. Give it one, or all others by \"\": 'cpu'.")
    return placement[max(found, key=len)]


def _device(device: Any) -> torch.device:
    if isinstance(device, str) and device in ("disk", "meta"):
        raise ConfigError(
            f"device_map puts a part on {device!r}; weights stay mapped from their files on a CPU: use 'cpu'."
        )
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise ConfigError(f"device_map has {device!r}; expected a device, its name or its number.")
    return usable_device(torch.device("cuda", device) if isinstance(device, int) else device)
