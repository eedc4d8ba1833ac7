"""The arguments that ``from_pretrained`` has in ``transformers``, for the models of this package.

Those with a meaning here are translated. Those that can only have one effect here are accepted with the values that
mean it, and refused with others, with the reason and what to do.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .._hub import HubOptions
from .._meta import on_meta
from ..checkpoints.load import LoadedCheckpoint, load_contents, read_checkpoint, target_dtype
from ..checkpoints.quantization_plan import Quantization
from ..checkpoints.resolve import resolve_folder
from ..config import ChameleonConfig
from ..errors import ArgumentError, ConfigError
from ..formats import Checkpoint, StoredTensor
from .bitsandbytes import BitsAndBytesConfig, quantization_of
from .placement import Placement, computed_placement, one_device, place, placement_of

ModelT = TypeVar("ModelT", bound=nn.Module)

OWN = ("dtype", "device", "attn_implementation", "quantization", "check_finite")
"""The keyword arguments that ``from_pretrained`` has of its own."""
_PICKLES = "pickles aren't read, because they may run code; convert the weights to safetensors"
_ONE_PROCESS = "the model is loaded in one process; use device_map, or wrap the loaded model"
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "adapter_kwargs": ((None, {}), "load adapters with chameleon_core.training.load_lora or with peft"),
    "adapter_name": (("default", None), "load adapters with chameleon_core.training.load_lora or with peft"),
    "allow_all_kernels": ((False, None), "choose the attention with attn_implementation"),
    "device_mesh": ((None,), _ONE_PROCESS),
    "disable_mmap": ((False, None), "weights are mapped from their files; copy the model with model.to(device)"),
    "distributed_config": ((None,), _ONE_PROCESS),
    "experts_implementation": ((None,), "the model has no experts"),
    "from_flax": ((False, None), "convert the weights to safetensors"),
    "from_tf": ((False, None), "convert the weights to safetensors"),
    "fusion_config": ((None, {}), "use torch.compile"),
    "gguf_file": ((None,), "pass the path of the file in place of the folder: from_pretrained('folder/model.gguf')"),
    "ignore_mismatched_sizes": (
        (False, None),
        "a model with random layers is rarely wanted: give the config that the weights have, then resize the model",
    ),
    "kernel_config": ((None,), "choose the attention with attn_implementation"),
    "key_mapping": ((None, {}), "rename the tensors of a checkpoint: read_checkpoint, then write_checkpoint"),
    "low_cpu_mem_usage": ((True, None), "weights are always mapped from their files and never held twice"),
    "offload_buffers": ((False, None), "nothing is offloaded; weights on a CPU stay mapped from their files"),
    "offload_folder": ((None,), "nothing is offloaded; weights on a CPU stay mapped from their files"),
    "offload_state_dict": ((False, None), "nothing is offloaded; weights on a CPU stay mapped from their files"),
    "tp_plan": ((None,), _ONE_PROCESS),
    "tp_size": ((None,), _ONE_PROCESS),
    "tqdm_class": ((None,), "no progress is shown"),
    "use_kernels": ((False, None), "choose the attention with attn_implementation"),
    "use_safetensors": ((True, None), _PICKLES),
    "variant": ((None,), "files of a variant aren't read; use a revision that has them as model.safetensors"),
    "weights_only": ((True, None), _PICKLES),
    "_fast_init": ((True, None), "weights are never initialized before they are loaded"),
}
"""Arguments with only these values, and why others are refused or what to do instead."""
_TRANSLATED = (
    *("torch_dtype", "device_map", "max_memory", "quantization_config", "load_in_4bit", "load_in_8bit", "config"),
    *("state_dict", "output_loading_info", "generation_config", "extra_weights", "rotary_layout"),
    *HubOptions.__dataclass_fields__,
)
_ATTENTION = {"flex_attention": "flex"}
"""Attention backends whose name is another one here."""


@dataclass
class Request(Generic[ModelT]):
    """What a ``from_pretrained`` was asked for."""

    name: str | os.PathLike[str] | None
    dtype: torch.dtype | str | None
    device: torch.device | str
    attn_implementation: str
    quantization: str | Quantization | None
    hub: HubOptions
    placement: Placement | str | None = None
    """The devices of the modules, or how they are found; None where ``device`` has all."""
    max_memory: Mapping[Any, Any] | None = None
    config: ChameleonConfig | None = None
    """A configuration in place of the folder's."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields that replace those of the configuration."""
    state_dict: Mapping[str, Tensor] | None = None
    """Weights in place of the folder's."""
    generation_config: Any = None
    """Options of generation in place of the folder's."""
    tells_more: bool = False
    """Whether the model is returned beside what its loading found."""
    extra_weights: str = "refuse"
    """What is done with weights that the model has no place for: "refuse" or "keep"."""
    rotary_layout: str | None = None
    """That of the folder's query and key rows, where it is given."""
    folder: Path | None = None
    """The folder, once it is found."""

    @classmethod
    def of(
        cls,
        name: str | os.PathLike[str] | None,
        arguments: dict[str, Any],
        *,
        dtype: torch.dtype | str | None,
        device: torch.device | str,
        attn_implementation: str | Mapping[str, str] | None,
        quantization: str | Quantization | None,
    ) -> Request[ModelT]:
        """Understand the arguments of ``from_pretrained``: its own, and those of other names.

        Raises ``ArgumentError`` for an unknown argument, ``ConfigError`` for a value that isn't available.
        """
        arguments = dict(arguments)
        name = arguments.pop("pretrained_model_name_or_path", None) if name is None else name
        _check_only(arguments)
        hub = HubOptions.taken_from(arguments)
        request: Request[ModelT] = cls(
            name,
            _dtype(dtype, arguments),
            device,
            attention_name(attn_implementation),
            _quantization(quantization, arguments),
            hub,
            max_memory=arguments.pop("max_memory", None),
            state_dict=arguments.pop("state_dict", None),
            generation_config=arguments.pop("generation_config", None),
            tells_more=bool(arguments.pop("output_loading_info", False)),
            extra_weights=arguments.pop("extra_weights", "refuse"),
            rotary_layout=arguments.pop("rotary_layout", None),
        )
        device_map = arguments.pop("device_map", None)
        if device_map is not None:
            if str(device) != "cpu":
                raise ConfigError(f"device is {device!r} and device_map {device_map!r}; pass one of them.")
            request.placement = placement_of(device_map)
        if request.max_memory is not None and not isinstance(request.placement, str):
            raise ConfigError("max_memory bounds device_map='auto' on accelerators; leave it out otherwise.")
        config = arguments.pop("config", None)
        if config is not None and not isinstance(config, ChameleonConfig):
            config = ChameleonConfig.from_pretrained(config)
        request.config = config
        for given in arguments:
            if not ChameleonConfig()._has_field(given):
                raise ArgumentError(_unknown(given))
        request.fields = arguments
        if name is None and (request.config is None or request.state_dict is None):
            raise ConfigError("without a name, from_pretrained needs both config and state_dict.")
        return request

    def load(
        self,
        build: Callable[[ChameleonConfig], ModelT],
        *,
        bare: bool = False,
        check_finite: bool = True,
        own_of: Callable[[ChameleonConfig], Callable[[str, Tensor], Tensor] | None] | None = None,
    ) -> LoadedCheckpoint[ModelT]:
        """Find the folder, and build and load the model that it was asked for. ``bare`` leaves the output layer out.

        ``own_of`` is asked for what returns this process's part of a tensor. Raises what ``load_checkpoint`` does.
        """
        checkpoint, source = self._read(bare)
        own = None if own_of is None else own_of(checkpoint.config)
        if own is not None and self.placement is not None:
            raise ConfigError("tensor_parallel divides a model among processes; pass device and no device_map.")
        if isinstance(self.placement, str):
            meta = on_meta(lambda: build(checkpoint.config))
            dtype = target_dtype(self.dtype, checkpoint.config)
            self.placement = computed_placement(self.placement, meta, dtype=dtype, max_memory=self.max_memory)
        device = self.device if self.placement is None else one_device(self.placement)
        loaded = load_contents(
            checkpoint,
            source=source,
            build=build,
            dtype=self.dtype,
            device="cpu" if device is None else device,
            quantization=self.quantization,
            check_finite=check_finite,
            extra_weights=self.extra_weights,
            own=own,
        )
        if self.placement is not None and device is None:
            place(loaded.model, self.placement)
        return loaded

    def returned(self, model: Any) -> Any:
        """Return what ``from_pretrained`` does: the model, or with it what was missing or not expected, nothing."""
        if self.generation_config is not None:
            model.generation_config = self.generation_config
        if not self.tells_more:
            return model
        # Whatever is missing or doesn't fit is an error.
        nothing: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
        return model, {**nothing, "error_msgs": []}

    def _read(self, bare: bool) -> tuple[Checkpoint, str]:
        if self.name is None:
            assert self.config is not None
            checkpoint, source = Checkpoint(self.config, {}), "state_dict"
        else:
            self.folder = resolve_folder(self.name, self.hub)
            checkpoint, source = read_checkpoint(self.folder, rotary_layout=self.rotary_layout), str(self.folder)
        tensors = checkpoint.tensors
        if self.state_dict is not None:
            tensors = {name: StoredTensor.of(tensor) for name, tensor in self.state_dict.items()}
        config = self.config or checkpoint.config
        config = config._with(self.fields)
        return Checkpoint(config, named_as_a_part(tensors, bare), checkpoint.generation_config), source


def named_as_a_part(tensors: Mapping[str, StoredTensor], bare: bool) -> dict[str, StoredTensor]:
    """Return tensors by the names that they have in the whole model.

    A folder of the bare transformer has them without ``model.``; ``bare`` leaves the output layer out.
    """
    is_whole = any(name.startswith("model.") for name in tensors)
    named = tensors if is_whole else {f"model.{name}": tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not (bare and name.startswith("lm_head."))}


def attention_name(requested: str | Mapping[str, str] | None) -> str:
    """Return the attention backend that ``attn_implementation`` names here: None is the default.

    ``transformers`` takes a mapping, too, whose entry "" is that of the model. Raises ``ConfigError`` for another type.
    """
    if isinstance(requested, Mapping):
        requested = requested.get("", requested.get("text_config"))
    if requested is None:
        return "sdpa"
    if not isinstance(requested, str):
        raise ConfigError(f"attn_implementation must be the name of an attention backend; got {requested!r}.")
    return _ATTENTION.get(requested, requested)


def _check_only(arguments: dict[str, Any]) -> None:
    """Take out the arguments that have one effect here. Raises ``ConfigError`` for other values of them."""
    for name in [name for name in arguments if name in _ONLY]:
        value = arguments.pop(name)
        allowed, instead = _ONLY[name]
        if not any(value is each or (type(value) is type(each) and value == each) for each in allowed):
            raise ConfigError(f"from_pretrained can't have {name}={value!r:.80}: {instead}.")


def _dtype(dtype: torch.dtype | str | None, arguments: dict[str, Any]) -> torch.dtype | str | None:
    other = arguments.pop("torch_dtype", None)
    if other is None:
        return dtype
    if dtype not in ("auto", other):
        raise ConfigError(f"dtype is {dtype!r} and torch_dtype {other!r}; pass dtype alone.")
    return other


def _quantization(given: str | Quantization | None, arguments: dict[str, Any]) -> str | Quantization | None:
    config = arguments.pop("quantization_config", None)
    bits = {name: arguments.pop(name) for name in ("load_in_4bit", "load_in_8bit") if name in arguments}
    requested = [each for each in (given, config, any(bits.values()) or None) if each is not None]
    if len(requested) > 1:
        raise ConfigError("quantization, quantization_config and load_in_4bit or load_in_8bit exclude each other.")
    if any(bits.values()):
        # A script that asks for nothing else wants the four bits that there are.
        config = BitsAndBytesConfig(**bits, bnb_4bit_quant_type="nf4")
    return given if config is None else quantization_of(config)


def _unknown(name: str) -> str:
    names: Sequence[str] = (*OWN, *_TRANSLATED, *_ONLY, *ChameleonConfig.__struct_fields__)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(OWN)}, and fields of the config."
    return f"from_pretrained() has no argument {name!r}. {hint}"


class WithoutHead(nn.Module):
    """A bare transformer under the names that its weights have in a checkpoint, those of a whole model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
