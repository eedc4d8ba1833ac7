"""Weight quantizers with options: made from a spec, with mistakes in the options named.

Shapes: O output features, I input features.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from .errors import BrokenPluginError, ConfigError
from .plugin_calls import described, plugin_call, unexpected_keyword, wrong
from .plugins import PluginSpec, resolve
from .weight_quantizer import WeightQuantizer


def made_quantizer(spec: PluginSpec, options: Mapping[str, Any]) -> WeightQuantizer:
    """Return the weight quantizer of a spec with these options.

    Raises ``ConfigError`` for an option that it doesn't have, with the closest one, and ``BrokenPluginError`` where
    the factory fails or makes something else. A factory that takes ``**options`` has the options that the quantizer's
    ``options()`` returns.
    """
    known, takes_any = _parameters(spec)
    for name in sorted(options.keys() - known):
        if not takes_any:
            _refuse(spec, name, known)
    try:
        quantizer = spec.make(**options)
    except BrokenPluginError as error:
        refused = unexpected_keyword(error.__cause__)
        if refused is None or refused not in options:
            raise
        _refuse(spec, refused, known | _own_options(spec), cause=error)
    if not isinstance(quantizer, WeightQuantizer):
        wrong(spec.called, f"{described(quantizer)} from factory; expected a WeightQuantizer.")
    with contextlib.suppress(AttributeError):  # of a class with __slots__
        object.__setattr__(quantizer, "owner", spec.called)
    own = returned_options(quantizer)
    for name in sorted(options.keys() - known - own.keys()):
        _refuse(spec, name, known | own.keys())
    return quantizer


def returned_options(quantizer: WeightQuantizer) -> dict[str, Any]:
    """Return a quantizer's own ``options()``. Raises ``BrokenPluginError`` where they aren't a mapping of names."""
    with plugin_call(quantizer.owner, "returning its options"):
        options = quantizer.options()
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        wrong(quantizer.owner, f"{described(options)} from options; expected a mapping with the options' names.")
    return dict(options)


def _parameters(spec: PluginSpec) -> tuple[frozenset[str], bool]:
    """Return the options that a factory names, and whether it takes any."""
    try:
        parameters = inspect.signature(resolve(spec.factory)).parameters.values()
    except (TypeError, ValueError):  # a callable in C, which doesn't say
        return frozenset(), True
    named = frozenset(each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)


def _own_options(spec: PluginSpec) -> frozenset[str]:
    """Return the options of the quantizer with its defaults, as far as it can be made."""
    with contextlib.suppress(Exception):
        return frozenset(spec.make().options())
    return frozenset()


def _refuse(spec: PluginSpec, name: str, known: Collection[str], cause: BaseException | None = None) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"the weight quantizer {spec.name!r} has no option {name!r}; "
        f"its options are: {', '.join(sorted(known)) or 'none'}.{hint}"
    ) from cause
