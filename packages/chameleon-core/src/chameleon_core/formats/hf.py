"""The format ``hf``: the layout of ``transformers``, which vLLM reads too.

A folder has ``config.json``, ``generation_config.json`` and the weights: ``model.safetensors``, or shards
``model-00001-of-0000N.safetensors`` and the index that maps tensors to shards.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import read_json, replacing, write_json
from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import ConfigError, FileAccessError, FileFormatError, MissingFileError
from .contract import IMAGE_PREFIX, Checkpoint, StoredTensor
from .safetensors_files import open_safetensors, split_into_shards, write_safetensors

GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_SHARD = re.compile(r"model-(v\d+-)?\d{5}-of-\d{5}\.safetensors")


class HFFormat:
    """Reads and writes the layout of ``transformers``; see ``CheckpointFormat``."""

    def __repr__(self) -> str:
        return "HFFormat()"

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the configuration and the headers of the weights. Raises ``FileFormatError``."""
        config = ChameleonConfig.from_pretrained(folder)
        return Checkpoint(config, _open_weights(folder), _read_generation(folder / GENERATION_FILE))

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write a checkpoint; an interrupted write leaves the previous one loadable. Raises ``ConfigError``."""
        if not checkpoint.config.qk_norm:
            raise ConfigError(
                "the format hf has no field for qk_norm=False, and its readers would apply a norm. Use another format."
            )
        folder.mkdir(parents=True, exist_ok=True)
        stale = _write_weights(checkpoint.tensors, folder, max_shard_size)
        write_json(folder / CONFIG_FILE, _config_dict(checkpoint))
        write_json(folder / GENERATION_FILE, checkpoint.generation_config or _generation_dict(checkpoint.config))
        for path in stale:
            path.unlink(missing_ok=True)


def _read_generation(path: Path) -> dict[str, Any]:
    """Return the content of the optional file, whose values ``GenerationOptions`` checks one by one."""
    try:
        return read_json(path, finite=False)
    except MissingFileError:
        return {}
    except (FileFormatError, FileAccessError) as error:
        warnings.warn(f"the options of generation are the defaults, because {error}", stacklevel=2)
        return {}


def _open_weights(folder: Path) -> dict[str, StoredTensor]:
    # Where both exist, transformers reads the single file.
    if (folder / WEIGHTS_FILE).is_file():
        return open_safetensors(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).is_file():
        return _open_shards(folder)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    pickles = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if pickles:
        raise FileFormatError(
            f"{folder} has its weights in {', '.join(pickles)}. These are pickles, which may run code when they are "
            "loaded, so they aren't read. Convert them to safetensors, for example with transformers: "
            "from_pretrained(folder), then save_pretrained(new_folder)."
        )
    raise FileFormatError(f"{folder} has no {WEIGHTS_FILE} and no {INDEX_FILE}. Found: {found}.")


def _open_shards(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(
            f"{index} has no weight_map; expected a mapping from tensors to the files that hold them."
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise FileFormatError(f"{index} names the file {shard!r}; expected a file name in the same folder.")
    shards = list(dict.fromkeys(weight_map.values()))
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise FileFormatError(f"{folder} lacks {', '.join(absent)}, which {INDEX_FILE} names. Download them again.")
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        content = open_safetensors(folder / shard)
        tensors |= {name: stored for name, stored in content.items() if weight_map.get(name) == shard}
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise FileFormatError(
            f"{index} names tensors that its files don't hold: {', '.join(absent)}. Download the folder again."
        )
    return tensors


def _write_weights(tensors: Mapping[str, StoredTensor], folder: Path, max_shard_size: int) -> list[Path]:
    """Write the weights and return the previous files, which can be removed.

    All files are written under temporary names first. A single rename then switches from the previous weights to the
    new ones: that of the single file, or that of the index, whose shards have names that no previous shard has. A save
    that is interrupted before or after it leaves a folder that loads.
    """
    old = [path for path in folder.iterdir() if _SHARD.fullmatch(path.name)]
    shards = split_into_shards(tensors, max_shard_size)
    if len(shards) == 1:
        with replacing(folder / WEIGHTS_FILE) as temporary:
            write_safetensors(temporary, shards[0])
        return [folder / INDEX_FILE, *old]
    names = _free_names(len(shards), {path.name for path in old})
    with contextlib.ExitStack() as renamed_together:
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(renamed_together.enter_context(replacing(folder / name)), shard)
    write_json(folder / INDEX_FILE, _index(dict(zip(names, shards, strict=True))))
    # Readers prefer the single file to the index.
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    return old


def _free_names(count: int, taken: set[str]) -> list[str]:
    """Return the usual names of shards, or ``model-v2-00001-of-0000N`` and so on where the folder has some of these."""
    for version in itertools.count(1):
        tag = "" if version == 1 else f"v{version}-"
        names = [f"model-{tag}{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        if taken.isdisjoint(names):
            return names
    raise AssertionError("itertools.count is infinite")


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
