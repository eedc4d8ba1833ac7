"""The fields of the ``GenerationConfig`` of ``transformers`` as changes of ``GenerationOptions``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from torch import Tensor

from ..errors import ConfigError
from ..generation import GenerationOptions
from ..generation.foreign_fields import OF_THE_CALL, REFUSED, TRANSLATED, is_neutral
from ..generation.options_file import standard_values

DEFAULTS = GenerationOptions()
AT_THE_CALL = frozenset(
    {
        *OF_THE_CALL,
        "begin_suppress_tokens",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "max_matching_ngram_size",
        "prompt_lookup_num_tokens",
    }
)
"""Fields that ``GenerationOptions`` keep among their extras until ``generate`` is called."""

_IDS = ("bos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id")
_WHOLE = ("max_length", "min_length", "num_beams", "num_return_sequences", "prefill_chunk_size")
_SWITCHES = (
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
    *("renormalize_logits", "return_dict_in_generate", "use_cache"),
)


def check_call_fields(given: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` where a field that counts for a call of ``generate`` has a value of another kind."""
    for name, value in given.items():
        if value is None:
            continue
        if name in _IDS:
            ids_of(name, value)
        elif name in _WHOLE and type(value) is not int:
            expected = "a number of ids, an integer ≥ 0" if name.endswith("_length") else "an integer ≥ 1"
            raise ConfigError(f"{name} must be {expected}; got {value!r:.80}.")
        elif name in _SWITCHES and not (isinstance(value, bool | int) and value in (0, 1)):
            raise ConfigError(f"{name} must be True or False; got {value!r:.80}.")
        elif name == "length_penalty" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"length_penalty must be a number; got {value!r:.80}.")
        elif name == "early_stopping" and value not in (True, False, "never"):
            raise ConfigError(f'early_stopping must be True, False or "never"; got {value!r:.80}.')


def field_changes(options: GenerationOptions, given: Mapping[str, Any], ends: Sequence[int]) -> dict[str, Any]:
    """Return the changes of ``options`` that fields of either side stand for; None is a field's default.

    ``ends`` are the configuration's end-of-stream ids. Raises ``ConfigError`` for a value that can't be used.
    """
    own = {name: value for name, value in given.items() if name in DEFAULTS.__struct_fields__}
    for name, off in (("top_p", 1.0), ("typical_p", 1.0)):
        if isinstance(own.get(name), int | float) and own[name] > off:
            own[name] = off
    if own.get("temperature") == 0 and own.get("do_sample", options.do_sample) is not True:
        own["temperature"] = None  # counts only where ids are sampled
    standard = standard_values(own)
    changes = {
        name: getattr(DEFAULTS, name) if standard.get(name) is None else standard[name] for name in {*own, *standard}
    }
    foreign = {name: value for name, value in given.items() if name in TRANSLATED}
    if "eos_token_id" in foreign:
        changes["eos_token_ids"] = tuple(each for each in ids_of("eos_token_id", foreign["eos_token_id"]) if each >= 0)
        changes.setdefault("stop_ids", ())
    if "suppress_tokens" in foreign:
        changes["forbidden_ids"] = ids_of("suppress_tokens", foreign["suppress_tokens"])
    if "bad_words_ids" in foreign:
        asked = changes.get("eos_token_ids", options.eos_token_ids)
        ends = ends if asked is None else asked
        words = [ids_of("bad_words_ids", each) for each in foreign["bad_words_ids"] or ()]
        # A text must be able to end.
        changes["forbidden_sequences"] = tuple(word for word in words if word not in [(end,) for end in ends])
    if isinstance(changes.get("sequence_bias"), Mapping):
        changes["sequence_bias"] = tuple(changes["sequence_bias"].items())
    listed = list(_listed(foreign))
    if listed:
        changes["logits_processors"] = (*changes.get("logits_processors", options.logits_processors), *listed)
    window = foreign.get("prompt_lookup_num_tokens")
    if window is not None:
        match = foreign.get("max_matching_ngram_size")
        changes["decoding"] = {"name": "lookup", "window": window, **({} if match is None else {"match": match})}
    elif foreign.get("max_matching_ngram_size") is not None:
        raise ConfigError("max_matching_ngram_size counts only with prompt_lookup_num_tokens; set that too.")
    return changes


def refuse_field(name: str, value: object) -> None:
    """Raise ``ConfigError`` where a field that has one effect here has another value."""
    if not is_neutral(name, value):
        raise ConfigError(f"{name}={value!r:.80} isn't available: {REFUSED[name].instead}")


def ids_of(name: str, value: object) -> tuple[int, ...]:
    """Return ids from an id, some ids or a tensor of them; none from None. Raises ``ConfigError`` for anything else."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if value is None:
        return ()
    listed = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    try:
        return msgspec.convert(listed, tuple[int, ...])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name} must be ids, integers; got {value!r:.80}.") from error


def _listed(foreign: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the entries of ``logits_processors`` that fields stand for."""
    if foreign.get("begin_suppress_tokens") is not None:
        yield {"name": "forbidden-first", "ids": ids_of("begin_suppress_tokens", foreign["begin_suppress_tokens"])}
    forced = {
        place: ids_of(name, foreign.get(name))
        for place, name in (("first", "forced_bos_token_id"), ("last", "forced_eos_token_id"))
    }
    if any(forced.values()):
        yield {"name": "forced-ids", **forced}
    decay = foreign.get("exponential_decay_length_penalty")
    if decay is not None:
        if not isinstance(decay, list | tuple) or len(decay) != 2:
            raise ConfigError(
                "exponential_decay_length_penalty must be a pair, the number of new ids after which it begins and its "
                f"factor; got {decay!r:.80}."
            )
        yield {"name": "likelier-end", "start": decay[0], "factor": decay[1]}
