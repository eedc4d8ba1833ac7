"""The plugins of this package, and what they provide by name. Nothing is loaded before the first look-up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from . import _builtins, hookspecs
from ._moved import moved_names
from .config import ChameleonVQVAEConfig
from .errors import BrokenPluginError, ConfigError, MissingFileError
from .plugin_calls import described, unexpected_keyword, wrong
from .plugins import PluginRegistry
from .quantizers.contract import VectorQuantizer

VECTOR_QUANTIZERS_HOOK = "chameleon_vq_quantizers"
"""The hook whose plugins provide vector quantizers."""
PRETRAINED_HOOK = "chameleon_vq_pretrained"
"""The hook whose plugins provide named image tokenizers."""

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-vq",
    hookspecs=hookspecs,
    kinds={VECTOR_QUANTIZERS_HOOK: "vector quantizer", PRETRAINED_HOOK: "image tokenizer"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
)


def make_quantizer(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    """Make the vector quantizer that ``config.quantizer`` names.

    Raises ``UnknownPluginError`` if there is none, ``ConfigError`` if it can't serve the configuration, and
    ``BrokenPluginError`` if what it makes isn't a ``torch.nn.Module``.
    """
    spec = REGISTRY.get(VECTOR_QUANTIZERS_HOOK, config.quantizer)
    reason = spec.why_unsupported(config)
    if reason is not None:
        raise ConfigError(
            f"the vector quantizer {spec.name!r} can't be used with this configuration: {_sentence(reason)}"
        )
    try:
        quantizer = spec.make(config)
    except BrokenPluginError as error:
        _refuse_option(config, error)
        if REGISTRY.find(VECTOR_QUANTIZERS_HOOK, spec.name).distribution == REGISTRY.distribution:
            # What the built-in ones raise is torch's, for sizes beyond those of any tensor.
            reason = str(error.__cause__).partition("\n")[0]
            raise ConfigError(
                f"the vector quantizer {spec.name!r} can't have the sizes of this configuration: {reason}"
            ) from error
        raise
    if not isinstance(quantizer, nn.Module):
        wrong(spec.called, f"{described(quantizer)} from factory; expected a torch.nn.Module.")
    for name in ("num_codes", "codes_per_position"):
        found = getattr(quantizer, name, None)
        if type(found) is not int or found < 1:
            wrong(spec.called, f"{described(quantizer)} whose {name} is {described(found)}; expected an int ≥ 1.")
    if not callable(getattr(quantizer, "lookup", None)):
        wrong(spec.called, f"{described(quantizer)} without a method lookup.")
    return quantizer  # type: ignore[return-value]  # the conformance suite checks the rest of the contract


def find_pretrained(name_or_folder: str | os.PathLike[str]) -> Path:
    """Return the folder of an image tokenizer: the one given if it exists, or that of a registered name.

    Raises ``UnknownPluginError``, and ``MissingFileError`` if there is no such folder or the name isn't available here.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        REGISTRY.warn_of_hidden(PRETRAINED_HOOK, name_or_folder)
        return folder
    if not isinstance(name_or_folder, str) or len(folder.parts) != 1:
        raise MissingFileError(
            f"there is no folder {folder}. Download a model from a hub first (chameleon-core's extra [hub])."
        )
    spec = REGISTRY.get(PRETRAINED_HOOK, name_or_folder)
    reason = spec.why_unavailable()
    if reason is not None:
        raise MissingFileError(f"the image tokenizer {name_or_folder!r} isn't available here: {_sentence(reason)}")
    return spec.make_folder()


def _refuse_option(config: ChameleonVQVAEConfig, error: BrokenPluginError) -> None:
    """Raise ``ConfigError`` where the quantizer was called with an option that it doesn't have."""
    name = unexpected_keyword(error.__cause__)
    if name is not None and name in config.quantizer_options:
        raise ConfigError(f"quantizer_options: the quantizer {config.quantizer!r} has no option {name!r}.") from error


def _sentence(reason: str) -> str:
    return reason if reason.endswith((".", "?", "!")) else f"{reason}."


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(
        __name__,
        {"QUANTIZERS": f"{__name__}:VECTOR_QUANTIZERS_HOOK", "PRETRAINED": f"{__name__}:PRETRAINED_HOOK"},
    )
