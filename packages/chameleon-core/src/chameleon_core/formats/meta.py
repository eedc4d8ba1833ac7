"""The format ``meta``: the layout of Meta's release, which finetunes of its code have, too.

A model's folder has ``params.json``, ``consolidate_params.json`` and ``consolidated.pth``, or a ``consolidated.NN.pth``
for each model-parallel rank. The tokenizers, ``text_tokenizer.json``, ``vqgan.yaml`` and ``vqgan.ckpt``, are beside
them, or in the folder ``tokenizer`` of the root that has the model in ``models/7b``. Either folder is read.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .._commits import committing, read_whole, stored
from .._files import reading, write_json
from ..config import CONFIG_FILE
from ..errors import ConfigError, FileFormatError, InterchangeWarning, WeightsError
from .contract import IMAGE_PREFIX, Checkpoint, StoredTensor, extra_names
from .extra_weights import EXTRA_FILE, read_extra, write_extra
from .hf import GENERATION_FILE, find_processor_files, read_generation
from .hf import REPLACED as REPLACED_OF_HF
from .meta_extension import REST_FILE, with_rest, write_rest
from .meta_params import CONSOLIDATE_FILE, PARAMS_FILE, MetaParams, as_config, params_of, read_params
from .meta_tensors import composed, names_of, rank_tensors, sizes_of
from .meta_words import find_words, picture_sizes, processor_files, words_of, write_words
from .torch_files import open_torch_file, tensors_of, write_torch_file
from .vqgan_files import WEIGHTS_FILE, YAML_FILE, find_vqgan, read_vqgan, write_vqgan

MODELS_FOLDER = "models"

_WEIGHTS_FILE = "consolidated.pth"
_RANK = re.compile(r"consolidated\.(\d{2,})\.pth")
_REPLACED = [
    *(PARAMS_FILE, CONSOLIDATE_FILE, "consolidated*.pth", YAML_FILE, WEIGHTS_FILE, GENERATION_FILE),
    *(REST_FILE, EXTRA_FILE),
]
"""Patterns of the files that a save replaces. Those of ``hf`` go, too, because it is the first to be recognized."""
_DERIVED = "rotary_emb.inv_freq"


class MetaFormat:
    """Reads and writes Meta's layout; see ``CheckpointFormat``.

    ``ranks`` is the number of files of weights, by default the configuration's ``model_parallel_size``; it divides the
    heads, those of keys and values, too. ``fused`` stores the projections of attention and of the feed-forward layer
    joined (``wqkv``, ``w13``) and is False by default; both are read. ``average_norms`` takes the mean of norms that
    differ between ranks, which is an error by default.
    """

    def __init__(self, *, ranks: int | None = None, fused: bool = False, average_norms: bool = False) -> None:
        if ranks is not None and (type(ranks) is not int or ranks < 1):
            raise ConfigError(f"ranks must be an integer ≥ 1, or None for that of the model; got {ranks!r}.")
        self.ranks = ranks
        self.fused = fused
        self.average_norms = average_norms

    def __repr__(self) -> str:
        return f"MetaFormat(ranks={self.ranks}, fused={self.fused}, average_norms={self.average_norms})"

    def read(self, folder: Path, /) -> Checkpoint:
        """Read the parameters and map the weights. Raises ``FileFormatError`` and ``WeightsError``."""
        return read_whole(folder, lambda: self._read(folder))

    def _read(self, root: Path) -> Checkpoint:
        folder = _model_folder(root)
        places = [folder, folder / "tokenizer", folder.parent / "tokenizer", folder.parent.parent / "tokenizer"]
        params = read_params(folder)
        ranks = [tensors_of(open_torch_file(path), path) for path in _weight_files(folder, params)]
        sizes = sizes_of(ranks, params, folder)
        for name, value in (("n_heads", params.n_heads), ("n_kv_heads", params.num_key_value_heads)):
            if value % len(ranks):
                raise FileFormatError(f"{folder} has {len(ranks)} ranks, which don't divide {name} {value}.")
        tensors = composed(ranks, params, sizes, folder, average_norms=self.average_norms)
        parts: dict[str, Any] = {"model_parallel_size": len(ranks)}
        vqgan = find_vqgan(places)
        if vqgan is not None:
            parts["vq_config"], image_tensors = read_vqgan(*vqgan)
            tensors |= image_tensors
        words = find_words(places)
        parts |= {"bos_token_id": None, "eos_token_id": None} if words is None else words_of(words)
        config = as_config(params, sizes, parts)
        files = {} if words is None else processor_files(words, **picture_sizes(config, YAML_FILE))
        files |= find_processor_files(folder)  # what `write` put beside Meta's
        extra = read_extra(folder)
        generation = read_generation(stored(folder, GENERATION_FILE))
        return Checkpoint(with_rest(config, folder), {**extra, **tensors}, generation, files, frozenset(extra))

    def num_loads(self, checkpoint: Checkpoint) -> int:
        """Return how many times each tensor is loaded when a checkpoint is written: once for each rank."""
        return self.ranks or checkpoint.config.model_parallel_size

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        """Write all files to one folder, replacing the previous checkpoint in one commit.

        A rank's weights are one file whatever ``max_shard_size`` is; a tensor of them is in memory at a time. Raises
        ``ConfigError`` where the layout can't say what the configuration does, ``WeightsError`` for tensors that it has
        no name for.
        """
        config = checkpoint.config
        ranks = self.num_loads(checkpoint)
        params, consolidated = params_of(config, ranks)
        shape = MetaParams(
            dim=config.hidden_size,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            n_kv_heads=config.num_key_value_heads,
            rope_theta=config.rope_theta,
            qk_normalization=config.qk_norm,
        )
        image = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(IMAGE_PREFIX)}
        extra = checkpoint.extra_names & checkpoint.tensors.keys()
        _check_names(checkpoint, {*image, *extra})
        with committing(folder, replaces=[*_REPLACED, CONFIG_FILE, *REPLACED_OF_HF]) as save:
            write_json(save / PARAMS_FILE, params)
            write_json(save / CONSOLIDATE_FILE, consolidated)
            if checkpoint.generation_config:
                write_json(save / GENERATION_FILE, checkpoint.generation_config)
            if image:
                write_vqgan(save, dict(config.vq_config or {}), image)
            # A pipeline has written its processor's files by now, in the same commit.
            write_words(save, {**find_processor_files(save), **checkpoint.processor_files})
            for rank in range(ranks):
                name = _WEIGHTS_FILE if ranks == 1 else f"consolidated.{rank:02d}.pth"
                state = rank_tensors(checkpoint.tensors, shape, ranks, rank, fused=self.fused)
                if rank == 0:
                    _warn_of_norms(state, ranks)
                write_torch_file(save / name, state)
            write_rest(save, config, self._read(save).config, has_image_tokenizer=bool(image))
            write_extra(save, checkpoint.tensors, extra, reader="Meta's code")


def is_meta(folder: Path) -> bool:
    """Return whether a folder is a model's of Meta's layout, or a root with one or several."""
    return os.path.isfile(stored(folder, PARAMS_FILE)) or bool(_models_in(folder))


def _models_in(root: Path) -> list[Path]:
    try:
        return sorted(path.parent for path in (root / MODELS_FOLDER).glob(f"*/{PARAMS_FILE}"))
    except OSError:
        return []


def _model_folder(root: Path) -> Path:
    """Return the folder with the parameters. Raises ``FileFormatError`` where a root has several models."""
    if os.path.isfile(stored(root, PARAMS_FILE)):
        return root
    models = _models_in(root)
    if len(models) != 1:
        names = ", ".join(str(model.relative_to(root)) for model in models) or "none"
        raise FileFormatError(f"{root} has several models; load one of them by its own folder: {names}.")
    return models[0]


def _weight_files(folder: Path, params: MetaParams) -> list[Path]:
    """Return the files of the ranks in their order. Raises ``FileFormatError`` where some are missing or too many."""
    with reading(folder):
        numbers = sorted(int(match[1]) for path in folder.iterdir() if (match := _RANK.fullmatch(path.name)))
    single = stored(folder, _WEIGHTS_FILE)
    stated = params.model_parallel_size
    if os.path.isfile(single) and (stated in (None, 1) or not numbers):
        return [single]
    files = [stored(folder, f"consolidated.{rank:02d}.pth") for rank in range(min(stated or len(numbers), 1000))]
    absent = [path.name for path in files if not os.path.isfile(path)]
    if absent or not files or (numbers and numbers[-1] >= len(files)):
        raise FileFormatError(
            f"{folder} has {len(numbers)} files consolidated.NN.pth"
            + (f", and {CONSOLIDATE_FILE} says model_parallel_size {stated}" if stated else "")
            + f"; expected {_WEIGHTS_FILE}, or a file for each rank from 00. "
            + (f"Missing: {', '.join(absent[:8])}. " if absent else "")
            + "Download the folder again."
        )
    return files


def _check_names(checkpoint: Checkpoint, others: Collection[str]) -> None:
    """Raise ``WeightsError`` where the model's tensors aren't exactly those that the layout has names for."""
    config = checkpoint.config
    expected = {ours for _, ours, _ in names_of(config.num_hidden_layers, qk_norm=config.qk_norm)}
    if config.tie_word_embeddings:
        expected -= {"lm_head.weight"} - checkpoint.tensors.keys()
    found = {name for name in checkpoint.tensors if name not in others and not name.endswith(_DERIVED)}
    problems = {"missing": sorted(expected - found), "without a name there": sorted(found - expected)}
    listed = "; ".join(f"{kind}: {', '.join(names[:8])}" for kind, names in problems.items() if names)
    if listed:
        keep = extra_names(found) & set(problems["without a name there"])
        hint = " extra_weights='keep' (--extra-weights keep) writes them beside Meta's files." if keep else ""
        raise WeightsError(f"the model can't be written in Meta's layout. Tensors {listed}.{hint}")


def _warn_of_norms(state: Mapping[str, StoredTensor], ranks: int) -> None:
    if any("_normalization." in name and len(tensor.shape) == 2 for name, tensor in state.items()):
        warnings.warn(
            f"the heads of a rank have norms of their own, because the model was trained on more than {ranks} ranks. "
            "They are kept, a row for each head; Meta's code reads one for each rank and refuses these files. Write as "
            "many ranks as trained the model for it.",
            InterchangeWarning,
            stacklevel=4,
        )
