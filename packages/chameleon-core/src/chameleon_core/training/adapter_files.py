"""The files of LoRA adapters, as peft writes them: what they ask for is checked before peft sees it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from torch import nn

from .._files import read_json
from ..checkpoints.assign import is_finite
from ..errors import FileFormatError, MissingFileError, WeightsError
from ..formats.safetensors_files import open_safetensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# Fields that say where the adapters come from, and change nothing.
_DESCRIPTIONS = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)


class AdapterOptions(msgspec.Struct, frozen=True):
    """The options of adapters that are used, by peft's names. Others must have their defaults."""

    r: Annotated[int, Meta(ge=1, le=2**20)]
    """The rank of the adapters."""
    lora_alpha: Annotated[float, Meta(gt=0, le=1e9)]
    """What the adapters are multiplied by, times the rank."""
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)]
    """The dropout of the adapters' inputs in training, in [0, 1)."""
    target_modules: Annotated[list[str], Meta(min_length=1)]
    """The last parts of the names of the layers that have adapters."""
    use_rslora: bool = False
    """Whether the adapters are divided by the root of the rank and not by the rank."""


def read_options(
    folder: str | os.PathLike[str], *, defaults: Mapping[str, Any], targets: Collection[str]
) -> AdapterOptions:
    """Read the options of the adapters in a folder; ``defaults`` are those of peft, by name.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` for options that peft would take in
    another way than ``add_lora`` does, such as code that it would run or tensors that it would initialize.
    """
    path = Path(folder) / CONFIG_FILE
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise FileFormatError(f'{path} has no adapters of LoRA; expected "peft_type": "LORA".')
    names = AdapterOptions.__struct_fields__
    # An unknown field, of another version of peft, must be off.
    changed = [
        name
        for name, value in fields.items()
        if name not in names
        and name not in _DESCRIPTIONS
        and value != defaults.get(name)
        and (value or defaults.get(name))
    ]
    if changed:
        raise FileFormatError(
            f"{path} asks for {', '.join(map(ascii, changed))}, which isn't supported. Train the adapters by add_lora, "
            "or merge them into the weights with the program that trained them."
        )
    try:
        options = msgspec.convert({name: fields[name] for name in names if name in fields}, AdapterOptions)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{path} doesn't describe adapters: {error}.") from error
    unknown = sorted(set(options.target_modules) - set(targets))
    if unknown:
        raise FileFormatError(
            f"{path} has adapters for {', '.join(map(ascii, unknown))}; expected target_modules among "
            f"{', '.join(targets)}."
        )
    return options


def check_weights(folder: str | os.PathLike[str], model: nn.Module, options: AdapterOptions) -> None:
    """Raise ``WeightsError`` where the adapters' weights don't fit the model and the options, or aren't finite."""
    path = Path(folder) / WEIGHTS_FILE
    if not os.path.isfile(path):
        raise MissingFileError(f"{folder} has no {WEIGHTS_FILE}. Adapters in pickles (adapter_model.bin) aren't read.")
    expected: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in options.target_modules:
            # As peft names them in its files.
            expected[f"base_model.model.{name}.lora_A.weight"] = (options.r, module.in_features)
            expected[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, options.r)
    stored = open_safetensors(path)
    faults = {
        "missing": sorted(expected.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(stored[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in stored and stored[name].shape != shape
        ],
        "of another type": [
            f"{name} {tensor.dtype}, expected floats"
            for name, tensor in stored.items()
            if not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1
        ],
    }
    if not any(faults.values()):
        faults["that hold NaN or infinity"] = [name for name, tensor in stored.items() if not is_finite(tensor.load())]
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise WeightsError(f"{path} doesn't fit the model and {CONFIG_FILE}. Tensors {listed}.")
