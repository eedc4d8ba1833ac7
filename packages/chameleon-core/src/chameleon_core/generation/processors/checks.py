"""Checks of the options that a built-in processor is made with."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...errors import ConfigError


def checked_number(processor: str, option: str, value: object, allowed: str, *, kind: type = float) -> float:
    """Return a number that is ``allowed``, which is written "1e-6…1e6", "≥ 1", "in (0, 1]", "in (0, 1)" or "in [0, 1)".

    Raises ``ConfigError`` where it isn't, and where it should be an integer and isn't one.
    """
    is_number = isinstance(value, kind | int) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]
    if not is_number or not _in_range(value, allowed):  # type: ignore[arg-type]
        noun = "an integer" if kind is int else "a number"
        raise ConfigError(f"{option} of the logits processor {processor!r} must be {noun} {allowed}; got {value!r}.")
    return value  # type: ignore[return-value]


def checked_ids(processor: str, option: str, ids: object) -> tuple[int, ...]:
    """Return ids, integers ≥ 0, as a tuple. Raises ``ConfigError`` where they aren't."""
    found = tuple(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else None
    if found is None or not all(type(each) is int and each >= 0 for each in found):
        raise ConfigError(f"{option} of the logits processor {processor!r} must be ids, integers ≥ 0; got {ids!r:.80}.")
    return found


def checked_sequences(processor: str, option: str, sequences: object) -> tuple[tuple[int, ...], ...]:
    """Return sequences of ids, none of them empty, as tuples. Raises ``ConfigError`` where they aren't."""
    if not isinstance(sequences, Iterable) or isinstance(sequences, str):
        raise ConfigError(
            f"{option} of the logits processor {processor!r} must be sequences of ids; got {sequences!r:.80}."
        )
    found = tuple(checked_ids(processor, option, each) for each in sequences)
    if () in found:
        raise ConfigError(f"{option} of the logits processor {processor!r} has an empty sequence; leave it out.")
    return found


def _in_range(value: float, allowed: str) -> bool:
    if allowed.startswith("≥"):
        return value >= float(allowed[1:])
    if "…" in allowed:
        lowest, highest = map(float, allowed.split("…"))
        return lowest <= value <= highest
    interval = allowed.removeprefix("in ")
    lowest, highest = map(float, interval[1:-1].split(","))
    above = value > lowest if interval[0] == "(" else value >= lowest
    below = value < highest if interval[-1] == ")" else value <= highest
    return above and below
