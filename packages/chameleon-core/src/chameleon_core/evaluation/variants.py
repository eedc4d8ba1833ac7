"""Every installed attention backend and weight quantizer beside the same model in float32 with ``eager``.

Shapes: T ids of a row, M positions of all rows, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chameleon_backends import QuantizedLinear
from chameleon_backends.plugins import Registered
from chameleon_backends.registry import ATTENTION_BACKENDS_HOOK, REGISTRY, WEIGHT_QUANTIZERS_HOOK

from ..checkpoints.quantization_plan import QUANTIZATION_RECORD, Quantization
from ..errors import ConfigError
from ..generation import GenerationOptions
from ..model import ChameleonForConditionalGeneration as Model
from .picture_quality import Progress
from .results import VariantFigures

ATTENTION = "attention backend"
QUANTIZER = "weight quantizer"
REFERENCE = "eager"
NEW_IDS = 32
"""How many ids are generated to measure the speed."""
GROUP_SIZES = (64, 32)
"""Of quantizers with groups: what is tried where the default doesn't fit the model's layers."""
TIMES = 3
"""How often each speed is measured; the best time counts, since others only take time away."""
LONG_ENOUGH = 1.0
"""Seconds after which a speed isn't measured again."""

LONGEST_REASON = 300

Load = Callable[..., Model]


def compare_variants(
    folder: Path,
    rows: Sequence[Sequence[int]],
    *,
    dtype: str = "auto",
    device: str = "cpu",
    names: Sequence[str] | None = None,
    load: Load = Model.from_pretrained,
    progress: Progress = lambda what, done, total: None,
) -> list[VariantFigures]:
    """Run every installed backend and quantizer on rows of ids, and compare its predictions with float32 ``eager``.

    ``dtype`` and ``device`` are those of what is compared, and float32 is on the same device. ``names`` are those to
    compare; None for all. What can't run here, or fails, has the reason. Raises ``ConfigError`` for rows without ids
    and for names that aren't installed.
    """
    if not rows or not all(rows):
        raise ConfigError("there are no ids to compare predictions on; expected rows of at least one id each.")
    chosen = chosen_variants(names)
    reference = load(folder, dtype="float32", device=device, attn_implementation=REFERENCE)
    expected = [_log_probabilities(reference, row) for row in rows]
    is_quantized = QUANTIZATION_RECORD in reference.config.extras
    del reference
    results = []
    for done, (kind, registered) in enumerate(chosen):
        progress(f"comparing {registered.spec.name}", done, len(chosen))
        reason = registered.why_unavailable()
        if kind == QUANTIZER and is_quantized and reason is None:
            reason = "the checkpoint is quantized already"
        if reason is not None:
            results.append(_listed(kind, registered, reason=reason))
            continue
        try:
            model, changes = _loaded(kind, registered.spec.name, lambda **chosen: load(folder, **chosen), dtype, device)
            results.append(_measured(_listed(kind, registered, options=changes), model, rows, expected))
        # Any exception: it may be a third party's, and the others are measured in any case.
        except Exception as error:
            results.append(_listed(kind, registered, reason=f"it fails: {_in_a_line(error)}"))
    for bad in REGISTRY.quarantined() if names is None else ():
        where = f"{bad.distribution} {bad.version}"
        results.append(VariantFigures("broken plugin", bad.plugin, where, reason=bad.reason))
    progress("comparing backends and quantizers", len(chosen), len(chosen))
    return results


def chosen_variants(names: Sequence[str] | None) -> list[tuple[str, Registered]]:
    """Return the installed backends and quantizers of these names, all for None. Raises ``ConfigError``."""
    found = [
        (kind, registered)
        for kind, hook in ((ATTENTION, ATTENTION_BACKENDS_HOOK), (QUANTIZER, WEIGHT_QUANTIZERS_HOOK))
        for registered in REGISTRY.registered(hook)
    ]
    installed = {registered.spec.name for _, registered in found}
    unknown = sorted(set(names or ()) - installed)
    if unknown:
        raise ConfigError(
            f"no attention backend and no weight quantizer is named {unknown[0]!r}. Installed: "
            f"{', '.join(sorted(installed))}."
        )
    return [each for each in found if names is None or each[1].spec.name in names]


def _loaded(kind: str, name: str, load: Load, dtype: str, device: str) -> tuple[Model, dict[str, int]]:
    """Return the model with a backend or quantizer, and the options that aren't the defaults.

    Narrow layers are quantized in groups of 64 or 32 where those of the default don't divide them.
    """
    if kind == ATTENTION:
        return load(dtype=dtype, device=device, attn_implementation=name), {}
    try:
        return load(dtype=dtype, device=device, quantization=name), {}
    except ConfigError:
        for size in GROUP_SIZES:
            with contextlib.suppress(ConfigError):
                changes = {"group_size": size}
                return load(dtype=dtype, device=device, quantization=Quantization(name, changes)), changes
        raise


def _listed(
    kind: str, registered: Registered, *, reason: str | None = None, options: Mapping[str, int] | None = None
) -> VariantFigures:
    where = f"{registered.distribution} {registered.version}"
    return VariantFigures(
        kind, registered.spec.name, where, reason=reason and reason.rstrip("."), options=dict(options or {})
    )


def _measured(
    listed: VariantFigures, model: Model, rows: Sequence[Sequence[int]], expected: Sequence[Tensor]
) -> VariantFigures:
    divergences, agreements = [], []
    for row, expected_TV in zip(rows, expected, strict=True):
        actual_TV = _log_probabilities(model, row)
        # Negative only by rounding.
        divergences.append((expected_TV.exp() * (expected_TV - actual_TV)).sum(-1).clamp(min=0))
        agreements.append(expected_TV.argmax(-1) == actual_TV.argmax(-1))
    divergence_M, agrees_M = torch.cat(divergences), torch.cat(agreements)
    longest = max(rows, key=len)
    return replace(
        listed,
        dtype=str(model.dtype).removeprefix("torch."),
        positions=len(agrees_M),
        top1_agreement=float(agrees_M.double().mean()),
        mean_divergence=float(divergence_M.double().mean()),
        largest_divergence=float(divergence_M.max()),
        weight_bytes=weight_bytes(model),
        prompt_ids_per_second=_prompt_ids_per_second(model, longest),
        new_ids_per_second=_new_ids_per_second(model, longest),
    )


@torch.no_grad()
def _log_probabilities(model: Model, row: Sequence[int]) -> Tensor:
    """Return the predictions after each id of a row, float32 [T, V], on the CPU."""
    ids_1T = torch.tensor([list(row)], device=model.device)
    log_probs_TV: Tensor = model(ids_1T, use_cache=False).logits[0].float().log_softmax(-1).cpu()
    return log_probs_TV


@torch.no_grad()
def _prompt_ids_per_second(model: Model, row: Sequence[int]) -> float:
    ids_1T = torch.tensor([list(row)], device=model.device)
    # Reading a number waits for the device.
    return len(row) / _best_seconds(lambda: float(model(ids_1T, use_cache=False, logits_to_keep=1).logits[0, 0, 0]))


def _new_ids_per_second(model: Model, row: Sequence[int]) -> float | None:
    """Return how many ids are generated in a second after a row; None where the context has no room for them."""
    prompt = list(row)[: model.config.context_length - NEW_IDS]
    if not prompt:
        return None
    ids_1T = torch.tensor([prompt], device=model.device)
    options = GenerationOptions(max_new_tokens=NEW_IDS, min_new_tokens=NEW_IDS)
    return NEW_IDS / _best_seconds(lambda: model.generate(ids_1T, options=options))


def _best_seconds(call: Callable[[], object]) -> float:
    """Return the shortest time of a call, after one that isn't counted; slow ones are timed once."""
    call()
    times: list[float] = []
    while len(times) < TIMES and sum(times) < LONG_ENOUGH:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def weight_bytes(model: Model) -> int:
    """Return the bytes of a model's weights, quantized ones as they are stored."""
    quantized = (module for module in model.modules() if isinstance(module, QuantizedLinear))
    stored = sum(tensor.nbytes for layer in quantized for tensor in layer.stored().values())
    return stored + sum(parameter.nbytes for parameter in model.parameters())


def _in_a_line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON].rsplit(' ', 1)[0]} …"
