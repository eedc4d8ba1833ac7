"""Read and write the VQ-VAE's weights: a model's folder (under ``model.vqmodel.``), or an image tokenizer's own.

Only safetensors is read, only the tensors of the VQ-VAE, and only after their names and shapes were checked.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ._commits import committing, read_whole, stored
from ._files import read_json, reading, write_json
from ._meta import on_meta
from .allocation import AllocationLimit
from .config import CODES_PER_POSITION, ChameleonVQVAEConfig
from .errors import ConfigError, FileFormatError, InterchangeWarning, MissingFileError, Shape, WeightsError
from .file_access import writing
from .registry import make_quantizer

ModelT = TypeVar("ModelT", bound=nn.Module)
Build = Callable[[ChameleonVQVAEConfig, bool], ModelT]
"""Makes a VQ-VAE of a configuration, with a decoder or without."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODEL_TYPE = "chameleon_vqgan"
MODEL_PREFIX = "model.vqmodel."
DECODER_PREFIX = "decoder."

_NUMBER = "[0-9]" * 5
_REPLACED = (WEIGHTS, INDEX, f"model-{_NUMBER}-of-{_NUMBER}.safetensors")
"""Patterns of the files that a save replaces."""
_DOWNLOAD = f"Check that {CONFIG} and the weights belong together, and download what is missing."
_NOT_LOADED = "Loading would refuse them: save an earlier state, or pass check_finite=False to write them as they are."
_UNWRAP = "Remove adapters and wrappers from its layers, and give them the sizes of its configuration."

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_model(
    folder: str | os.PathLike[str],
    build: Build[ModelT],
    *,
    device: str | torch.device,
    dtype: torch.dtype | None,
    check_finite: bool = True,
    change: Callable[[ChameleonVQVAEConfig], ChameleonVQVAEConfig] = lambda config: config,
) -> ModelT:
    """Read the VQ-VAE of a folder, ready for inference; without a decoder if the weights have none.

    ``build`` makes it, ``change`` may change the configuration before. ``dtype`` None is the type of the weights.

    Raises ``MissingFileError``, ``FileFormatError``, ``ConfigError``, and ``WeightsError`` with the name of every
    tensor that is missing, unexpected, of another shape or dtype or, unless ``check_finite`` is False, holds NaN or
    infinity in ``dtype``.
    """
    check_device(device, dtype or torch.float32)
    root = Path(folder)
    model = read_whole(root, lambda: _read_model(root, build, dtype, check_finite, change))
    return model.to(device=device).eval()


def _read_model(
    root: Path,
    build: Build[ModelT],
    dtype: torch.dtype | None,
    check_finite: bool,
    change: Callable[[ChameleonVQVAEConfig], ChameleonVQVAEConfig],
) -> ModelT:
    config, prefix = _read_config(root)
    files = {name.removeprefix(prefix): path for name, path in _tensor_files(root).items() if name.startswith(prefix)}
    if not files:
        raise FileFormatError(f"{root} has no tensors named {prefix}*, expected the weights of an image tokenizer.")
    headers = dict(_read_headers(files, prefix))
    return _made(root, build, change(config), headers, lambda: _read_tensors(files, prefix, dtype), dtype, check_finite)


def model_of(
    tensors: Mapping[str, Tensor],
    config: ChameleonVQVAEConfig,
    build: Build[ModelT],
    *,
    source: str,
    device: str | torch.device,
    dtype: torch.dtype | None,
    check_finite: bool = True,
) -> ModelT:
    """Return the VQ-VAE of a configuration with the given tensors, ready for inference.

    ``source`` names them in errors. The other arguments and the errors are those of ``read_model``.
    """
    check_device(device, dtype or torch.float32)
    types = {dtype: name for name, dtype in _STORED.items()}
    headers = {name: (tuple(each.shape), types.get(each.dtype, str(each.dtype))) for name, each in tensors.items()}

    def read() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            yield name, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    model = _made(Path(source), build, config, headers, read, dtype, check_finite)
    return model.to(device=device).eval()


def _made(
    root: Path,
    build: Build[ModelT],
    config: ChameleonVQVAEConfig,
    headers: Mapping[str, tuple[Shape, str]],
    read: Callable[[], Iterator[tuple[str, Tensor]]],
    dtype: torch.dtype | None,
    check_finite: bool,
) -> ModelT:
    """Return the VQ-VAE of a configuration with the tensors that ``read`` yields once they are known to fit."""
    _check_depth(root, config, len(headers))
    with_decoder = any(name.startswith(DECODER_PREFIX) for name in headers)
    held = sum(math.prod(shape) for shape, _ in headers.values())
    try:
        with AllocationLimit(held, str(root / CONFIG)):
            model: Any = on_meta(lambda: build(config, with_decoder))
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:  # sizes beyond those of any tensor
        raise ConfigError(f"{root / CONFIG} describes no model that can be made: {error}") from error
    _check_codes_per_position(root, model)
    _check_fit(str(root), model, headers, advice=_DOWNLOAD)
    # Made again, on a real device: a quantizer may have tensors that aren't in the file.
    model.quantize = make_quantizer(config)
    tensors = dict(read())
    not_finite = [name for name, tensor in tensors.items() if not _is_finite(tensor)] if check_finite else []
    if not_finite:
        raise WeightsError(
            str(root),
            not_finite=not_finite,
            advice=f"Load an intact copy, another dtype if {dtype} overflows, or pass check_finite=False.",
        )
    model.load_state_dict(tensors, assign=True)
    stored_dtype = dtype or next(iter(tensors.values())).dtype
    made: ModelT = model.to(dtype=stored_dtype)
    return made


def write_model(model: Any, folder: str | os.PathLike[str], build: Build[Any], *, check_finite: bool = True) -> None:
    """Write the VQ-VAE to a folder of its own, in one commit.

    Raises ``WeightsError``, before anything is written, if its tensors aren't those that its configuration describes
    (layers were wrapped or have other sizes) or, unless ``check_finite`` is False, hold NaN or infinity: reading would
    refuse them.
    """
    if model.config.interchange_limit is not None:
        warnings.warn(model.config.interchange_limit, InterchangeWarning, stacklevel=3)
    expected = on_meta(lambda: build(model.config, model.decoder is not None))
    types = {dtype: name for name, dtype in _STORED.items()}
    found = {
        name: (tuple(tensor.shape), types.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in model.state_dict().items()
    }
    _check_fit("the model to save", expected, found, advice=_UNWRAP)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    not_finite = [name for name, tensor in tensors.items() if check_finite and not _is_finite(tensor)]
    if not_finite:
        raise WeightsError("the model to save", not_finite=not_finite, advice=_NOT_LOADED)
    with writing(folder), committing(folder, replaces=_REPLACED) as save:
        save_file(tensors, save / WEIGHTS, metadata={"format": "pt"})
        write_json(save / CONFIG, config_dict(model))


def config_dict(model: Any) -> dict[str, Any]:
    """Return the mapping for ``config.json``, or for its ``vq_config``.

    If a position has several codes it has their number, for readers that don't know the quantizer.
    """
    data = {**model.config.to_dict(), "model_type": MODEL_TYPE}
    data.pop(CODES_PER_POSITION, None)
    if model.quantize.codes_per_position != 1:
        data[CODES_PER_POSITION] = model.quantize.codes_per_position
    return data


def _read_config(root: Path) -> tuple[ChameleonVQVAEConfig, str]:
    """Return the configuration, and the prefix of its tensors' names."""
    path = stored(root, CONFIG)
    if not os.path.isfile(path):
        raise MissingFileError(
            f"{root} has no {CONFIG}; expected the folder of a Chameleon model or of an image tokenizer."
        )
    data = read_json(path)
    if "vq_config" in data:
        nested = data["vq_config"] or {}
        if not isinstance(nested, dict):
            raise FileFormatError(f"{path}: vq_config is a {type(nested).__name__}, expected an object.")
        return ChameleonVQVAEConfig.from_dict(nested, source=f"{path} (vq_config)"), MODEL_PREFIX
    if data.get("model_type") == MODEL_TYPE:
        return ChameleonVQVAEConfig.from_dict(data, source=str(path)), ""
    raise FileFormatError(
        f"{path} has the model_type {data.get('model_type')!r} and no vq_config; expected a Chameleon model's "
        f"vq_config, or the model_type {MODEL_TYPE!r} of an image tokenizer."
    )


def check_device(device: str | torch.device, dtype: torch.dtype) -> None:
    """Raise ``ConfigError`` if a device isn't available, or if the model can't compute in a dtype."""
    if dtype not in _DTYPES:
        names = ", ".join(str(each) for each in _DTYPES)
        raise ConfigError(f"the dtype is {dtype!r}, expected one that the model computes in: {names}.")
    try:
        torch.empty(0, device=device)
    # torch raises any of these for a device that doesn't exist
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"the device {device!r} can't be used here: {reason}. Pass device='cpu'.") from error


def _check_depth(root: Path, config: ChameleonVQVAEConfig, tensors: int) -> None:
    """Raise ``ConfigError`` if the configuration has more blocks than the files have tensors, before they are made."""
    levels = len(config.channel_multiplier)
    for count, name in (
        (levels, "channel_multiplier"),
        (levels * config.num_res_blocks, "num_res_blocks"),
        (config.quantizer_options.get("num_quantizers", 0), "num_quantizers"),
    ):
        if isinstance(count, int) and count > tensors:
            raise ConfigError(
                f"{root / CONFIG}: {name} makes {count:,} parts, but the weights have {tensors:,} tensors. Check that "
                f"{CONFIG} and the weights belong together."
            )


def _check_codes_per_position(root: Path, model: Any) -> None:
    config, expected = model.config, model.quantize.codes_per_position
    found = config.extras.get(CODES_PER_POSITION, expected)
    if found != expected:
        raise ConfigError(
            f"{root / CONFIG} has {CODES_PER_POSITION} {found!r}, expected {expected}, which its quantizer "
            f"{config.quantizer!r} has with the quantizer_options {config.quantizer_options}. Restore the one that was "
            "changed."
        )


def _tensor_files(root: Path) -> dict[str, Path]:
    """Return the file of every tensor in the folder, by the tensor's name."""
    # As in `transformers`, which takes a single file before an index that an earlier save left.
    weights, index_file = stored(root, WEIGHTS), stored(root, INDEX)
    if os.path.isfile(weights):
        with _opened(weights) as file:
            return dict.fromkeys(file.keys(), weights)
    if os.path.isfile(index_file):
        index = read_json(index_file).get("weight_map")
        if not isinstance(index, dict):
            raise FileFormatError(f"{root / INDEX} has no weight_map, expected an object; download the file again.")
        return {name: _shard(root, file) for name, file in index.items()}
    raise MissingFileError(
        f"{root} has neither {INDEX} nor {WEIGHTS}. Weights in other formats must be converted to safetensors first."
    )


def _shard(root: Path, file: object) -> Path:
    # An index isn't trusted: it may name files beside it, but none outside the folder.
    if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file or "\\" in file:
        raise FileFormatError(f"{root / INDEX} names {file!r}, expected the name of a file in the same folder.")
    return stored(root, file)


def _check_fit(what: str, model: nn.Module, found: Mapping[str, tuple[Shape, str]], *, advice: str) -> None:
    """Raise ``WeightsError`` where tensors, each a shape and a dtype as in safetensors, aren't those of the model."""
    state = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    mis_shaped = {
        name: (shape, expected[name])
        for name, (shape, _) in found.items()
        if name in expected and shape != expected[name]
    }
    mis_typed = {
        name: (dtype, "floats" if state[name].is_floating_point() else str(state[name].dtype).removeprefix("torch."))
        for name, (_, dtype) in found.items()
        if name in state and not _is_kind(dtype, state[name].dtype)
    }
    if missing or unexpected or mis_shaped or mis_typed:
        raise WeightsError(
            what,
            missing=missing,
            unexpected=unexpected,
            mis_shaped=mis_shaped,
            mis_typed=mis_typed,
            advice=advice,
        )


def _is_kind(stored: str, wanted: torch.dtype) -> bool:
    """Return whether a type of safetensors can be taken for a tensor: any floats for floats, else the same type."""
    found = _STORED.get(stored)
    return found is not None and (found == wanted or (found.is_floating_point and wanted.is_floating_point))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # A sum takes a third of the time, and is finite only where all values are; a sum of finite ones may overflow.
    if tensor.sum().isfinite():
        return True
    least, greatest = tensor.aminmax()  # a NaN is both
    return bool(least.isfinite() and greatest.isfinite())


def _read_headers(files: Mapping[str, Path], prefix: str) -> Iterator[tuple[str, tuple[Shape, str]]]:
    for path, names in _by_file(files).items():
        with _opened(path) as file:
            for name in names:
                view = file.get_slice(prefix + name)
                yield name, (tuple(view.get_shape()), view.get_dtype())


def _read_tensors(files: Mapping[str, Path], prefix: str, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    for path, names in _by_file(files).items():
        with _opened(path) as file:
            for name in names:
                tensor = file.get_tensor(prefix + name)
                yield name, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _by_file(files: Mapping[str, Path]) -> dict[Path, list[str]]:
    names: dict[Path, list[str]] = {}
    for name, path in files.items():
        names.setdefault(path, []).append(name)
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file, and convert its errors."""
    if not os.path.isfile(path):
        raise MissingFileError(f"there is no {path}, which the index names; download the missing file.")
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} ({path.stat().st_size:,} bytes) is not a complete safetensors file: {error}. Download it again."
        ) from error
