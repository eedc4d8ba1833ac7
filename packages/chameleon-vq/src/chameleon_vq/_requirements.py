"""What the built-in quantizers ask of a configuration: a sentence where it isn't so, None where it is."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any

from .config import ChameleonVQVAEConfig

Option = tuple[Callable[[Any], bool], str]
"""What makes a value of an option right, and the same in words."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


_FRACTION: Option = (lambda value: _is_number(value) and 0 < value < 1, "between 0 and 1")
_WEIGHT: Option = (lambda value: _is_number(value) and 0 <= value < math.inf, "to be a number from 0")

OPTIONS: dict[str, dict[str, Option]] = {
    "codebook": {},
    "ema": {"decay": _FRACTION, "smoothing": _FRACTION},
    "fsq": {
        "levels": (
            lambda value: isinstance(value, (list, tuple)) and all(_is_whole(each) and each >= 2 for each in value),
            "to be a list of whole numbers from 2",
        )
    },
    "lfq": {
        "entropy_weight": _WEIGHT,
        "commitment_weight": _WEIGHT,
        "temperature": (lambda value: _is_number(value) and 0 < value < math.inf, "to be a number above 0"),
    },
    "residual": {
        "num_quantizers": (lambda value: _is_whole(value) and value >= 2, "to be a whole number from 2"),
        "quantizer_dropout": (lambda value: _is_number(value) and 0 <= value <= 1, "from 0 to 1"),
        "update": (lambda value: value in ("ema", "gradient"), "to be 'ema' or 'gradient'"),
    },
}
"""The ``quantizer_options`` of each."""


def codebook(config: ChameleonVQVAEConfig) -> str | None:
    """No options."""
    return _wrong_option(config, OPTIONS["codebook"])


def ema(config: ChameleonVQVAEConfig) -> str | None:
    """Moving averages."""
    return _wrong_option(config, OPTIONS["ema"])


def fsq(config: ChameleonVQVAEConfig) -> str | None:
    """A level for each channel, as many codes as their product."""
    wrong = _wrong_option(config, OPTIONS["fsq"]) or wrong_levels(config)
    if wrong is not None:
        return wrong
    count = len(config.quantizer_options["levels"])
    if count != config.embed_dim:
        return (
            f"there are levels for {count} channels and embed_dim is {config.embed_dim}; they must be the same number"
        )
    return None


def wrong_levels(config: ChameleonVQVAEConfig) -> str | None:
    """What is wrong with levels that say how many codes there are."""
    levels = config.quantizer_options.get("levels")
    is_right, expected = OPTIONS["fsq"]["levels"]
    if not is_right(levels):
        return f"the quantizer_option levels has {expected}, such as [8, 5, 5, 5] for 1000 codes; got {levels!r}"
    product = math.prod(levels or ())
    if product != config.num_embeddings:
        return (
            f"the levels {list(levels or ())} make {product} codes and num_embeddings is {config.num_embeddings}; "
            "they must be the same number"
        )
    return None


def lfq(config: ChameleonVQVAEConfig) -> str | None:
    """A bit for each channel."""
    codes, bits = config.num_embeddings, config.num_embeddings.bit_length() - 1
    if codes != 2**bits:
        return (
            f"num_embeddings is {codes}; each channel is a bit, so that it must be a power of two, "
            f"such as {2**bits} or {2 ** (bits + 1)}"
        )
    if config.embed_dim != bits:
        return (
            f"embed_dim is {config.embed_dim} and num_embeddings {codes}, which is 2 to the power of {bits}; "
            f"each channel is a bit, so that embed_dim must be {bits}"
        )
    return _wrong_option(config, OPTIONS["lfq"])


def residual(config: ChameleonVQVAEConfig) -> str | None:
    """How many levels there are, and what they are like."""
    if "num_quantizers" not in config.quantizer_options:
        return "'residual' needs the quantizer_option num_quantizers, which says how many codes a position has"
    by_gradient = config.quantizer_options.get("update") == "gradient"
    return _wrong_option(config, OPTIONS["residual"] | OPTIONS["codebook" if by_gradient else "ema"])


def vector_quantize_pytorch_missing() -> str | None:
    """The package."""
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return (
            "it needs the package vector-quantize-pytorch, which isn't installed: "
            "pip install './packages/chameleon-vq[vector-quantize-pytorch]'"
        )
    return None


def vector_quantize_pytorch(config: ChameleonVQVAEConfig) -> str | None:
    """One of the package's classes; what that accepts is its own affair."""
    from .quantizers.vector_quantize_pytorch import why_refused

    return why_refused(config)


def _wrong_option(config: ChameleonVQVAEConfig, options: Mapping[str, Option]) -> str | None:
    """What is wrong with the first option that isn't right."""
    name, given = config.quantizer, config.quantizer_options
    if given and not options:
        return f"{name!r} has no quantizer_options, got {sorted(given)}"
    for option, value in given.items():
        if option not in options:
            return f"{name!r} has the quantizer_options {_listed(list(options))}, got {option!r}"
        is_right, expected = options[option]
        if not is_right(value):
            return f"{name!r} needs {option} {expected}, got {value!r}"
    return None


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
