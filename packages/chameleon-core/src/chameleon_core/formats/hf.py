"""The format ``hf``: the layout of ``transformers``, which vLLM reads too.

A folder has ``config.json``, ``generation_config.json`` and the weights: ``model.safetensors``, or shards
``model-00001-of-0000N.safetensors`` and the index that maps tensors to shards.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._commits import committing, read_whole, stored
from .._files import read_bytes, read_json, write_json
from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import ConfigError, FileAccessError, FileFormatError, MissingFileError
from .contract import IMAGE_PREFIX, Checkpoint, StoredTensor
from .safetensors_files import open_safetensors, split_into_shards, write_safetensors

GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE, PICKLE_INDEX_FILE = "pytorch_model.bin", "pytorch_model.bin.index.json"
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files of the processor, those of older releases of ``transformers`` among them."""
_TEMPLATES = "additional_chat_templates"

_NUMBER = "[0-9]" * 5
REPLACED = [
    WEIGHTS_FILE,
    INDEX_FILE,
    # Earlier releases wrote shards with a version, too.
    *(f"model-{version}{_NUMBER}-of-{_NUMBER}.safetensors" for version in ("", "v[0-9]-", "v[0-9][0-9]-")),
]
"""Patterns of the files that a save replaces."""


class HFFormat:
    """Reads and writes the layout of ``transformers``; see ``CheckpointFormat``.

    With ``pickles``, weights in ``pytorch_model.bin`` or its shards are read where there are no safetensors: their
    tensors, memory-mapped, and nothing else that they name. By default they are refused.
    """

    def __init__(self, *, pickles: bool = False) -> None:
        self.pickles = pickles

    def __repr__(self) -> str:
        return f"HFFormat(pickles={self.pickles})"

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the configuration and the headers of the weights. Raises ``FileFormatError``."""
        return read_whole(folder, lambda: _read(folder, self.pickles))

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write a checkpoint, replacing the previous one in one commit. Raises ``ConfigError``."""
        if not checkpoint.config.qk_norm:
            raise ConfigError(
                "the format hf has no field for qk_norm=False, and its readers would apply a norm. Use another format."
            )
        shards = split_into_shards(checkpoint.tensors, max_shard_size)
        with committing(folder, replaces=REPLACED) as save:
            names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
            if len(shards) == 1:
                names = [WEIGHTS_FILE]
            else:
                write_json(save / INDEX_FILE, _index(dict(zip(names, shards, strict=True))))
            for name, shard in zip(names, shards, strict=True):
                write_safetensors(save / name, shard)
            write_json(save / CONFIG_FILE, _config_dict(checkpoint))
            write_json(save / GENERATION_FILE, checkpoint.generation_config or _generation_dict(checkpoint.config))
            for name, content in checkpoint.processor_files.items():
                (save / name).parent.mkdir(exist_ok=True)
                (save / name).write_bytes(content())


def _read(folder: Path, pickles: bool) -> Checkpoint:
    config = ChameleonConfig.from_pretrained(folder)
    generation = read_generation(stored(folder, GENERATION_FILE))
    weights = open_pickles(folder) if pickles and has_pickles_alone(folder) else open_weights(folder)
    return Checkpoint(config, weights, generation, find_processor_files(folder))


def find_processor_files(folder: Path) -> dict[str, Callable[[], bytes]]:
    """Return the files of the processor in a folder, by their names in it."""
    names = [*PROCESSOR_FILES, *(f"{_TEMPLATES}/{path.name}" for path in folder.glob(f"{_TEMPLATES}/*.jinja"))]
    # Found anew where it is read, since a commit may have moved it to its place meanwhile.
    return {name: partial(_read_stored, folder, name) for name in names if os.path.isfile(stored(folder, name))}


def _read_stored(folder: Path, name: str) -> bytes:
    return read_whole(folder, lambda: read_bytes(stored(folder, name)))


def read_generation(path: Path) -> dict[str, Any]:
    """Return the content of the optional file, whose values ``GenerationOptions`` checks one by one."""
    try:
        return read_json(path, finite=False)
    except MissingFileError:
        return {}
    except (FileFormatError, FileAccessError) as error:
        warnings.warn(f"the options of generation are the defaults, because {error}", stacklevel=2)
        return {}


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder under the names that they are stored by. Raises ``FileFormatError``."""
    # Where both exist, transformers reads the single file.
    if os.path.isfile(stored(folder, WEIGHTS_FILE)):
        return open_safetensors(stored(folder, WEIGHTS_FILE))
    if os.path.isfile(stored(folder, INDEX_FILE)):
        return _open_shards(folder)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    pickles = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if pickles:
        raise FileFormatError(
            f"{folder} has its weights in {', '.join(pickles)}. These are pickles, which may run code when they are "
            "loaded, so they aren't read. Convert them: `chameleon convert FOLDER NEW_FOLDER --pickles` reads the "
            "tensors of such files, and nothing else that they name."
        )
    raise FileFormatError(f"{folder} has no {WEIGHTS_FILE} and no {INDEX_FILE}. Found: {found}.")


def open_pickles(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of ``pytorch_model.bin`` or of its shards, memory-mapped. Raises ``FileFormatError``."""
    from .torch_files import open_torch_file, tensors_of  # which most folders don't need

    if os.path.isfile(stored(folder, PICKLE_FILE)):
        shards = {PICKLE_FILE}
    else:
        shards = set(_weight_map(folder, PICKLE_INDEX_FILE).values())
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(shards):
        path = stored(folder, shard)
        found = {name: StoredTensor.of(tensor) for name, tensor in tensors_of(open_torch_file(path), path).items()}
        again = sorted(tensors.keys() & found.keys())
        if again:
            raise FileFormatError(f"{path} has {again[0]!r:.80}, which another shard has, too. Remove one.")
        tensors |= found
    return tensors


def has_pickles_alone(folder: Path) -> bool:
    """Return whether a folder has the weights of ``transformers`` in pickles, and no safetensors."""

    def has(*names: str) -> bool:
        return any(os.path.isfile(stored(folder, name)) for name in names)

    return has(PICKLE_FILE, PICKLE_INDEX_FILE) and not has(WEIGHTS_FILE, INDEX_FILE)


def _weight_map(folder: Path, name: str) -> dict[str, str]:
    """Return the files of the tensors that an index names, all of which are there. Raises ``FileFormatError``."""
    index = stored(folder, name)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(
            f"{index} has no weight_map; expected a mapping from tensors to the files that hold them."
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise FileFormatError(f"{index} names the file {shard!r}; expected a file name in the same folder.")
    shards = dict.fromkeys(weight_map.values())
    absent = [shard for shard in shards if not os.path.isfile(stored(folder, shard))]
    if absent:
        raise FileFormatError(f"{folder} lacks {', '.join(absent)}, which {name} names. Download them again.")
    return weight_map


def _open_shards(folder: Path) -> dict[str, StoredTensor]:
    weight_map = _weight_map(folder, INDEX_FILE)
    tensors: dict[str, StoredTensor] = {}
    for shard in dict.fromkeys(weight_map.values()):
        content = open_safetensors(stored(folder, shard))
        tensors |= {name: stored for name, stored in content.items() if weight_map.get(name) == shard}
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise FileFormatError(
            f"{stored(folder, INDEX_FILE)} names tensors that its files don't hold: {', '.join(absent)}. Download the "
            "folder again."
        )
    return tensors


def _index(shards: Mapping[str, Mapping[str, StoredTensor]]) -> dict[str, Any]:
    stored = [tensor for shard in shards.values() for tensor in shard.values()]
    return {
        "metadata": {"total_size": sum(tensor.num_bytes for tensor in stored)},
        "weight_map": dict(sorted((tensor, name) for name, shard in shards.items() for tensor in shard)),
    }


def _config_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config with the actual type of the weights, under the names that new and old readers look up."""
    data = checkpoint.config.to_dict()
    floating = (
        tensor.dtype
        for name, tensor in checkpoint.tensors.items()
        if tensor.dtype.is_floating_point and not name.startswith(IMAGE_PREFIX)
    )
    dtype = next(floating, None)
    if dtype is not None:
        data["dtype"] = data["torch_dtype"] = str(dtype).removeprefix("torch.")
    return data


def _generation_dict(config: ChameleonConfig) -> dict[str, Any]:
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {name: value for name, value in ids.items() if value is not None}
