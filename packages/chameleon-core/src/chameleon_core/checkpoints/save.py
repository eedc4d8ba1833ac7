"""Save a model as a checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear
from chameleon_backends.plugin_calls import described, plugin_call, wrong

from .._boundary import translates_errors
from .._commits import committing, is_save
from .._files import writing
from ..config import ChameleonConfig
from ..divided import any_divided
from ..errors import CheckpointWarning, InterchangeWarning, WeightsError
from ..formats import IMAGE_PREFIX, Checkpoint, StoredTensor
from ..formats.safetensors_files import parse_size
from ..hookspecs import CheckpointFormatSpec
from ..registry import CHECKPOINT_FORMATS_HOOK, REGISTRY
from .assign import is_finite
from .interchange import interchange_limit
from .load import make_format, misfits_of, read_checkpoint

_EMBEDDINGS = "model.embed_tokens.weight"
_OUTPUT = "lm_head.weight"

_WRAPPED = {
    ".lora_": "Merge the adapters first, by merge_and_unload() of the handle that add_lora returned; its own "
    "save_pretrained saves them alone.",
    ".base_layer.": "Remove peft's adapters first, by unload() of its handle.",
    "_orig_mod.": "Put the layers that torch.compile wrapped back, which are their _orig_mod; layer.compile() compiles "
    "without a wrapper.",
    "parametrizations.": "Remove the parametrizations first, by torch.nn.utils.parametrize.remove_parametrizations.",
    ".weight_g": "Remove the norms of weights first, by torch.nn.utils.remove_weight_norm.",
    ".module.": "Put the wrapped layers back, which are their module.",
}
"""Parts of the names of tensors in wrapped layers, and what to do."""
_OTHERWISE = "Give the model the layers and sizes of its config, or a config with its own."
_MOST_LISTED = 600
"""The most characters of a list of tensors."""


@translates_errors
def write_checkpoint(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    checkpoint_format: str = "hf",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint in the format ``checkpoint_format``, whose own ``options`` may be given.

    ``max_shard_size`` is the largest size of a file, a number of bytes or a text like "5GB". A previous checkpoint in
    the folder is replaced in one commit: a process that dies leaves the one or the other. Raises
    ``FileAccessError`` where the system doesn't let it be written, and ``UnknownPluginError`` for another format.
    """
    spec = cast(CheckpointFormatSpec, REGISTRY.get(CHECKPOINT_FORMATS_HOOK, checkpoint_format))
    writer = make_format(spec, options or {})
    limit = parse_size(max_shard_size)
    doing = f"writing {Path(folder).parent if is_save(Path(folder)) else folder}"
    with writing(folder), committing(folder) as save, plugin_call(spec.called, doing), writing(save):
        writer.write(checkpoint, save, max_shard_size=limit)


def num_loads(checkpoint: Checkpoint, checkpoint_format: str, options: Mapping[str, Any] | None = None) -> int:
    """Return how many times a format loads each tensor when it writes a checkpoint. Raises ``BrokenPluginError``."""
    spec = cast(CheckpointFormatSpec, REGISTRY.get(CHECKPOINT_FORMATS_HOOK, checkpoint_format))
    count = getattr(make_format(spec, options or {}), "num_loads", None)
    if count is None:
        return 1
    with plugin_call(spec.called, "counting how often tensors are loaded"):
        found = count(checkpoint)
    if type(found) is not int or found < 1:
        wrong(spec.called, f"{described(found)} from num_loads; expected an int ≥ 1.")
    return found


@translates_errors
def save_checkpoint(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    config: ChameleonConfig,
    generation_config: Mapping[str, Any] | None = None,
    image_weights: Mapping[str, Tensor] | None = None,
    extra_weights: Mapping[str, Tensor] | None = None,
    source: str | os.PathLike[str] | None = None,
    build: Callable[[ChameleonConfig], nn.Module] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str = "5GB",
    checkpoint_format: str = "hf",
    check_finite: bool = True,
) -> None:
    """Save the weights and the config of a model, with the weights of its image tokenizer.

    ``image_weights`` is the state dict of the image tokenizer. Without it, these weights are copied from ``source``,
    the folder that the model was loaded from, a shard at a time; it may be ``folder`` itself.

    ``extra_weights`` are written as they are; the model has no place for them.

    ``build`` is what ``load_checkpoint`` will be given. With it, nothing is written that wouldn't load. ``state_dict``
    has the weights that are saved in place of the model's own.

    Raises ``WeightsError`` where the config ties the embeddings and those of the model differ, ``source`` doesn't
    exist, or the tensors aren't those that the config describes: adapters, wrapped layers, layers of other sizes, parts
    of a model that ranks divide; and, unless ``check_finite`` is False, where they hold NaN or infinity, since loading
    refuses them. Raises ``FileAccessError`` where the folder can't be written.
    """
    if any_divided(model.parameters() if state_dict is None else state_dict.values()):
        raise WeightsError(
            "the weights are divided among ranks, and this process has a part of them. Call save_pretrained of the "
            "trainer on all ranks, which gathers them."
        )
    if check_finite:
        _check_finite(_plain_weights(model) if state_dict is None else state_dict, image_weights or {})
    tensors = _own_tensors(_tensors(model) if state_dict is None else _given_tensors(state_dict), config)
    if image_weights is not None:
        tensors |= {IMAGE_PREFIX + name: StoredTensor.of(tensor) for name, tensor in image_weights.items()}
    elif source is not None:
        if not os.path.exists(source):
            raise WeightsError(
                f"{source}, from which the model was loaded, doesn't exist any more, and has the weights of its image "
                "tokenizer. Set model.image_tokenizer, or model.source = None to save without them."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)  # loading listed what isn't read
            stored = read_checkpoint(source, rotary_layout="halves").tensors
        tensors |= {name: tensor for name, tensor in stored.items() if name.startswith(IMAGE_PREFIX)}
    checkpoint = Checkpoint(config, tensors, generation_config or {})
    limit = interchange_limit(config, tensors)
    if limit is not None:
        warnings.warn(limit, InterchangeWarning, stacklevel=4)
    if build is not None:
        _check_loadable(checkpoint, build)
    if extra_weights:
        extra = {name: StoredTensor.of(tensor) for name, tensor in extra_weights.items()}
        checkpoint = replace(checkpoint, tensors={**tensors, **extra}, extra_names=frozenset(extra))
    write_checkpoint(
        checkpoint,
        folder,
        max_shard_size=max_shard_size,
        checkpoint_format=checkpoint_format,
    )


def _plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model but for those of quantized layers, which were finite when they were made."""
    return {
        f"{path}.{name}": tensor
        for path, module in model.named_modules()
        if not isinstance(module, QuantizedLinear)
        for name, tensor in module.named_parameters(recurse=False)
    }


def _check_finite(weights: Mapping[str, Tensor], image_weights: Mapping[str, Tensor]) -> None:
    named = (*weights.items(), *((IMAGE_PREFIX + name, tensor) for name, tensor in image_weights.items()))
    found = ", ".join(name for name, tensor in named if not is_finite(tensor))
    if found:
        raise WeightsError(
            "the weights to save hold NaN or infinity, so that loading would refuse them. Save an earlier state, or "
            f"pass check_finite=False to write them as they are. {_shortened(found)}"
        )


def _check_loadable(checkpoint: Checkpoint, build: Callable[[ChameleonConfig], nn.Module]) -> None:
    wrapped = {part: [name for name in checkpoint.tensors if part in name] for part in _WRAPPED}
    advice = next((_WRAPPED[part] for part, names in wrapped.items() if names), _OTHERWISE)
    found = misfits_of(checkpoint, build) or ", ".join(sorted({name for names in wrapped.values() for name in names}))
    if found:
        raise WeightsError(
            "the model can't be saved like this, because its tensors aren't those that its config describes and "
            f"wouldn't load. {advice} {_shortened(found)}"
        )


def _own_tensors(named: Iterable[tuple[str, StoredTensor]], config: ChameleonConfig) -> dict[str, StoredTensor]:
    tensors = dict(named)
    if config.tie_word_embeddings:
        # transformers stores tied embeddings once, under the name of the input embeddings.
        output = tensors.pop(_OUTPUT, None)
        if output is not None and not _same(output.load(), tensors[_EMBEDDINGS].load()):
            raise WeightsError(
                f"the config says tie_word_embeddings, but {_OUTPUT} differs from {_EMBEDDINGS} and would be lost. "
                "Tie them, or save with config.replace(tie_word_embeddings=False)."
            )
    return tensors


def _given_tensors(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, StoredTensor]]:
    return ((name, StoredTensor.of(tensor)) for name, tensor in state_dict.items())


def _tensors(model: nn.Module) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the model's state dict. The tensors of a quantized layer are unpacked when they are loaded."""
    for path, module in model.named_modules(remove_duplicate=False):
        own: dict[str, Tensor] = {}
        if isinstance(module, QuantizedLinear):
            yield from _quantized_tensors(path, module)
            own.update(module.named_parameters(prefix=path, recurse=False))
        else:
            module._save_to_state_dict(own, f"{path}." if path else "", keep_vars=False)
        yield from ((name, StoredTensor.of(tensor)) for name, tensor in own.items())


def _quantized_tensors(path: str, layer: QuantizedLinear) -> Iterator[tuple[str, StoredTensor]]:
    # Unpacked here for their shapes and again for each shard: keeping all would be a second copy of the model.
    for name, tensor in layer.stored().items():
        yield f"{path}.{name}", StoredTensor(tuple(tensor.shape), tensor.dtype, partial(_load_part, layer, name))


def _load_part(layer: QuantizedLinear, name: str) -> Tensor:
    return layer.stored()[name].cpu()


def _shortened(text: str) -> str:
    return f"{text}." if len(text) <= _MOST_LISTED else f"{text[:_MOST_LISTED]} …"


def _same(left: Tensor, right: Tensor) -> bool:
    return left.data_ptr() == right.data_ptr() or torch.equal(left, right)
