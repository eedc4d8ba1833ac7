"""The keyword arguments of ``generate``, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from ..generation import GenerationChanges, GenerationOptions

Ids = int | Sequence[int] | Tensor | None
"""An id, some ids, or none."""


class SharedKeywords(GenerationChanges, total=False):
    """The fields of ``GenerationOptions``, and what ``transformers`` calls other things."""

    inputs: Tensor | None
    inputs_embeds: Tensor | None
    position_ids: Tensor | None
    mm_token_type_ids: Tensor | None
    past_key_values: Any
    negative_prompt_attention_mask: Tensor | None
    generation_config: GenerationOptions | Mapping[str, Any] | Any
    logits_processor: Iterable[Callable[..., Any]] | None
    stopping_criteria: Iterable[Callable[..., Any]] | None
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Iterable[int]] | None
    streamer: Any
    max_length: int | None
    min_length: int | None
    eos_token_id: Ids
    pad_token_id: Ids
    bos_token_id: Ids
    forced_bos_token_id: Ids
    forced_eos_token_id: Ids
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    bad_words_ids: Sequence[Sequence[int]] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    num_return_sequences: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    assistant_model: Any
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    prefill_chunk_size: int | None
    renormalize_logits: bool | None
    watermarking_config: Any
    use_cache: bool | None
    output_scores: bool | None
    output_logits: bool | None
    output_hidden_states: bool | None
    output_attentions: bool | None


class GenerateKeywords(SharedKeywords, total=False):
    """The keyword arguments of ``generate`` where it returns a tensor."""

    return_dict_in_generate: Literal[False] | None
