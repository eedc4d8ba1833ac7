"""What each field of the ``GenerationConfig`` of ``transformers`` is here: data for the edge where it is translated.

A field is one of those here under the same name, or is translated, or counts for one call of ``generate``; the others
have a value that means what happens anyway, and are refused with any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAME = frozenset(
    {
        "cache_implementation",
        "do_sample",
        "epsilon_cutoff",
        "eta_cutoff",
        "guidance_scale",
        "max_new_tokens",
        "max_time",
        "min_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "repetition_penalty",
        "sequence_bias",
        "stop_strings",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""Fields of ``GenerationOptions``, with the values that mean "off" there."""

TRANSLATED: Mapping[str, str] = {
    "bad_words_ids": "forbidden_ids, and forbidden_sequences for words of several ids",
    "begin_suppress_tokens": "logits_processors, 'forbidden-first'",
    "eos_token_id": "eos_token_ids",
    "exponential_decay_length_penalty": "logits_processors, 'likelier-end'",
    "forced_bos_token_id": "logits_processors, 'forced-ids'",
    "forced_eos_token_id": "logits_processors, 'forced-ids'",
    "max_matching_ngram_size": "decoding, 'lookup'",
    "prompt_lookup_num_tokens": "decoding, 'lookup'",
    "suppress_tokens": "forbidden_ids",
}
"""Fields that other fields of ``GenerationOptions`` stand for, and which."""

OF_THE_CALL: Mapping[str, str] = {
    "bos_token_id": "what generation begins with where there is no prompt",
    "early_stopping": "decoding, 'beam'",
    "length_penalty": "decoding, 'beam'",
    "max_length": "max_new_tokens and the length of the prompt, padding included",
    "min_length": "min_new_tokens and the length of the prompt, padding included",
    "num_beams": "decoding, 'beam'",
    "num_return_sequences": "how often each row is sampled, or how many of the best texts of a search are returned",
    "output_attentions": "attentions of what return_dict_in_generate returns",
    "output_hidden_states": "hidden_states of what return_dict_in_generate returns",
    "output_logits": "logits of what return_dict_in_generate returns",
    "output_scores": "scores of what return_dict_in_generate returns",
    "pad_token_id": "what fills rows that end early, and is padding in prompts without a mask",
    "prefill_chunk_size": "prompt_chunk of the engine",
    "renormalize_logits": "scores as logarithms of probabilities",
    "return_dict_in_generate": "a GenerateOutput in place of a tensor",
    "use_cache": "whether keys and values are kept from step to step",
    "watermarking_config": "a logits processor that runs last, made by the object's construct_processor",
}
"""Fields that count for one call of ``generate``, and what they are there."""

ABOUT_THE_FILE = frozenset({"_commit_hash", "_from_model_config", "transformers_version"})
"""Fields that say where a file came from."""


@dataclass(frozen=True, slots=True)
class OneValue:
    """A field that has one effect here."""

    values: tuple[Any, ...]
    """The values, besides None, that mean what happens anyway."""
    instead: str
    """Why others are refused and what to do, a sentence for an error."""


_ASSISTED = (
    "a draft has options of its own; use decoding={'name': 'draft', 'model': …, 'count': …}, or decoding='lookup', "
    "which guesses from the text itself."
)
_GONE = "transformers moved it out of its package; use top_k, typical_p or a logits processor."
_ONE_TOWER = "it is for encoder-decoder models, and this model has no encoder; leave it out."
_STATIC = (
    "cache_implementation='static' has room for the whole context, and model.compile_decoding() compiles its steps; "
    "leave it out."
)

REFUSED: Mapping[str, OneValue] = {
    "assistant_confidence_threshold": OneValue((0.4,), _ASSISTED),
    "assistant_early_exit": OneValue((), _ASSISTED),
    "assistant_ensemble_weight": OneValue((), _ASSISTED),
    "assistant_lookbehind": OneValue((10,), _ASSISTED),
    "cache_config": OneValue(({},), "caches have no options; use cache_implementation='int8', or a plugin's."),
    "compile_config": OneValue((), _STATIC),
    "constraints": OneValue(([],), "use prefix_allowed_tokens_fn or a logits processor."),
    "continuous_batching_config": OneValue((), "use chameleon_core.Engine, whose arguments these are."),
    "decoder_start_token_id": OneValue((), _ONE_TOWER),
    "disable_compile": OneValue((True, False), _STATIC),
    "diversity_penalty": OneValue((0.0,), "use do_sample=True with num_return_sequences."),
    "dola_layers": OneValue((), _GONE),
    "encoder_no_repeat_ngram_size": OneValue((0,), "use no_repeat_ngram_size, which counts the prompt too."),
    "encoder_repetition_penalty": OneValue((1.0,), "use repetition_penalty, which counts the prompt too."),
    "force_words_ids": OneValue(([],), "use prefix_allowed_tokens_fn or a logits processor."),
    "is_assistant": OneValue((False,), _ASSISTED),
    "low_memory": OneValue((False,), _GONE),
    "max_cache_len": OneValue((), _STATIC),
    "num_assistant_tokens": OneValue((20,), _ASSISTED),
    "num_assistant_tokens_schedule": OneValue(("constant",), _ASSISTED),
    "num_beam_groups": OneValue((1,), "use do_sample=True with num_return_sequences."),
    "penalty_alpha": OneValue((0.0,), _GONE),
    "remove_invalid_values": OneValue(
        (False,), "logits that are NaN or infinite end a row with an error here, since what follows them is noise."
    ),
    "speculation_type": OneValue((), _ASSISTED),
    "target_lookbehind": OneValue((10,), _ASSISTED),
    "token_healing": OneValue((False,), "end the prompt where a token ends, such as before a space."),
    "use_mtp": OneValue((False,), "this model predicts one id at a time; leave it out."),
}
"""Fields that have one effect here."""


def is_neutral(name: str, value: object) -> bool:
    """Return whether a field of ``REFUSED`` has a value that means what happens anyway."""
    return value is None or any(type(value) is type(each) and value == each for each in _accepted(name))


def _accepted(name: str) -> tuple[Any, ...]:
    return tuple(kind(each) for each in REFUSED[name].values for kind in _kinds(each))


def _kinds(value: Any) -> tuple[type, ...]:
    """Return the types in which a value may be written: 1 and 1.0 are the same penalty."""
    return (int, float) if type(value) in (int, float) and value == int(value) else (type(value),)
