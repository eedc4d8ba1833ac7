"""Which processors the options of generation ask for, by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..options import GenerationOptions
from ..segment_kinds import Kind

Requested = tuple[str, dict[str, Any]]
"""The name of a processor and its own options."""


def constraints(options: GenerationOptions, kind: Kind) -> Iterator[Requested]:
    """Yield what runs first, whether ids are sampled or not: biases, penalties, and what is forbidden."""
    if kind == "text" and options.sequence_bias:
        yield "sequence-bias", {"biases": options.sequence_bias}
    if kind == "text" and options.repetition_penalty != 1:
        yield "repetition-penalty", {"penalty": options.repetition_penalty}
    if kind == "text" and options.no_repeat_ngram_size:
        yield "no-repeat-ngrams", {"size": options.no_repeat_ngram_size}
    if options.forbidden_ids or options.forbidden_sequences:
        yield "forbidden-ids", {"ids": options.forbidden_ids, "sequences": options.forbidden_sequences}
    if kind == "text" and options.min_new_tokens:
        yield "min-new-tokens", {"count": options.min_new_tokens}


def listed(options: GenerationOptions) -> Iterator[Requested]:
    """Yield what ``logits_processors`` lists, which runs next."""
    for each in options.logits_processors:
        own = {} if isinstance(each, str) else {option: value for option, value in each.items() if option != "name"}
        yield (each if isinstance(each, str) else each["name"]), own


def sampling(options: GenerationOptions, kind: Kind) -> Iterator[Requested]:
    """Yield what runs last, where ids are sampled: the temperature, then truncation."""
    if not options.do_sample:
        return
    values = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    if kind == "image":
        own = {name: getattr(options, f"image_{name}") for name in values}
        values |= {name: value for name, value in own.items() if value is not None}
    if values["temperature"] != 1:
        yield "temperature", {"temperature": values["temperature"]}
    if kind == "text" and options.top_h is not None:
        yield "top-h", {"h": options.top_h}
    if values["top_k"] is not None:
        yield "top-k", {"k": values["top_k"]}
    if values["top_p"] < 1:
        yield "top-p", {"p": values["top_p"]}
    if values["min_p"] > 0:
        yield "min-p", {"p": values["min_p"]}
    if values["typical_p"] < 1:
        yield "typical", {"p": values["typical_p"]}
    if kind == "text" and options.epsilon_cutoff:
        yield "epsilon", {"cutoff": options.epsilon_cutoff}
    if kind == "text" and options.eta_cutoff:
        yield "eta", {"cutoff": options.eta_cutoff}
