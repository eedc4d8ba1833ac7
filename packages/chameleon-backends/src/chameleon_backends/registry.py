"""The backends and quantizers that are installed, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from . import _builtins, hookspecs
from ._moved import moved_names
from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec
from .errors import BrokenPluginError, ConfigError, UnsupportedAttentionError, UnsupportedWeightError
from .guarded_attention import guard
from .made_quantizer import made_quantizer
from .plugins import PluginRegistry
from .quantizers import _builtins as _quantizers
from .weight_quantizer import QUANT_METHOD, LinearSpec, WeightQuantizer, WeightQuantizerSpec

ATTENTION_BACKENDS_HOOK = "chameleon_attention_backends"
WEIGHT_QUANTIZERS_HOOK = "chameleon_weight_quantizers"
DEFAULT_ATTENTION_BACKEND = "sdpa"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-backends",
    hookspecs=hookspecs,
    kinds={ATTENTION_BACKENDS_HOOK: "attention backend", WEIGHT_QUANTIZERS_HOOK: "weight quantizer"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins, _quantizers],
    spec_types={ATTENTION_BACKENDS_HOOK: AttentionBackendSpec, WEIGHT_QUANTIZERS_HOOK: WeightQuantizerSpec},
)


def get_attention_backend(name: str = DEFAULT_ATTENTION_BACKEND) -> AttentionBackend:
    """Return the attention backend called ``name``.

    Raises ``UnknownPluginError`` where none of that name is installed, ``BrokenPluginError`` where it is installed and
    can't be used, and ``UnsupportedAttentionError`` with its reason where it can't run on this machine.
    """
    registered = REGISTRY.find(ATTENTION_BACKENDS_HOOK, name)
    spec = registered.spec
    assert isinstance(spec, AttentionBackendSpec)
    reason = spec.why_unavailable()
    if reason is not None:
        raise UnsupportedAttentionError(f"the attention backend {name!r} can't run here: {reason.rstrip('.')}.")
    with torch.device("cpu"):  # a model may be made on the meta device; what a backend keeps isn't
        backend: AttentionBackend = spec.make()
    return backend if registered.distribution == REGISTRY.distribution else guard(backend, spec)


def attention_backend_names() -> tuple[str, ...]:
    """Return the names of all usable attention backends, built-ins first.

    Backends that can't run on this machine are among them; ``why_attention_unavailable`` tells.
    """
    return tuple(registered.spec.name for registered in REGISTRY.registered(ATTENTION_BACKENDS_HOOK))


def why_attention_unavailable(name: str) -> str | None:
    """Return why the backend called ``name`` can't run on this machine, None where it can.

    Raises ``UnknownPluginError`` or ``BrokenPluginError`` as ``get_attention_backend`` does.
    """
    return REGISTRY.get(ATTENTION_BACKENDS_HOOK, name).why_unavailable()


def why_attention_unsupported(name: str, request: AttentionSpec | None = None) -> str | None:
    """Return why the backend called ``name`` can't serve a request on this machine, None where it can.

    Without a request, which is deprecated, it does what ``why_attention_unavailable`` does. Raises
    ``UnknownPluginError`` or ``BrokenPluginError`` as ``get_attention_backend`` does.
    """
    if request is None:
        _warn_of_no_request("why_attention_unsupported", "why_attention_unavailable")
        return why_attention_unavailable(name)
    return REGISTRY.get(ATTENTION_BACKENDS_HOOK, name).why_unsupported(request)


def get_weight_quantizer(name: str, /, **options: Any) -> WeightQuantizer:
    """Return the weight quantizer called ``name`` with these options.

    Raises ``UnknownPluginError`` where none of that name is installed, ``BrokenPluginError`` where it is installed and
    can't be used, ``UnsupportedWeightError`` with its reason where it can't run on this machine, and ``ConfigError``
    for an unknown option or an impossible value.
    """
    spec = REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, name)
    reason = spec.why_unavailable()
    if reason is not None:
        raise UnsupportedWeightError(f"the weight quantizer {name!r} can't run here: {reason.rstrip('.')}.")
    return made_quantizer(spec, options)


def weight_quantizer_names() -> tuple[str, ...]:
    """Return the names of all usable weight quantizers, built-ins first.

    Quantizers that can't run on this machine are among them; ``why_quantizer_unavailable`` tells.
    """
    return tuple(registered.spec.name for registered in REGISTRY.registered(WEIGHT_QUANTIZERS_HOOK))


def why_quantizer_unavailable(name: str) -> str | None:
    """Return why the quantizer called ``name`` can't run on this machine, None where it can.

    Raises ``UnknownPluginError`` or ``BrokenPluginError`` as ``get_weight_quantizer`` does.
    """
    return REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, name).why_unavailable()


def why_quantizer_unsupported(name: str, request: LinearSpec | None = None) -> str | None:
    """Return why the quantizer called ``name`` with its default options can't serve a layer, None where it can.

    Without a request, which is deprecated, it does what ``why_quantizer_unavailable`` does. Raises
    ``UnknownPluginError`` or ``BrokenPluginError`` as ``get_weight_quantizer`` does.
    """
    if request is None:
        _warn_of_no_request("why_quantizer_unsupported", "why_quantizer_unavailable")
        return why_quantizer_unavailable(name)
    return REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, name).why_unsupported(request)


def find_quantizer(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the quantizer that wrote a record, a config's ``quantization_config``.

    Raises ``UnknownPluginError`` where no installed quantizer can read it, ``ConfigError`` where it isn't a record.
    """
    method = record.get(QUANT_METHOD) if isinstance(record, Mapping) else None
    if not isinstance(method, str):
        raise ConfigError(f"quantization_config must be a mapping with a string {QUANT_METHOD!r}, got {record!r}.")
    failures = []
    # The quantizer of that name is asked first, so that no other one claims its records.
    quantizers = sorted(REGISTRY.registered(WEIGHT_QUANTIZERS_HOOK), key=lambda each: each.spec.name != method)
    for registered in quantizers:
        assert isinstance(registered.spec, WeightQuantizerSpec)
        try:
            options = registered.spec.read_record(record)
        except BrokenPluginError as error:
            if registered.spec.name == method:
                raise
            failures.append(error)  # another plugin's mistake, which matters only where none reads the record
        else:
            if options is not None:
                return registered.spec.name, options
    if failures:
        raise failures[0]
    # Raises for an unknown name, with what is installed.
    REGISTRY.get(WEIGHT_QUANTIZERS_HOOK, method)
    raise ConfigError(f"the weight quantizer {method!r} can't read the record {dict(record)!r}.")


def _warn_of_no_request(function: str, instead: str) -> None:
    warnings.warn(
        f"{function} without a request is deprecated and will need one in the next release; use {instead}.",
        DeprecationWarning,
        stacklevel=3,
    )


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "ATTENTION_HOOK": f"{__name__}:ATTENTION_BACKENDS_HOOK",
            "QUANTIZERS_HOOK": f"{__name__}:WEIGHT_QUANTIZERS_HOOK",
        },
    )
