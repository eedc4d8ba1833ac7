"""The arguments of ``generate``, of ``transformers`` and of this package, as options and settings of one call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..errors import ArgumentError, ConfigError, GenerationError, InputWarning
from ..generation import GenerationOptions
from ..generation.foreign_fields import OF_THE_CALL, REFUSED, TRANSLATED, OneValue
from .generation_config import FIELDS, OWN, GenerationConfigView, closest, given_fields
from .generation_fields import AT_THE_CALL, DEFAULTS, check_call_fields, field_changes, ids_of, refuse_field

PROMPTS: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(
        ("input_ids", "inputs", "attention_mask", "pixel_values", "inputs_embeds", "position_ids", "mm_token_type_ids")
    )
)
"""The arguments that prompts are made of, and that each is None by default."""
CALLABLES = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer")
"""The arguments that are called."""
REFUSED_ARGUMENTS: Mapping[str, OneValue] = {
    "assistant_tokenizer": OneValue((), "the assistant model must have the vocabulary of the model."),
    "cache_position": OneValue((), "positions are counted by themselves; leave it out."),
    "custom_generate": OneValue((), "call your loop with the model as its first argument."),
    "labels": OneValue((), "they are for training; call the model with them."),
    "logits_to_keep": OneValue((0, 1), "only the logits that are needed are computed; leave it out."),
    "mm_encoder_outputs": OneValue((), "pictures are ids here; pass pixel_values, or their ids in input_ids."),
    "synced_gpus": OneValue((False,), "the model runs on one device; leave it out."),
    "token_type_ids": OneValue((), "the model has one type of ids; leave it out."),
    "trust_remote_code": OneValue((True, False), "no code of a model repository runs here."),
}
"""Other arguments of ``transformers``, which have one effect here."""
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""The options that count only where ids are sampled."""


@dataclass(slots=True)
class Call:
    """What one call of ``generate`` asks for."""

    options: GenerationOptions
    """The options, before the length of the prompts is known."""
    fields: dict[str, Any]
    """The fields of ``transformers`` that count for the call."""
    prompts: dict[str, Any]
    """The arguments that prompts are made of."""
    callables: dict[str, Any]
    """The arguments that are called; None for those that weren't given."""
    negative_prompts: Tensor | None = None
    """The ids of a negative prompt for each row, int64 [B, T]."""
    negative_mask: Tensor | None = None
    """Which of them are no padding."""
    past_key_values: Any = None
    """Keys and values of the beginnings of the prompts."""
    num_beams: int = 1
    """How many texts are searched beside each other."""
    explicit: frozenset[str] = field(default_factory=frozenset)
    """The names of the arguments, in the call and in ``generation_config``."""

    def is_on(self, name: str) -> bool:
        """Return whether a field that is a bool is true."""
        return bool(self.fields.get(name))


def read_call(model: Any, options: GenerationOptions | None, arguments: Mapping[str, Any]) -> Call:
    """Return what the arguments of a call ask for: those of the call first, ``generation_config``, the model's own.

    Raises ``ArgumentError`` for an unknown name, ``ConfigError`` for a value that can't be used.
    """
    arguments = dict(arguments)
    asked = arguments.pop("generation_config", None)
    if options is not None and asked is not None:
        raise ArgumentError("generate() has both options and generation_config, which mean the same; pass one of them.")
    options, given = _base(model, options, asked)
    assistant = arguments.pop("assistant_model", None)
    for name in arguments.keys() & REFUSED_ARGUMENTS.keys():
        _refuse_argument(name, arguments.pop(name))
    call = Call(
        options,
        fields={},
        prompts={name: arguments.pop(name, None) for name in PROMPTS},
        callables={name: arguments.pop(name, None) for name in CALLABLES},
        negative_mask=arguments.pop("negative_prompt_attention_mask", None),
        past_key_values=arguments.pop("past_key_values", None),
    )
    if call.past_key_values is not None and not hasattr(call.past_key_values, "starts"):
        raise ArgumentError(
            f"past_key_values is a {type(call.past_key_values).__name__}; expected a KVCache, such as "
            "model.new_cache(batch_size)."
        )
    if isinstance(arguments.get("negative_prompt_ids"), Tensor):
        call.negative_prompts = arguments.pop("negative_prompt_ids")
    _check_names(arguments)
    call.explicit = frozenset({*given, *arguments})
    given = {**given, **arguments}
    for name in given.keys() & REFUSED.keys():
        refuse_field(name, given[name])
    check_call_fields(given)
    inherited = {name: value for name, value in options.extras.items() if name in AT_THE_CALL}
    merged = {**inherited, **given}
    call.fields = {name: value for name, value in merged.items() if name in OF_THE_CALL}
    changed = {name: value for name, value in merged.items() if name in OWN or name in TRANSLATED}
    call.options = options.replace(**field_changes(options, changed, model.config.eos_token_ids))
    _set_decoding(call, assistant)
    _warn_of_no_effect(call)
    return call


def with_lengths(call: Call, width: int) -> GenerationOptions:
    """Return the options with ``max_length`` and ``min_length``, which count ``width`` ids of the prompts.

    Raises ``GenerationError`` where the prompts are as long as that already.
    """
    options, changes = call.options, {}
    longest, shortest = call.fields.get("max_length"), call.fields.get("min_length")
    for name, value in (("max_length", longest), ("min_length", shortest)):
        if value is not None and (type(value) is not int or value < 0):
            raise ConfigError(f"{name} must be a number of ids, an integer ≥ 0; got {value!r:.80}.")
    if longest is not None and options.max_new_tokens is not None:
        if "max_length" in call.explicit:
            _warn("max_length and max_new_tokens are both given, and max_new_tokens counts. Pass one of them.")
    elif longest is not None:
        if longest <= width:
            raise GenerationError(
                f"max_length is {longest} and the prompts have {width} ids, padding included. Raise it, or use "
                "max_new_tokens, which doesn't count the prompt."
            )
        changes["max_new_tokens"] = longest - width
    if shortest and not options.min_new_tokens:
        changes["min_new_tokens"] = max(shortest - width, 0)
    return options.replace(**changes) if changes else options


def num_rows_each(call: Call) -> int:
    """Return how many texts each prompt is continued by. Raises ``GenerationError`` where they would be the same."""
    asked = call.fields.get("num_return_sequences")
    times = 1 if asked is None else asked
    if type(times) is not int or times < 1:
        raise ConfigError(f"num_return_sequences must be an integer ≥ 1; got {times!r:.80}.")
    if call.num_beams > 1 and times > call.num_beams:
        raise GenerationError(
            f"num_return_sequences is {times}, above num_beams, {call.num_beams}; a search finds no more. Lower it."
        )
    if times > 1 and call.num_beams == 1 and not call.options.do_sample:
        raise GenerationError(
            f"num_return_sequences={times} without sampling would write the same text each time. Set do_sample=True, "
            "or num_beams."
        )
    return times


def _set_decoding(call: Call, assistant: Any) -> None:
    """Let the options search by beams, or guess with an assistant, where the call asks for it."""
    beams = call.fields.get("num_beams")
    own = {
        name: call.fields[name] for name in ("length_penalty", "early_stopping") if call.fields.get(name) is not None
    }
    if beams is not None and (type(beams) is not int or beams < 1):
        raise ConfigError(f"num_beams must be an integer ≥ 1; got {beams!r:.80}.")
    if beams is not None and beams > 1:
        if assistant is not None:
            raise ArgumentError("generate() can't search by beams with an assistant_model; pass one of them.")
        call.num_beams = beams
        call.options = call.options.replace(decoding={"name": "beam", "num_beams": beams, **own})
        _check_beams(call)
        return
    idle = [name for name, off in (("length_penalty", 1.0), ("early_stopping", False)) if own.get(name, off) != off]
    if idle and call.explicit & set(idle):
        _warn(f"{', '.join(idle)} {_counts(idle)} with num_beams above 1.")
    if assistant is not None:
        if not hasattr(assistant, "feed_lanes"):
            raise ArgumentError(
                f"assistant_model is a {type(assistant).__name__}; expected a ChameleonForConditionalGeneration."
            )
        call.options = call.options.replace(decoding={"name": "draft", "model": assistant})


def _check_beams(call: Call) -> None:
    """Raise ``ArgumentError`` for what needs to know the ids before a search has ended."""
    for name in ("streamer", "stopping_criteria"):
        if call.callables[name] is not None:
            raise ArgumentError(
                f"{name} can't be used with num_beams above 1: ids are known once the search has ended."
            )
    asked = [name for name in ("output_logits", "output_hidden_states", "output_attentions") if call.is_on(name)]
    if asked or call.past_key_values is not None:
        raise ArgumentError(
            f"{', '.join(asked) or 'past_key_values'} can't be used with num_beams above 1; leave it out."
        )


def id_field(call: Call, name: str, vocab_size: int) -> int | None:
    """Return the id of a field, None where there is none. Raises ``ConfigError`` where it is outside the vocabulary."""
    ids = ids_of(name, call.fields.get(name))
    if not ids:
        return None
    if len(ids) > 1 or not 0 <= ids[0] < vocab_size:
        raise ConfigError(f"{name} must be an id below {vocab_size}; got {call.fields[name]!r:.80}.")
    return ids[0]


def _base(model: Any, options: GenerationOptions | None, asked: object) -> tuple[GenerationOptions, dict[str, Any]]:
    """Return the options that a call starts from, and the fields of ``generation_config`` that aren't None."""
    if isinstance(asked, GenerationConfigView):
        asked = asked.options
    if isinstance(asked, GenerationOptions):
        return asked, {}
    options = options or model.generation_options
    if asked is None:
        return options, {}
    return options, given_fields(asked)


def _refuse_argument(name: str, value: object) -> None:
    allowed = REFUSED_ARGUMENTS[name]
    if value is not None and not any(value is each or value == each for each in allowed.values):
        raise ArgumentError(f"generate() can't use {name}={type(value).__name__}: {allowed.instead}")


def _check_names(arguments: Mapping[str, Any]) -> None:
    known = {*FIELDS, *OWN}
    for name in arguments:
        if name not in known:
            names = {*known, *PROMPTS, *CALLABLES, *REFUSED_ARGUMENTS, "options", "tokenizer", "should_stop"}
            raise ConfigError(f"generate() has no argument {name!r}; {closest(name, names)}")


def _warn_of_no_effect(call: Call) -> None:
    """Warn of arguments that have no effect without another one."""
    if not call.options.do_sample:
        idle = [
            name
            for name in SAMPLING_FIELDS
            if name in call.explicit and getattr(call.options, name) != getattr(DEFAULTS, name)
        ]
        if idle:
            _warn(f"{', '.join(idle)} {_counts(idle)} where ids are sampled, and do_sample is False.")
    outputs = [
        name for name in OF_THE_CALL if name.startswith("output_") and name in call.explicit and call.is_on(name)
    ]
    if outputs and not call.is_on("return_dict_in_generate"):
        _warn(f"{', '.join(outputs)} {_counts(outputs)} with return_dict_in_generate=True.")


def _counts(names: list[str]) -> str:
    return "count only" if len(names) > 1 else "counts only"


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=6)
