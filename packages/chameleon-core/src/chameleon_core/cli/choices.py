"""Which attention backend and weight quantizer a model would run with here, and why not each of the others.

Shapes: B rows, T query length, S key length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from chameleon_backends import (
    DEFAULT_ATTENTION_BACKEND,
    AttentionSpec,
    BrokenPluginError,
    ConfigError,
    LinearSpec,
    UnknownPluginError,
    WeightQuantizer,
    find_quantizer,
)
from chameleon_backends.plugins import PluginSpec, Registered
from chameleon_backends.registry import ATTENTION_BACKENDS_HOOK, REGISTRY, WEIGHT_QUANTIZERS_HOOK

from ..checkpoints import IMAGE_PREFIX, read_checkpoint, target_dtype
from ..checkpoints.interchange import interchange_limit
from ..checkpoints.quantization_plan import QUANTIZATION_RECORD
from .rows import size

CHOSEN = "chosen"
POSSIBLE = "can run"
REFUSED = "refuses"
UNSUPPORTED = "can't run here"
QUARANTINED = "quarantined"

# The embeddings and the output layer stay as they are.
_LINEAR = re.compile(r"model\.layers\.\d+\.\w+\.(\w+_proj)\.weight")
LENGTH = 64
"""The length of the requests that backends are asked about; any other gives the same answers."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a checkpoint says about a model, read without its weights."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    attention_dropout: float
    dtype: str
    """The dtype of its layers: as stored, unless another is requested."""
    device: str
    num_bytes: int
    """The size of its weights in that dtype, without the image tokenizer's."""
    linears: dict[str, tuple[int, int]]
    """The output and input features of a layer's projections, which a quantizer replaces, by name."""
    quantizer: str | None
    """What the checkpoint is quantized with."""
    unreadable: str | None
    """Why the quantizer of the checkpoint isn't known; None where it is."""
    interchange: str | None
    """What ``transformers`` gets wrong with the folder without an error; None where nothing is known of."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the backends or quantizers that are installed."""

    name: str
    distribution: str | None
    version: str | None
    status: str
    """One of the words above."""
    note: str
    """Why it is chosen, how to choose it, or why it can't be."""


def read_model(name: str, folder: Path, *, device: str, dtype: str | None) -> Model:
    """Return the facts about the model in a folder, which a user calls ``name``."""
    # The shapes are the same either way, and what a load needs is listed.
    checkpoint = read_checkpoint(folder, rotary_layout="halves")
    config = checkpoint.config
    tensors = {key: each for key, each in checkpoint.tensors.items() if not key.startswith(IMAGE_PREFIX)}
    # Floats of a byte may be the codes of a quantizer.
    floating = Counter[torch.dtype]()
    for each in tensors.values():
        floating[each.dtype] += each.num_bytes if each.dtype.is_floating_point and each.dtype.itemsize > 1 else 0
    stored = max(floating, key=floating.__getitem__, default=torch.float32)
    target = target_dtype(dtype or "auto", config) or stored
    record = config.extras.get(QUANTIZATION_RECORD)
    quantizer, unreadable = _recorded(record)
    return Model(
        name=name,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        attention_dropout=config.attention_dropout,
        dtype=str(target).removeprefix("torch."),
        device=device,
        num_bytes=sum(
            # Tensors that a quantizer stored keep their dtype.
            prod(each.shape) * (target if record is None and each.dtype.is_floating_point else each.dtype).itemsize
            for each in tensors.values()
        ),
        linears={
            match[1]: (each.shape[0], each.shape[1])
            for key, each in tensors.items()
            if (match := _LINEAR.fullmatch(key)) and len(each.shape) == 2
        },
        quantizer=quantizer,
        unreadable=unreadable,
        interchange=interchange_limit(config, checkpoint.tensors),
    )


def _recorded(record: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """Return the quantizer that a config records, and why it isn't known."""
    if record is None:
        return None, None
    try:
        return find_quantizer(record)[0], None
    except (UnknownPluginError, BrokenPluginError, ConfigError) as error:
        return None, str(error)


def choose_attention(model: Model | None) -> list[Choice]:
    """Return every attention backend that is installed, the chosen one first."""
    requests = {} if model is None else _attention_requests(model)
    return _chosen_first(_attention_choice(each, requests) for each in REGISTRY.registered(ATTENTION_BACKENDS_HOOK))


def choose_quantizer(model: Model | None) -> list[Choice]:
    """Return every installed weight quantizer, and "none", which is chosen where the checkpoint isn't quantized."""
    none = Choice("none", None, None, *_unquantized(model))
    return _chosen_first(
        [none, *(_quantizer_choice(each, model) for each in REGISTRY.registered(WEIGHT_QUANTIZERS_HOOK))]
    )


def quarantined() -> list[Choice]:
    """Return the broken plugins of chameleon-backends; what each would add isn't known."""
    return [
        Choice(bad.plugin, bad.distribution, bad.version, QUARANTINED, bad.reason) for bad in REGISTRY.quarantined()
    ]


def _attention_requests(model: Model) -> dict[str, AttentionSpec]:
    """Return what a model requests of attention, by purpose."""

    def request(query_length: int = LENGTH, **rules: Any) -> AttentionSpec:
        return AttentionSpec(
            batch_size=2,
            query_length=query_length,
            key_length=LENGTH,
            num_heads=model.num_heads,
            num_key_value_heads=model.num_key_value_heads,
            head_dim=model.head_dim,
            dtype=getattr(torch, model.dtype),
            device=torch.device(model.device),
            **rules,
        )

    starts_B = torch.tensor([0, 1], device=model.device)
    documents_BS = (torch.arange(LENGTH, device=model.device) // (LENGTH // 2)).expand(2, -1).contiguous()
    return {
        "a prompt": request(),
        "a new token": request(1),
        "a padded batch": request(key_start_B=starts_B),
        "training": request(requires_grad=True, dropout=model.attention_dropout > 0),
        "training on packed documents": request(requires_grad=True, document_ids_BS=documents_BS),
    }


def _attention_choice(registered: Registered, requests: Mapping[str, AttentionSpec]) -> Choice:
    name = registered.spec.name
    reason = registered.why_unavailable()
    if reason is not None:
        return _choice(registered, UNSUPPORTED, reason)
    reasons = {
        what: reason for what, spec in requests.items() if (reason := registered.why_unsupported(spec)) is not None
    }
    limits = "".join(f"; not for {what}: {why}" for what, why in _by_reason(reasons))
    if name == DEFAULT_ATTENTION_BACKEND:
        serves_all = ", and serves everything that the model requests" if requests and not reasons else ""
        return _choice(registered, CHOSEN, f"the default{serves_all}{limits}")
    if requests and len(reasons) == len(requests):
        return _choice(registered, REFUSED, next(iter(reasons.values())))
    return _choice(registered, POSSIBLE, f'attn_implementation="{name}" chooses it instead of the default{limits}')


def _unquantized(model: Model | None) -> tuple[str, str]:
    if model is None:
        return CHOSEN, "weights stay as they are stored unless a quantizer is requested"
    if model.unreadable is not None:
        return REFUSED, f"the checkpoint is quantized: {model.unreadable}"
    if model.quantizer is not None:
        return REFUSED, f"the checkpoint is quantized, with {model.quantizer!r}"
    return CHOSEN, f"no quantizer is requested, and the checkpoint has none: {size(model.num_bytes)}"


def _quantizer_choice(registered: Registered, model: Model | None) -> Choice:
    name = registered.spec.name
    reason = registered.why_unavailable()
    if reason is not None:
        return _choice(registered, UNSUPPORTED, reason)
    if model is None:
        return _choice(registered, POSSIBLE, f'quantization="{name}" chooses it')
    if model.quantizer == name:
        return _choice(registered, CHOSEN, f"the checkpoint is quantized with it: {size(model.num_bytes)}")
    if model.quantizer is not None or model.unreadable is not None:
        return _choice(registered, REFUSED, "the checkpoint is quantized already")
    reasons = {part: reason for part in model.linears if (reason := registered.why_unsupported(_linear(model, part)))}
    if reasons:
        return _choice(registered, REFUSED, "; ".join(f"{what}: {why}" for what, why in _by_reason(reasons)))
    try:
        num_bytes = _quantized_bytes(model, registered.spec)
    # Any exception: the quantizer is third-party, and the others are listed in any case.
    except Exception as error:
        said = str(error) if isinstance(error, BrokenPluginError) else f"{type(error).__name__}: {error}"
        return _choice(registered, REFUSED, f"it fails: {said}")
    return _choice(registered, POSSIBLE, f'quantization="{name}" makes it {size(num_bytes)}')


def _linear(model: Model, part: str) -> LinearSpec:
    out_features, in_features = model.linears[part]
    dtype, device = getattr(torch, model.dtype), torch.device(model.device)
    return LinearSpec(in_features=in_features, out_features=out_features, dtype=dtype, device=device)


def _quantized_bytes(model: Model, spec: PluginSpec) -> int:
    """Return the size of the model's weights once the projections of each layer are quantized."""
    quantizer: WeightQuantizer = spec.make()
    saved = 0
    for part in model.linears:
        linear = _linear(model, part)
        stored = quantizer.layout(linear.in_features, linear.out_features).values()
        saved += linear.in_features * linear.out_features * linear.dtype.itemsize
        saved -= sum(prod(extent or 1 for extent in each.shape) * each.dtype.itemsize for each in stored)
    return model.num_bytes - model.num_layers * saved


def _choice(registered: Registered, status: str, note: str) -> Choice:
    return Choice(registered.spec.name, registered.distribution, registered.version, status, note)


def _chosen_first(choices: Iterable[Choice]) -> list[Choice]:
    return sorted(choices, key=lambda choice: choice.status != CHOSEN)


def _by_reason(reasons: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what isn't served, grouped by reason, and the reason."""
    for reason in dict.fromkeys(reasons.values()):
        what = [what for what, other in reasons.items() if other == reason]
        yield " or ".join(filter(None, (", ".join(what[:-1]), what[-1]))), reason
