"""Weights in folders: a whole model's (the VQ-VAE under ``model.vqmodel.``) or an image tokenizer's own.

Only safetensors is read, only the tensors of the VQ-VAE, and only after their names and shapes were found right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._files import read_json, replacing, write_json
from .config import CODES_PER_POSITION, ChameleonVQVAEConfig
from .errors import ConfigError, FileFormatError, MissingFileError, Shape, WeightsError
from .model import ChameleonVQVAE
from .quantizers import make_quantizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODEL_TYPE = "chameleon_vqgan"
MODEL_PREFIX = "model.vqmodel."
DECODER_PREFIX = "decoder."


def read_model(folder: str | os.PathLike[str], *, device: str | torch.device, dtype: torch.dtype) -> ChameleonVQVAE:
    """The VQ-VAE of a folder, ready for inference; without a decoder where the weights have none.

    Raises ``MissingFileError``, ``FileFormatError``, ``ConfigError``, and ``WeightsError`` with every name that is
    missing, unexpected or of another shape.
    """
    root = Path(folder)
    config, prefix = _read_config(root)
    files = {name.removeprefix(prefix): path for name, path in _tensor_files(root).items() if name.startswith(prefix)}
    if not files:
        raise FileFormatError(f"{root} has no tensors named {prefix}*, so there is no image tokenizer in it.")
    with torch.device("meta"):
        model = ChameleonVQVAE(config, with_decoder=any(name.startswith(DECODER_PREFIX) for name in files))
    _check_codes_per_position(root, model)
    _check_shapes(root, model, dict(_read_shapes(files, prefix)))
    # Made for real: a quantizer may hold tensors that no file has.
    model.quantize = make_quantizer(config)
    model.load_state_dict(dict(_read_tensors(files, prefix, dtype)), assign=True)
    return model.to(device=device, dtype=dtype).eval()


def write_model(model: ChameleonVQVAE, folder: str | os.PathLike[str]) -> None:
    """The VQ-VAE into a folder of its own: the weights, then the configuration, each file whole."""
    root = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(root / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(root / CONFIG, config_dict(model))


def config_dict(model: ChameleonVQVAE) -> dict[str, Any]:
    """The mapping for ``config.json``, or for its ``vq_config``.

    Where a position has several codes it says how many, for readers that don't know the quantizer.
    """
    data = {**model.config.to_dict(), "model_type": MODEL_TYPE}
    data.pop(CODES_PER_POSITION, None)
    if model.quantize.codes_per_position != 1:
        data[CODES_PER_POSITION] = model.quantize.codes_per_position
    return data


def _read_config(root: Path) -> tuple[ChameleonVQVAEConfig, str]:
    """The configuration, and what the names of its tensors begin with."""
    path = root / CONFIG
    if not path.is_file():
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


def _check_codes_per_position(root: Path, model: ChameleonVQVAE) -> None:
    config, expected = model.config, model.quantize.codes_per_position
    found = config.extras.get(CODES_PER_POSITION, expected)
    if found != expected:
        raise ConfigError(
            f"{root / CONFIG} says {CODES_PER_POSITION} {found!r}; its quantizer {config.quantizer!r} has {expected} "
            f"with the quantizer_options {config.quantizer_options}. Restore the one that was changed."
        )


def _tensor_files(root: Path) -> dict[str, Path]:
    """The name of every tensor in the folder, and the file that holds it."""
    if (root / INDEX).is_file():
        index = read_json(root / INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise FileFormatError(f"{root / INDEX} has no weight_map; fetch the file again.")
        return {name: _shard(root, file) for name, file in index.items()}
    if (root / WEIGHTS).is_file():
        with _opened(root / WEIGHTS) as file:
            return dict.fromkeys(file.keys(), root / WEIGHTS)
    raise MissingFileError(
        f"{root} has neither {INDEX} nor {WEIGHTS}. Weights in other formats must be converted to safetensors first."
    )


def _shard(root: Path, file: object) -> Path:
    # An index is a stranger's file: it may name files beside it, not climb out of the folder.
    if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file or "\\" in file:
        raise FileFormatError(f"{root / INDEX} names {file!r}, expected the name of a file in the same folder.")
    return root / file


def _check_shapes(root: Path, model: ChameleonVQVAE, found: Mapping[str, Shape]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    mis_shaped = {
        name: (shape, expected[name]) for name, shape in found.items() if name in expected and shape != expected[name]
    }
    if missing or unexpected or mis_shaped:
        raise WeightsError(
            str(root),
            missing=missing,
            unexpected=unexpected,
            mis_shaped=mis_shaped,
            advice=f"Check that {CONFIG} and the weights belong together, and fetch what is missing.",
        )


def _read_shapes(files: Mapping[str, Path], prefix: str) -> Iterator[tuple[str, Shape]]:
    for path, names in _by_file(files).items():
        with _opened(path) as file:
            for name in names:
                yield name, tuple(file.get_slice(prefix + name).get_shape())


def _read_tensors(files: Mapping[str, Path], prefix: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for path, names in _by_file(files).items():
        with _opened(path) as file:
            for name in names:
                tensor = file.get_tensor(prefix + name)
                yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _by_file(files: Mapping[str, Path]) -> dict[Path, list[str]]:
    names: dict[Path, list[str]] = {}
    for name, path in files.items():
        names.setdefault(path, []).append(name)
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, its errors put in words."""
    if not path.is_file():
        raise MissingFileError(f"there is no {path}, which the index names; fetch the missing file.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: {error}. Fetch it again."
        ) from error
