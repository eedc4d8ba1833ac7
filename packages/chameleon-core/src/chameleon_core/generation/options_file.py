"""The fields of ``generation_config.json``: what of them can be used, and what they are called here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .._config import Config, whole
from ..config import ChameleonConfig
from ..errors import ConfigError
from ..registry import CACHES_HOOK, REGISTRY
from .foreign_fields import ABOUT_THE_FILE, OF_THE_CALL, REFUSED, TRANSLATED, is_neutral

_MODES: Mapping[str, str] = {
    "text-only": "text",
    "image-only": "image",
    "interleaved-text-image": "interleaved",
    "unrestricted": "interleaved",
}
"""What Anole's ``multimodal_generation_mode`` means as a modality."""
_MODE = "multimodal_generation_mode"
_COUNTS = ("_id", "_ids", "_tokens", "_length", "_size", "_beams", "_sequences", "_k", "_images", "seed")
"""How the names of fields end that are numbers of something, or ids; some files have 2.0 for 2."""


def usable_fields(
    data: Mapping[str, Any], config: ChameleonConfig, options: type[Config]
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Return the fields of ``options`` that a file gives, what can't be used of it with the reason, and the rest.

    The rest are the fields of ``transformers`` that count for a call of ``generate`` or mean what happens anyway. What
    isn't known at all stays among the fields.
    """
    given = {name: _as_count(name, value) for name, value in data.items() if value is not None}
    unused: dict[str, str] = {}
    _take_the_mode(given, unused)
    ends = _end_ids(given, config, unused)
    given |= _forbidden(given, config, unused)
    _check_other_ids(given, config, unused)
    if given.get("temperature") == 0 and given.get("do_sample") is False:
        del given["temperature"]  # greedy in any case
    if _is_number(given.get("temperature")) and given["temperature"] == 0:
        greedy = ", and ids are chosen greedily" if given.get("do_sample") is True else ""
        unused["temperature"] = f"{given.pop('temperature')!r} (expected > 0{greedy})"
        given.pop("do_sample", None)
    given = standard_values(given)
    cache = given.get("cache_implementation")
    if isinstance(cache, str) and cache not in (names := [each.spec.name for each in REGISTRY.registered(CACHES_HOOK)]):
        unused["cache_implementation"] = f"{given.pop('cache_implementation')!r:.80} (expected {', '.join(names)})"
    for name in sorted(given.keys() & set(options.__struct_fields__) - {"extras"}):
        try:
            options(**{name: given[name]})
        except ConfigError as error:
            unused[name] = f"{given.pop(name)!r:.80} ({str(error).partition(': ')[2].partition(';')[0]})"
    if given.get("min_new_tokens", 0) > given.get("max_new_tokens", math.inf):
        unused["min_new_tokens"] = f"{given.pop('min_new_tokens')} (above max_new_tokens)"
    for name in sorted(given.keys() - set(options.__struct_fields__)):
        if not _is_finite(given[name]):
            unused[name] = f"{given.pop(name)!r:.80} (expected finite numbers)"
    kept = {name: given.pop(name) for name in list(given) if _is_kept(name, given[name])}
    return {**given, **ends}, unused, kept


def _as_count(name: str, value: Any) -> Any:
    """Return a value with 2.0 as 2, where it counts something or is an id."""
    return whole(value) if name.endswith(_COUNTS) else value


def _take_the_mode(given: dict[str, Any], unused: dict[str, str]) -> None:
    """Make Anole's mode the modality, unless there is one, which is what a save writes."""
    mode = given.pop(_MODE, None)
    if isinstance(mode, str) and mode in _MODES:
        given.setdefault("modality", _MODES[mode])
    elif mode is not None:
        unused[_MODE] = f"{mode!r:.80} (expected {', '.join(_MODES)})"


def standard_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with the values that ``transformers`` reads as "off", or as "only the likeliest", as they are here.

    Those that are off are left out.
    """
    found = dict(given)
    for name, off in (("top_k", 0), ("epsilon_cutoff", 0), ("eta_cutoff", 0)):
        if _is_number(found.get(name)) and found[name] == off:
            del found[name]
    for name in ("top_p", "image_top_p", "min_p", "image_min_p"):
        # A nucleus of nothing, and a share of all of the likeliest one's probability, keep the likeliest alone.
        if _is_number(found.get(name)) and found[name] == (0 if name.endswith("top_p") else 1):
            del found[name]
            found["image_top_k" if name.startswith("image_") else "top_k"] = 1
    if isinstance(found.get("stop_strings"), str):
        found["stop_strings"] = [found["stop_strings"]]
    return found


def _is_kept(name: str, value: object) -> bool:
    if name in REFUSED:
        return is_neutral(name, value)
    return name in TRANSLATED or name in OF_THE_CALL or name in ABOUT_THE_FILE


def _forbidden(given: dict[str, Any], config: ChameleonConfig, unused: dict[str, str]) -> dict[str, Any]:
    """Remove what forbids ids from ``given`` and return it under its names here; add others to ``unused``."""
    ids: list[int] = []
    sequences: list[tuple[int, ...]] = []
    for name in ("suppress_tokens", "forbidden_ids", "bad_words_ids", "forbidden_sequences"):
        value = given.pop(name, [])
        is_list = isinstance(value, list | tuple)
        entries = [[each] for each in value] if is_list and name in ("suppress_tokens", "forbidden_ids") else value
        if not is_list or not all(_are_ids(each, config) for each in entries):
            unused[name] = f"{value!r:.80} (expected ids below {config.vocab_size})"
            continue
        if name == "bad_words_ids":
            # There the ids that end a stream are left out, since a text must be able to end.
            entries = [each for each in entries if [*each] not in [[end] for end in config.eos_token_ids]]
        ids += [each[0] for each in entries if len(each) == 1]
        sequences += [tuple(each) for each in entries if len(each) > 1]
    found = {"forbidden_ids": tuple(dict.fromkeys(ids)), "forbidden_sequences": tuple(dict.fromkeys(sequences))}
    return {name: value for name, value in found.items() if value}


def _are_ids(value: object, config: ChameleonConfig) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(type(each) is int and 0 <= each < config.vocab_size for each in value)  # type: ignore[attr-defined]


def _end_ids(given: dict[str, Any], config: ChameleonConfig, unused: dict[str, str]) -> dict[str, list[int]]:
    """Remove the ids that end a row from ``given`` and return them by field; add others to ``unused``.

    Where those of ``eos_token_id`` have the config's among them, the others are ``stop_ids``.
    """
    found: dict[str, list[int]] = {}
    for name in ("eos_token_id", "eos_token_ids", "stop_ids"):
        value = given.pop(name, None)
        if value is None:
            continue
        ids = value if isinstance(value, list | tuple) else [value]
        bad = [each for each in ids if type(each) is not int or not 0 <= each < config.vocab_size]
        if bad:
            unused[name] = f"{bad!s:.80} (expected ids below {config.vocab_size})"
        good = list(dict.fromkeys(each for each in ids if each not in bad))
        if good or not bad:
            found[name] = good
    ends = found.pop("eos_token_id", None)
    if ends is not None and set(config.eos_token_ids) <= set(ends):
        found["stop_ids"] = [*ends, *found.get("stop_ids", [])]
    elif ends is not None:
        found.setdefault("eos_token_ids", ends)
    if "stop_ids" in found:
        found["stop_ids"] = [each for each in dict.fromkeys(found["stop_ids"]) if each not in config.eos_token_ids]
    return {name: ids for name, ids in found.items() if ids or name == "eos_token_ids"}


def _check_other_ids(given: dict[str, Any], config: ChameleonConfig, unused: dict[str, str]) -> None:
    """Remove ids that begin or fill a row from ``given`` where they can't be used; add them to ``unused``."""
    for name in given.keys() & {"pad_token_id", "bos_token_id"}:
        value = given[name]
        if type(value) is not int or not 0 <= value < config.vocab_size:
            unused[name] = f"{given.pop(name)!r:.80} (expected an id below {config.vocab_size})"
    begin = given.get("bos_token_id", config.bos_token_id)
    if config.bos_token_id not in (None, begin):
        unused["bos_token_id"] = f"{given.pop('bos_token_id')} (the config's is {config.bos_token_id})"


def _is_finite(value: object) -> bool:
    """Return whether a value of JSON holds neither NaN nor infinity."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
