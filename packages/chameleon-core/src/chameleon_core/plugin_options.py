"""The own options of a plugin, which a user gives by name: whether its factory has them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from chameleon_backends.plugins import PluginSpec, resolve

from .errors import ConfigError


def check_options(spec: PluginSpec, options: Mapping[str, Any], *, kind: str, field: str, arguments: int = 0) -> None:
    """Raise ``ConfigError`` for an option that a plugin doesn't have, or that it needs and doesn't get.

    ``kind`` is what the plugin is, ``field`` where its options are given, both for the error. The first ``arguments``
    parameters of the factory aren't options.
    """
    factory = resolve(spec.factory)
    try:
        parameters = (_parameters if isinstance(factory, Hashable) else _parameters.__wrapped__)(factory)[arguments:]
    except (TypeError, ValueError):  # a callable in C, which doesn't say
        return
    known = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    unknown = sorted(options.keys() - known.keys())
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"the {kind} {spec.name!r} has no option {unknown[0]!r}; "
            f"its options are: {', '.join(known) or 'none'}.{hint}"
        )
    missing = [name for name, each in known.items() if name not in options and each.default is each.empty]
    if missing:
        raise ConfigError(
            f"the {kind} {spec.name!r} needs the option {missing[0]!r}: "
            f'{{"name": "{spec.name}", "{missing[0]}": …}} in {field}.'
        )


@functools.lru_cache(maxsize=256)  # asked for each request, and read from the source of signatures each time
def _parameters(factory: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(factory).parameters.values())
