"""The plugins of this package, and what they provide by name. Nothing is loaded before the first look-up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from . import _builtins, hookspecs
from ._hub import HUB_ID, IMAGE_WEIGHTS, NO_OPTIONS, HubOptions, check_name, download, missing_folder, model_folder
from ._moved import moved_names
from .config import ChameleonVQVAEConfig
from .errors import BrokenPluginError, ConfigError, MissingFileError, UnknownPluginError
from .plugin_calls import described, unexpected_keyword, wrong
from .plugins import PluginRegistry
from .quantizers.contract import VectorQuantizer

VECTOR_QUANTIZERS_HOOK = "chameleon_vq_quantizers"
"""The hook whose plugins provide vector quantizers."""
PRETRAINED_HOOK = "chameleon_vq_pretrained"
"""The hook whose plugins provide named image tokenizers."""

_WHAT = "the image tokenizer"

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


def find_pretrained(name_or_folder: str | os.PathLike[str], hub: HubOptions = NO_OPTIONS) -> Path:
    """Return the folder of an image tokenizer: the one given if it exists, that of a registered name, or of a Hub id.

    Names are those of this package's plugins, and of the models that chameleon-core knows. ``hub`` says where in the
    Hub. Raises ``UnknownPluginError`` for an unknown name, ``MissingFileError`` if there is no such folder or the name
    isn't available here, and ``MissingPackageError`` where a Hub id needs the extra ``hub``.
    """
    check_name(name_or_folder, _WHAT)
    folder = Path(name_or_folder)
    if os.path.isdir(folder):
        REGISTRY.warn_of_hidden(PRETRAINED_HOOK, name_or_folder)
        return hub.inside(folder)
    if isinstance(name_or_folder, str) and not os.path.exists(folder):
        if HUB_ID.fullmatch(name_or_folder):
            return download(name_or_folder, hub, tried=[missing_folder(folder)], what=_WHAT, weights=IMAGE_WEIGHTS)
        if len(folder.parts) == 1:
            try:
                return hub.inside(_registered_folder(name_or_folder))
            except UnknownPluginError:
                found = model_folder(name_or_folder)
                if found is None:
                    raise
                return hub.inside(found)
    raise MissingFileError(
        f"there is no folder {os.fspath(name_or_folder)}. Expected the folder of a Chameleon model or of an image "
        "tokenizer, a registered name, or a Hub id like 'owner/name'."
    )


def installed_folder(name: str, tried: list[str]) -> Path | None:
    """Return the folder of the image tokenizer of a name; None, with the reason in ``tried``, where there is none.

    The packages that don't import this one find it through ``_hub``.
    """
    try:
        return _registered_folder(name)
    except UnknownPluginError as error:
        tried.append(str(error).rstrip("."))
        return None


def _registered_folder(name: str) -> Path:
    spec = REGISTRY.get(PRETRAINED_HOOK, name)
    reason = spec.why_unavailable()
    if reason is not None:
        raise MissingFileError(f"the image tokenizer {name!r} isn't available here: {_sentence(reason)}")
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
