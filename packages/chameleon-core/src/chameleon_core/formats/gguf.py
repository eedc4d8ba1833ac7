"""The format ``gguf``: the transformer's text path in one file of llama.cpp's format.

A folder has ``model.gguf``, and beside it what GGUF has no place for: the processor's files, the image tokenizer in
``image_tokenizer.safetensors``, and weights of other heads in ``extra_weights.safetensors``. A file alone is read, too,
as llama.cpp's converter writes it, of any type that the package ``gguf`` dequantizes, and so are files that were split.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from .._commits import committing, read_whole, stored
from .._files import write_json
from ..config import CONFIG_FILE
from ..errors import ConfigError, FileFormatError
from .contract import IMAGE_PREFIX, Checkpoint
from .extra_weights import EXTRA_FILE, read_extra, write_extra
from .gguf_file import GGUFFile, open_gguf
from .gguf_metadata import ARCHITECTURE, OWN_KEY, as_config, own_json, values_of
from .gguf_tensors import EMBEDDINGS, OUTPUT, TYPES, check_names, composed, dtype_of, kind_of, write_gguf
from .gguf_words import named, processor_files, words_of
from .gguf_words import values_of as values_of_words
from .hf import GENERATION_FILE, find_processor_files, read_generation
from .hf import REPLACED as REPLACED_OF_HF
from .meta_params import CONSOLIDATE_FILE, PARAMS_FILE
from .safetensors_files import open_safetensors, write_safetensors

SUFFIX = ".gguf"
MODEL_FILE = "model.gguf"
IMAGE_FILE = "image_tokenizer.safetensors"
"""The image tokenizer beside the file, which has no place for it."""

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_COUNT_KEY = "split.count"
_REPLACED = [MODEL_FILE, IMAGE_FILE, EXTRA_FILE, GENERATION_FILE, PARAMS_FILE, CONSOLIDATE_FILE, "consolidated*.pth"]
"""Patterns of the files that a save replaces. Those of other formats go, too, because they are recognized first."""
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""llama.cpp's numbers of the types that most tensors of a file have."""


class GGUFFormat:
    """Reads and writes GGUF of the architecture ``chameleon``; see ``CheckpointFormat``.

    ``dtype`` is the type of the matrices that are written (float32, float16 or bfloat16; by default as the model has
    them), or that all tensors have when they are read: by default that of the matrices, and float32 where these are
    quantized or of several types. Norms and their biases are float32 in the file in any case.
    """

    def __init__(self, *, dtype: torch.dtype | str | None = None) -> None:
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if (dtype is None) != (found is None) or (found is not None and found not in TYPES):
            raise ConfigError(f"dtype of GGUF must be float32, float16 or bfloat16, or None; got {dtype!r}.")
        self.dtype: torch.dtype | None = found

    def __repr__(self) -> str:
        return f"GGUFFormat(dtype={self.dtype})"

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the metadata of a folder's file, or of the file that ``folder`` is, and map the tensors.

        Raises ``MissingPackageError`` without the package ``gguf``, and ``FileFormatError``.
        """
        return read_whole(folder, lambda: self._read(folder))

    def _read(self, given: Path) -> Checkpoint:
        path = given if os.path.isfile(given) else _only_file(given)
        files = _open(path)
        metadata = files[0].metadata
        architecture = metadata.get("general.architecture")
        if architecture != ARCHITECTURE:
            raise FileFormatError(
                f"{path} has a model of the architecture {architecture!r:.80}, expected {ARCHITECTURE!r}: it isn't one "
                "of this family."
            )
        held = {name: tensor for file in files for name, tensor in file.tensors.items()}
        words = words_of(metadata, path)
        dtype = str(self.dtype or dtype_of(files)).removeprefix("torch.")
        config = as_config(
            metadata,
            path,
            vocab_size=_vocab_size(held, path),
            tied="output.weight" not in held,
            words=words if self.dtype is None else {**words, "dtype": dtype},
            dtype=dtype,
        )
        if config.num_hidden_layers > len(held):
            raise FileFormatError(
                f"{path} has {len(held):,} tensors, and its metadata says {config.num_hidden_layers:,} layers."
            )
        tensors = composed(files, config, self.dtype)
        processor = processor_files(metadata, path, config)
        beside = path.parent
        if not is_gguf(beside):
            return Checkpoint(config, tensors, {}, processor)
        if os.path.isfile(stored(beside, IMAGE_FILE)):
            image = open_safetensors(stored(beside, IMAGE_FILE))
            tensors |= {name: each for name, each in image.items() if name.startswith(IMAGE_PREFIX)}
        tensors |= read_extra(beside)
        generation = read_generation(stored(beside, GENERATION_FILE))
        return Checkpoint(config, tensors, generation, {**processor, **find_processor_files(beside)})

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write ``model.gguf`` and what it has no place for, replacing the previous checkpoint in one commit.

        A tensor is in memory at a time, and the weights are one file whatever ``max_shard_size`` is. Raises
        ``MissingPackageError`` without the package ``gguf``, ``ConfigError`` where llama.cpp's model can't be what the
        configuration says, ``WeightsError`` for tensors that it has no name for.
        """
        config = checkpoint.config
        values: dict[str, Any] = {"general.architecture": ARCHITECTURE, "general.type": "model", **values_of(config)}
        image = {name: each for name, each in checkpoint.tensors.items() if name.startswith(IMAGE_PREFIX)}
        extra = checkpoint.extra_names & checkpoint.tensors.keys()
        tensors = {name: each for name, each in checkpoint.tensors.items() if name not in image and name not in extra}
        if config.tie_word_embeddings:
            tensors.pop(OUTPUT, None)
        check_names(tensors, config)
        kind = kind_of(tensors, self.dtype)
        dtype = next(str(each).removeprefix("torch.") for each, name in TYPES.items() if name == kind)
        with committing(folder, replaces=[*_REPLACED, CONFIG_FILE, *REPLACED_OF_HF]) as save:
            # A pipeline has written its processor's files by now, in the same commit.
            files = {**find_processor_files(save), **checkpoint.processor_files}
            words = values_of_words(config, files)
            stores = named(words) == config.vocabulary_map
            own = own_json(config, vocabulary_is_stored=stores, dtype=dtype)
            values |= {"general.file_type": _FILE_TYPES[kind], "general.quantization_version": 2, **words, OWN_KEY: own}
            write_gguf(save / MODEL_FILE, tensors, config, values, kind)
            if image:
                write_safetensors(save / IMAGE_FILE, image)
            write_extra(save, checkpoint.tensors, extra, reader="llama.cpp")
            if checkpoint.generation_config:
                write_json(save / GENERATION_FILE, checkpoint.generation_config)
            for name, content in checkpoint.processor_files.items():
                (save / name).parent.mkdir(exist_ok=True)
                (save / name).write_bytes(content())


def is_gguf(place: Path) -> bool:
    """Return whether a path is that of a GGUF file, or of a folder with one and without a ``config.json``."""
    if os.path.isfile(place):
        return place.suffix == SUFFIX
    others = (CONFIG_FILE, PARAMS_FILE)
    return not any(os.path.isfile(stored(place, name)) for name in others) and bool(_files_in(place))


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, of those that were split the first."""
    names = {MODEL_FILE} if os.path.isfile(stored(folder, MODEL_FILE)) else set()
    try:
        names |= {path.name for path in folder.glob(f"*{SUFFIX}") if os.path.isfile(path)}
    except OSError:
        return []
    splits = {name: match for name in names if (match := _SPLIT.fullmatch(name)) is not None}
    return [stored(folder, name) for name in sorted(names) if name not in splits or int(splits[name][2]) == 1]


def _only_file(folder: Path) -> Path:
    found = _files_in(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:8]) or "none"
        raise FileFormatError(f"{folder} has {len(found)} GGUF files, so load one of them by its path: {names}.")
    return found[0]


def _open(path: Path) -> list[GGUFFile]:
    """Open a file, and the others where it is the first of several that it was split into."""
    first = open_gguf(path)
    count = first.metadata.get(_COUNT_KEY, 1)
    if count in (0, 1):
        return [first]
    match = _SPLIT.fullmatch(path.name)
    if type(count) is not int or match is None or int(match[3]) != count or int(match[2]) != 1:
        raise FileFormatError(
            f"{path} is one of {count!r:.80} files of a model that was split. Load the first by its path, which ends "
            "in -00001-of-NNNNN.gguf, with the others beside it under the names that they were published by."
        )
    rest = (path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{SUFFIX}") for number in range(2, count + 1))
    files = [first, *map(open_gguf, rest)]
    names = [name for file in files for name in file.tensors]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{path} and the other files of its model have tensors of the same name. Download again.")
    return files


def _vocab_size(tensors: Any, path: Path) -> int:
    embeddings = tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise FileFormatError(f"{path} has no matrix token_embd.weight, the embeddings of {EMBEDDINGS}.")
    return int(embeddings.shape[0])
