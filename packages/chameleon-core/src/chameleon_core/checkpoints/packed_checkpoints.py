"""Folders that other libraries quantized: GPTQ, AWQ and compressed-tensors, read from their ``quantization_config``.

A layer becomes one of our quantized layers where that holds the same numbers exactly: ``int4`` for four bits in groups
of 32, 64, 128 or 256 neighbours, ``int8`` for eight bits with a scale for each row, symmetric, with scales in bfloat16.
Any other is dequantized to the type of the model's float weights when it is loaded. Whatever isn't made of four or
eight bits, or quantizes activations, too, is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from chameleon_backends import WeightQuantizerSpec, get_weight_quantizer
from chameleon_backends.registry import REGISTRY as BACKENDS
from chameleon_backends.registry import WEIGHT_QUANTIZERS_HOOK

from ..errors import ConfigError, FileFormatError
from ..formats import IMAGE_PREFIX, Checkpoint, StoredTensor
from .packed_weights import PackedWeight, awq, check_shapes, compressed, gptq
from .quantization_plan import QUANTIZATION_RECORD

METHODS = ("gptq", "awq", "compressed-tensors")
"""The libraries whose folders are read, by their ``quant_method``."""

_INSTEAD = "Load the float model, and quantize it here: from_pretrained(folder, quantization='int4')."
_GROUP_SIZES = (32, 64, 128, 256)
Shape = tuple[int, ...]
Kind = tuple[str, int | None]
"""The weight quantizer that holds a layer exactly, and its group size."""


def unpacked(checkpoint: Checkpoint, *, source: str, dequantize: bool) -> Checkpoint:
    """Return a checkpoint of another library with our quantized layers, or float ones; any other as it is.

    ``dequantize`` makes all of them float. Raises ``ConfigError`` for a quantization that isn't read, by its name, and
    ``FileFormatError`` where the tensors don't belong to it.
    """
    record = checkpoint.config.extras.get(QUANTIZATION_RECORD)
    method = record.get("quant_method") if isinstance(record, Mapping) else None
    if record is None or method not in METHODS:
        if record is not None and dequantize:
            raise ConfigError(
                f"{source} is quantized by {method!r:.80}; dequantize=True is for {', '.join(METHODS)}. Take the float "
                "model that it was made from."
            )
        return checkpoint
    tensors = dict(checkpoint.tensors)
    read = {"gptq": _gptq_layers, "awq": _awq_layers, "compressed-tensors": _compressed_layers}[str(method)]
    layers = list(read(record, tensors, source))
    if not layers:
        raise FileFormatError(
            f"{source} says {QUANTIZATION_RECORD} {method!r}, and has no tensors of a quantized layer. Remove the "
            "entry if its weights are float."
        )
    kinds = {layer.name: None if dequantize else _held_exactly(layer) for layer in layers}
    counted = Counter(kind for kind in kinds.values() if kind is not None)
    # One quantizer serves a model; the layers that it doesn't hold are float.
    chosen = counted.most_common(1)[0][0] if counted else None
    dtype = _float_type(tensors)
    for layer in layers:
        if chosen is not None and kinds[layer.name] == chosen:
            tensors |= _as_ours(layer, chosen)
        else:
            load = partial(layer.dequantized, dtype)
            tensors[f"{layer.name}.weight"] = StoredTensor(layer.shape, dtype, load)
    extras = {name: value for name, value in checkpoint.config.extras.items() if name != QUANTIZATION_RECORD}
    if chosen is not None:
        extras[QUANTIZATION_RECORD] = _record_of(chosen, [name for name, kind in kinds.items() if kind != chosen])
    return replace(checkpoint, config=checkpoint.config.replace(extras=extras), tensors=tensors)


def _held_exactly(layer: PackedWeight) -> Kind | None:
    """Return what holds a layer exactly, None where nothing does."""
    if not layer.is_symmetric or not layer.is_ordered or layer.scale_dtype != torch.bfloat16:
        return None
    inputs = layer.shape[1]
    if layer.bits == 4 and layer.group_size in _GROUP_SIZES and inputs % layer.group_size == 0:
        return "int4", layer.group_size
    return ("int8", None) if layer.bits == 8 and layer.group_size == inputs else None


def _as_ours(layer: PackedWeight, kind: Kind) -> dict[str, StoredTensor]:
    """Return the tensors of our layer with a layer's codes and scales."""
    quantizer, (outputs, inputs) = get_weight_quantizer(kind[0], **_options(kind)), layer.shape
    layouts = quantizer.layout(inputs, outputs)
    codes = "weight_packed" if kind[0] == "int4" else "weight"
    load: dict[str, Callable[[], Tensor]] = {
        codes: partial(_nibbles, layer) if kind[0] == "int4" else layer.symmetric_codes,
        "weight_scale": lambda: layer.scales().reshape(cast(Shape, layouts["weight_scale"].shape)).contiguous(),
    }
    return {
        f"{layer.name}.{part}": StoredTensor(cast(Shape, layout.shape), layout.dtype, load[part])
        for part, layout in layouts.items()
    }


def _nibbles(layer: PackedWeight) -> Tensor:
    """Return the codes as ``int4`` stores them: plus 8, two in a byte, the first of two neighbours in its high half."""
    raised_OI = (layer.symmetric_codes() + layer.middle).to(torch.uint8)
    return raised_OI[:, ::2] << 4 | raised_OI[:, 1::2]


def _options(kind: Kind) -> dict[str, Any]:
    return {} if kind[1] is None else {"group_size": kind[1]}


def _record_of(kind: Kind, left_out: list[str]) -> dict[str, Any]:
    spec = BACKENDS.get(WEIGHT_QUANTIZERS_HOOK, kind[0])
    assert isinstance(spec, WeightQuantizerSpec)
    return spec.write_record(_options(kind), left_out)


def _float_type(tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the type of the model's float matrices, or of its scales where it has none."""
    floats = (
        each.dtype
        for name, each in tensors.items()
        if each.dtype.is_floating_point and not name.startswith(IMAGE_PREFIX) and name.endswith(".weight")
    )
    return next(floats, torch.float16)


def _taken(
    tensors: dict[str, StoredTensor], marker: str, needed: tuple[str, ...], optional: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Yield the name of each layer that has a tensor ``marker``, and its parts, which are taken out of the tensors."""
    for name in [each.removesuffix(f".{marker}") for each in tensors if each.endswith(f".{marker}")]:
        absent = [part for part in needed if f"{name}.{part}" not in tensors]
        if absent:
            raise FileFormatError(f"{name} has {marker} and no {', '.join(absent)}. Download the folder again.")
        parts = {part: tensors.pop(f"{name}.{part}") for part in (*needed, *optional) if f"{name}.{part}" in tensors}
        for part, each in parts.items():
            wanted = 1 if part.endswith("g_idx") else 2
            if len(each.shape) != wanted and part not in ("weight_scale", "weight_zero_point", "weight_shape"):
                raise FileFormatError(f"{name}.{part} is {list(each.shape)}, expected {wanted} axes.")
            if 0 in each.shape:
                raise FileFormatError(f"{name}.{part} is {list(each.shape)}, without a value.")
        yield name, parts


def _gptq_layers(record: Mapping[str, Any], tensors: dict[str, StoredTensor], source: str) -> Iterator[PackedWeight]:
    version = record.get("checkpoint_format") or "gptq"
    if record.get("is_marlin_format") or version not in ("gptq", "gptq_v2"):
        name = "marlin" if record.get("is_marlin_format") else version
        raise _refused(source, f"GPTQ in the layout {name!r}", "gptq and gptq_v2 are read")
    bits = _bits(record.get("bits"), source, "GPTQ")
    for field, only in (("dynamic", (None, {})), ("pack_dtype", (None, "int32"))):
        if record.get(field) not in only:
            raise _refused(source, f"GPTQ with {field} {record[field]!r:.80}", "one rule for all layers is read")
    size, by_activation = _group_size(record.get("group_size", -1), source), record.get("desc_act", False)
    symmetric = record.get("sym", True)
    for name, parts in _taken(tensors, "qweight", ("qweight", "qzeros", "scales"), ("g_idx",)):
        _check_types(name, parts, integers=("qweight", "qzeros", "g_idx"), floats=("scales",))
        yield gptq(
            name,
            parts,
            bits=bits,
            group_size=size,
            plus_one=version == "gptq",
            by_activation=by_activation is not False,
            symmetric=symmetric is True,
        )


def _awq_layers(record: Mapping[str, Any], tensors: dict[str, StoredTensor], source: str) -> Iterator[PackedWeight]:
    version = str(record.get("version", "gemm")).lower()
    if version != "gemm" or record.get("zero_point", True) is not True:
        what = f"version {version!r}" if version != "gemm" else "zero_point false"
        raise _refused(source, f"AWQ with {what}", "version 'gemm' with zero points is read")
    if record.get("bits", record.get("w_bit")) != 4:
        raise _refused(source, f"AWQ of {record.get('bits', record.get('w_bit'))!r:.80} bits", "4 bits are read")
    size = _group_size(record.get("group_size", record.get("q_group_size", 128)), source)
    for name, parts in _taken(tensors, "qweight", ("qweight", "qzeros", "scales"), ()):
        _check_types(name, parts, integers=("qweight", "qzeros"), floats=("scales",))
        yield awq(name, parts, group_size=size)


def _compressed_layers(
    record: Mapping[str, Any], tensors: dict[str, StoredTensor], source: str
) -> Iterator[PackedWeight]:
    _check_compressed(record, source)
    optional = ("weight_zero_point", "weight_g_idx")
    for name, parts in _taken(tensors, "weight_packed", ("weight_packed", "weight_scale", "weight_shape"), optional):
        _check_types(name, parts, integers=("weight_packed",), floats=("weight_scale",))
        sizes = parts["weight_shape"]
        check_shapes(name, {"weight_shape": sizes}, {"weight_shape": (2,)})
        if sizes.dtype not in (torch.int32, torch.int64):
            raise FileFormatError(f"{name}.weight_shape is {sizes.dtype}, expected int64.")
        outputs, inputs = (int(each) for each in sizes.load().tolist())
        packed = parts["weight_packed"].shape
        # The configuration may have several groups of layers; the width of the numbers says which this one is of.
        bits = next((each for each in (4, 8) if packed == (outputs, -(-inputs * each // 32)) and inputs > 0), None)
        if bits is None:
            raise FileFormatError(
                f"{name}.weight_packed is {list(packed)}, and weight_shape says {[outputs, inputs]}: neither 4 nor 8 "
                "bits a weight."
            )
        yield compressed(name, parts, bits=bits, shape=(outputs, inputs))
    codes = [each.removesuffix("_scale") for each in tensors if each.endswith(".weight_scale")]
    for name in [each.removesuffix(".weight") for each in codes]:
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.dtype != torch.int8 or len(weight.shape) != 2:
            raise FileFormatError(f"{name} has weight_scale, and no weight of int8. Download the folder again.")
        parts = {
            part: tensors.pop(f"{name}.{part}")
            for part in ("weight", "weight_scale", *optional)
            if f"{name}.{part}" in tensors
        }
        _check_types(name, parts, integers=(), floats=("weight_scale",))
        yield compressed(name, parts, bits=8, shape=(weight.shape[0], weight.shape[1]))


def _check_compressed(record: Mapping[str, Any], source: str) -> None:
    """Raise ``ConfigError`` where compressed-tensors did more than quantize weights to four or eight bits."""
    where = "compressed-tensors"
    groups = record.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, Mapping) else []
    layouts = [record.get("format"), *(each.get("format") for each in groups if isinstance(each, Mapping))]
    known = (None, "pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")
    others = sorted(str(each) for each in layouts if each not in known)
    if others:
        raise _refused(source, f"{where} in the format {others[0]!r}", "pack-quantized and int-quantized are read")
    sparsity = record.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping) or sparsity.get("format", "dense") != "dense":
        raise _refused(source, f"{where} with sparse weights", "dense ones are read")
    for field in ("kv_cache_scheme", "transform_config"):
        if record.get(field):
            raise _refused(source, f"{where} with {field}", "weights alone are read")
    for group in groups:
        group = group if isinstance(group, Mapping) else {}
        weights = group.get("weights")
        if group.get("input_activations") or group.get("output_activations"):
            raise _refused(source, f"{where} that quantizes activations", "weights alone are read")
        if not isinstance(weights, Mapping) or weights.get("type", "int") != "int":
            kind = weights.get("type") if isinstance(weights, Mapping) else weights
            raise _refused(source, f"{where} of the type {kind!r:.80}", "integers are read")
        _bits(weights.get("num_bits"), source, where)
        strategy = weights.get("strategy")
        if strategy not in ("group", "channel", "tensor", None):
            raise _refused(source, f"{where} with the strategy {strategy!r:.80}", "group, channel and tensor are read")


def _bits(value: Any, source: str, method: str) -> int:
    if type(value) is not int or value not in (4, 8):
        raise _refused(source, f"{method} of {value!r:.80} bits", "4 and 8 bits are read")
    return value


def _group_size(value: Any, source: str) -> int:
    if type(value) is not int or (value < 1 and value != -1):
        raise FileFormatError(
            f"{source}: group_size of the {QUANTIZATION_RECORD} is {value!r:.80}, expected an integer ≥ 1, or -1."
        )
    return value


def _refused(source: str, what: str, known: str) -> ConfigError:
    return ConfigError(f"{source} is quantized by {what}, which isn't read here: {known}. {_INSTEAD}")


def _check_types(
    name: str, parts: Mapping[str, StoredTensor], *, integers: tuple[str, ...], floats: tuple[str, ...]
) -> None:
    for part, each in parts.items():
        if part in integers and each.dtype != torch.int32:
            raise FileFormatError(f"{name}.{part} is {each.dtype}, expected int32.")
        if part in floats and (not each.dtype.is_floating_point or each.dtype.itemsize < 2):
            raise FileFormatError(f"{name}.{part} is {each.dtype}, expected float16, bfloat16 or float32.")
