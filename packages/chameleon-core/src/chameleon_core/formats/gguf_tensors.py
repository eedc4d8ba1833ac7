"""The tensors of a GGUF file by llama.cpp's names, and those of the published ``hf`` layout.

llama.cpp rotates adjacent pairs of a head's rows, so the rows of queries and keys, and their norms, are permuted, as in
Meta's files. Norms and biases are float32 there, whatever the type of the matrices. With tied embeddings there is no
``output.weight``.

Shapes: H heads, D width of a head, E hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError, WeightsError
from ..optional_packages import gguf_package
from .contract import StoredTensor
from .gguf_file import GGUFFile, is_float

EMBEDDINGS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_OUTER = (EMBEDDINGS, "model.norm.weight", OUTPUT)
_INNER = (
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"self_attn.{name}_norm.{part}" for name in "qk" for part in ("weight", "bias")),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The types of matrices that are written, and GGUF's names."""
_MOST_LISTED = 8


def names_of(num_layers: int) -> Iterator[tuple[str, str]]:
    """Yield our name and llama.cpp's of every tensor of a model, as the package ``gguf`` maps them."""
    package = gguf_package()
    names = package.get_tensor_name_map(package.MODEL_ARCH.CHAMELEON, num_layers)
    inner = [f"model.layers.{layer}.{name}" for layer in range(num_layers) for name in _INNER]
    for ours in (*_OUTER, *inner):
        yield ours, names.get_name(ours, try_suffixes=(".weight", ".bias"))


def composed(files: list[GGUFFile], config: ChameleonConfig, dtype: torch.dtype | None) -> dict[str, StoredTensor]:
    """Return the tensors of a model by our names.

    They have the type ``dtype``. Without one it is the matrices', and a norm that this would round stays float32.
    Raises ``FileFormatError`` for a tensor that is missing, unknown, of integers or of another shape.
    """
    path = files[0].path
    rounds, dtype = dtype is not None, dtype or dtype_of(files)
    held = {name: file for file in files for name in file.tensors}
    names = dict(names_of(config.num_hidden_layers))
    if config.tie_word_embeddings:
        del names[OUTPUT]
    # As llama.cpp does, a norm without a bias adds nothing.
    optional = {theirs for ours, theirs in names.items() if ours.endswith("_norm.bias")}
    absent = [theirs for theirs in names.values() if theirs not in held and theirs not in optional]
    unknown = sorted(held.keys() - set(names.values()))
    listed = "; ".join(
        f"{kind}: {', '.join(each[:_MOST_LISTED])}{' …' * (len(each) > _MOST_LISTED)}"
        for kind, each in (("missing", absent), ("unknown", unknown))
        if each
    )
    if listed:
        raise FileFormatError(
            f"{path} doesn't have the tensors of a Chameleon model of its metadata. Tensors {listed}."
        )
    tensors: dict[str, StoredTensor] = {}
    for ours, theirs in names.items():
        if theirs not in held:
            like = tensors[ours.replace(".bias", ".weight")]
            tensors[ours] = StoredTensor(like.shape, dtype, partial(torch.zeros, like.shape, dtype=dtype))
            continue
        stored = held[theirs].stored(theirs, dtype=dtype)
        kept = dtype if rounds or stored.dtype != torch.float32 or _is_exact(stored, dtype) else torch.float32
        axis = -1 if _is_norm(ours) else 0
        if _is_permuted(ours) and (len(stored.shape) != 2 or stored.shape[axis] % config.head_dim):
            raise FileFormatError(f"{path}: {theirs} is {list(stored.shape)}, and heads are {config.head_dim} wide.")
        tensors[ours] = StoredTensor(stored.shape, kept, partial(_as_ours, stored, kept, ours, config.head_dim))
    return tensors


def dtype_of(files: list[GGUFFile]) -> torch.dtype:
    """Return the type of all matrices; float32 where they have several types, or some are quantized."""
    kinds = {
        (each.kind, is_float(each))
        for file in files
        for name, each in file.tensors.items()
        if len(each.shape) > 1 and not name.endswith(("_norm.weight", ".bias"))
    }
    found = [kind.name for kind, is_float in kinds if is_float]
    types = {name: dtype for dtype, name in TYPES.items()}
    return types.get(found[0], torch.float32) if len(kinds) == len(found) == 1 else torch.float32


def write_gguf(
    path: Path, tensors: Mapping[str, StoredTensor], config: ChameleonConfig, values: Mapping[str, Any], kind: str
) -> None:
    """Write a file with a tensor in memory at a time. ``kind`` is the type of the matrices, in GGUF's words.

    Raises ``WeightsError`` where the tensors aren't those of the model, or one overflows the type.
    """
    package = gguf_package()
    writer = package.GGUFWriter(path, values[package.Keys.General.ARCHITECTURE])
    for key, value in values.items():
        if key != package.Keys.General.ARCHITECTURE:  # the writer has it
            _add(writer, key, value)
    names = {ours: theirs for ours, theirs in names_of(config.num_hidden_layers) if ours in tensors}
    kinds = {ours: "F32" if len(tensors[ours].shape) == 1 or _is_norm(ours) else kind for ours in names}
    types = {name: dtype for dtype, name in TYPES.items()}
    for ours, theirs in names.items():
        shape, dtype = tensors[ours].shape, types[kinds[ours]]
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        array = torch.empty(0, dtype=torch.float32 if dtype == torch.float32 else torch.float16).numpy()
        raw = package.GGMLQuantizationType[kinds[ours]]
        writer.add_tensor_info(theirs, shape, array.dtype, num_bytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for ours in names:
            value = _as_theirs(tensors[ours].load(), types[kinds[ours]], ours, config.head_dim)
            bits = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
            writer.write_tensor_data(bits.numpy())
    finally:
        writer.close()


def check_names(tensors: Mapping[str, StoredTensor], config: ChameleonConfig) -> None:
    """Raise ``WeightsError`` where the tensors aren't exactly those that llama.cpp has names for."""
    expected = {ours for ours, _ in names_of(config.num_hidden_layers)}
    if config.tie_word_embeddings:
        expected.discard(OUTPUT)
    problems = {"missing": expected - tensors.keys(), "without a name there": tensors.keys() - expected}
    listed = "; ".join(
        f"{kind}: {', '.join(sorted(names)[:_MOST_LISTED])}" for kind, names in problems.items() if names
    )
    if listed:
        raise WeightsError(f"the model can't be written as GGUF. Tensors {listed}.")


def kind_of(tensors: Mapping[str, StoredTensor], dtype: torch.dtype | None) -> str:
    """Return the type that matrices are written in: ``dtype``, or the one that they have. Raises ``ConfigError``."""
    matrices = (each for name, each in tensors.items() if len(each.shape) > 1 and not _is_norm(name))
    found = {each.dtype for each in matrices} if dtype is None else {dtype}
    if len(found) > 1 or not found <= TYPES.keys():
        names = " and ".join(sorted(str(each).removeprefix("torch.") for each in found)) or "missing"
        raise ConfigError(
            f"the matrices are {names}; GGUF is written with all of them float32, float16 or bfloat16. Pass the dtype: "
            "`chameleon convert --dtype float16`, for instance."
        )
    return TYPES[found.pop()]


def _is_exact(stored: StoredTensor, dtype: torch.dtype) -> bool:
    """Return whether a tensor, a norm of few values, is the same in a narrower type."""
    if dtype == stored.dtype:
        return True
    value = stored.load()
    return torch.equal(value.to(dtype).to(value.dtype), value)


def _as_ours(stored: StoredTensor, dtype: torch.dtype, name: str, head_dim: int) -> Tensor:
    value = stored.load().to(dtype)
    return _permuted(value, head_dim // 2, 2, is_norm=_is_norm(name)) if _is_permuted(name) else value


def _as_theirs(value: Tensor, dtype: torch.dtype, name: str, head_dim: int) -> Tensor:
    cast = value.to(dtype)
    if dtype == torch.float16 and value.dtype != dtype and bool(cast.isinf().any() & value.isfinite().all()):
        raise WeightsError(f"{name} has values beyond those of float16, up to {value.abs().max():.3g}. Use bfloat16.")
    return (_permuted(cast, 2, head_dim // 2, is_norm=_is_norm(name)) if _is_permuted(name) else cast).contiguous()


def _is_permuted(name: str) -> bool:
    return any(part in name for part in (".q_proj.", ".k_proj.", ".q_norm.", ".k_norm."))


def _is_norm(name: str) -> bool:
    return "_norm." in name


def _permuted(value: Tensor, first: int, second: int, *, is_norm: bool) -> Tensor:
    """Return the rows [H·D, E] of heads, or their norms [H, D], with the two axes of each head exchanged."""
    rest = () if is_norm else value.shape[1:]
    return value.reshape(-1, first, second, *rest).transpose(1, 2).reshape(value.shape)


def _add(writer: Any, key: str, value: Any) -> None:
    """Add a value in the type that llama.cpp reads: integers of 32 bits without a sign, float32, …"""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
