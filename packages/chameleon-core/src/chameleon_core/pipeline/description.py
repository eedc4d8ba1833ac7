"""The repr of a pipeline: a line for each of its parts."""

from __future__ import annotations

import re

from chameleon_backends import QuantizedLinear

from ..layout import TokenLayout
from ..model import ChameleonForConditionalGeneration
from ..protocols import ImageTokenizerLike, ProcessorLike


def described(
    model: ChameleonForConditionalGeneration,
    layout: TokenLayout,
    processor: ProcessorLike,
    image_tokenizer: ImageTokenizerLike | None,
) -> str:
    """Return the lines; ``image_tokenizer`` is None where it isn't loaded yet."""
    config = model.config
    quantized = [each for each in model.modules() if isinstance(each, QuantizedLinear)]
    parameters = sum(each.numel() for each in model.parameters())
    parameters += sum(each.in_features * each.out_features for each in quantized)
    sizes, first = len(layout.pictures.grids), layout.pictures.grids[0]
    grid = f"{sizes} sizes," if sizes > 1 else f"{first.height} × {first.width}"
    dtype = str(model.dtype).removeprefix("torch.") + (", quantized" if quantized else "")
    tokenizer = "not loaded yet" if image_tokenizer is None else _shown(image_tokenizer)
    return "\n".join(
        (
            "Chameleon(",
            f"    model: {_count(parameters)} parameters, {dtype}, on {model.device}",
            f"    layers: {config.num_hidden_layers}, {config.hidden_size} wide; context: {config.context_length}",
            f"    pictures: {grid} codes of {layout.num_codes}",
            f"    image tokenizer: {tokenizer}",
            f"    processor: {type(processor).__name__}, {len(processor.tokenizer.token_ids)} names",
            ")",
        )
    )


def _shown(part: object) -> str:
    """Return a part's own repr, or the name of its class where it has none."""
    return type(part).__name__ if type(part).__repr__ is object.__repr__ else repr(part)


def _count(parameters: int) -> str:
    """Return a number of parameters for people: ``_count(7_034_000_000) == "7.03 billion"``."""
    for unit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def described_at(place: str, pipeline: object, description: str) -> str:
    """Return what a pipeline says of itself, with its class and where the transformer is, whose weights aren't here."""
    named = description.replace("Chameleon(", f"{type(pipeline).__name__}(", 1)
    return re.sub("parameters, .*", f"parameters, {place}", named, count=1)
