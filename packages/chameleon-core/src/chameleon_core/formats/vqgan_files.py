"""Meta's image tokenizer in files: ``vqgan.yaml``, the configuration, and ``vqgan.ckpt``, the weights with a decoder.

What a trainer left in the weights (``loss.*``: discriminators and perceptual losses) is no part of the image tokenizer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._commits import stored
from ..errors import CheckpointWarning, ConfigError, FileFormatError
from .contract import IMAGE_PREFIX, StoredTensor
from .torch_files import open_torch_file, tensors_of, write_torch_file

YAML_FILE, WEIGHTS_FILE = "vqgan.yaml", "vqgan.ckpt"

_OF_TRAINING = "loss."
_FIELDS = {
    "ch": "base_channels",
    "out_ch": "out_channels",
    "ch_mult": "channel_multiplier",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
    "dropout": "dropout",
    "in_channels": "in_channels",
    "resolution": "resolution",
    "z_channels": "latent_channels",
    "double_z": "double_latent",
}
"""The names of Meta's ``ddconfig`` and ours."""
_CODEBOOK = {"embed_dim": "embed_dim", "n_embed": "num_embeddings"}
"""Meta's names of the codebook's sizes, beside ``ddconfig``, and ours."""
_ASSUMED = {"attn_type": "vanilla", "resamp_with_conv": True, "use_linear_attn": False, "tanh_out": False}
"""Fields of ``ddconfig`` that may be there with these values."""
_ONLY = {"quantizer": "codebook", "norm_num_groups": 32, "quantizer_options": {}}
"""Fields that Meta's file doesn't have, and the values that its code computes with."""

_PUBLISHED: Mapping[str, Any] = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
    "in_channels": 3,
    "resolution": 512,
    "latent_channels": 256,
    "double_latent": False,
}


def read_vqgan(yaml: Path, weights: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Return the configuration of an image tokenizer, under our names, and its tensors, ``model.vqmodel.*``.

    The tensors stay mapped. A ``CheckpointWarning`` lists what training left in the weights. Raises
    ``MissingFileError``, ``FileAccessError`` and ``FileFormatError``.
    """
    config = _config(yaml)
    content = open_torch_file(weights)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise FileFormatError(f"{weights} has a state_dict that is no mapping of tensors. Download it again.")
    left = [name for name in state if name.startswith(_OF_TRAINING)]
    tensors = tensors_of({name: value for name, value in state.items() if name not in left}, weights)
    if not any(name.startswith("encoder.") for name in tensors):
        found = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise FileFormatError(f"{weights} has no tensors named encoder.*, expected an image tokenizer. Found: {found}.")
    if left:
        warnings.warn(
            f"{weights} holds {len(left)} entries of its training ({left[0]}, …), which the image tokenizer doesn't "
            "need and which aren't read.",
            CheckpointWarning,
            stacklevel=2,
        )
    return config, {IMAGE_PREFIX + name: StoredTensor.of(tensor) for name, tensor in tensors.items()}


def write_vqgan(folder: Path, vq_config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Write both files. Raises ``ConfigError`` where Meta's files can't describe the image tokenizer."""
    config = {{**_FIELDS, **_CODEBOOK}.get(name, name): value for name, value in vq_config.items()}
    for name, only in _ONLY.items():
        if config.get(name, only) != only:
            raise ConfigError(
                f"Meta's {YAML_FILE} has no field for {name} {config[name]!r:.80}; its code computes with {only!r}. "
                "Write the format hf."
            )
    if config.get("attn_type", "vanilla") != "vanilla":
        raise ConfigError(
            f"Meta's {YAML_FILE} has no field for attn_type {config['attn_type']!r}. Write the format hf."
        )
    published = {**_PUBLISHED, **{name: value for name, value in config.items() if value is not None}}
    published.setdefault("out_channels", published["in_channels"])
    network = {theirs: published[ours] for theirs, ours in _FIELDS.items()}
    params = {**{theirs: published[ours] for theirs, ours in _CODEBOOK.items()}, "ddconfig": network}
    from .plain_yaml import yaml_text  # PyYAML is for this format alone

    (folder / YAML_FILE).write_text(yaml_text({"model": {"params": params}}), encoding="utf-8")
    # In one order, so that a model is the same file whatever it was read from.
    state = {name.removeprefix(IMAGE_PREFIX): tensor for name, tensor in sorted(tensors.items())}
    write_torch_file(folder / WEIGHTS_FILE, state, inside="state_dict")


def find_vqgan(folders: list[Path]) -> tuple[Path, Path] | None:
    """Return the paths of both files in the first of several folders that has one of them, None where none has.

    Raises ``FileFormatError`` where one of the two is missing.
    """
    for folder in folders:
        paths = stored(folder, YAML_FILE), stored(folder, WEIGHTS_FILE)
        there = [os.path.isfile(path) for path in paths]
        if all(there):
            return paths
        if any(there):
            has, lacks = (YAML_FILE, WEIGHTS_FILE) if there[0] else (WEIGHTS_FILE, YAML_FILE)
            raise FileFormatError(f"{folder} has {has} and no {lacks}; the image tokenizer needs both. Put it there.")
    return None


def _config(path: Path) -> dict[str, Any]:
    from .plain_yaml import read_yaml  # PyYAML is for this format alone

    data = read_yaml(path)
    params: Any = data
    for name in ("model", "params"):
        params = params.get(name) if isinstance(params, dict) else None
    network = params.get("ddconfig") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(network, dict):
        raise FileFormatError(f"{path} has no model.params.ddconfig, expected the configuration of a VQGAN.")
    config: dict[str, Any] = {ours: network[theirs] for theirs, ours in _FIELDS.items() if theirs in network}
    config |= {ours: params[theirs] for theirs, ours in _CODEBOOK.items() if theirs in params}
    unknown = sorted(name for name in network if name not in _FIELDS and network[name] != _ASSUMED.get(name))
    if unknown:
        raise FileFormatError(
            f"{path}: ddconfig has {', '.join(map(repr, unknown))}, which this image tokenizer doesn't compute with. "
            f"Expected {', '.join(_FIELDS)}."
        )
    if config.get("out_channels") == config.get("in_channels", 3):
        config.pop("out_channels", None)
    if config.get("attn_resolutions") == []:
        config["attn_resolutions"] = None
    return {**config, "attn_type": "vanilla"}
