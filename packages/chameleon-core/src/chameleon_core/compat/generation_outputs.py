"""What ``generate`` returns with ``return_dict_in_generate``, and how the model's side of it is computed.

Shapes: B batch, T prompt length, X new ids, S length of the whole, H heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .outputs import ModelOutputs


class GenerateOutput(ModelOutputs):
    """What was generated, read by attribute, key or index; what wasn't asked for is None, and has no key or index."""

    fields: ClassVar[tuple[str, ...]] = (
        "sequences",
        "sequences_scores",
        "scores",
        "logits",
        "attentions",
        "hidden_states",
        "past_key_values",
    )

    sequences: Tensor
    """The prompts with their continuations, int64 [B, S]."""
    sequences_scores: Tensor | None
    """The score of each text that beams found, float32 [B]. With ``output_scores`` and ``num_beams`` above 1."""
    scores: tuple[Tensor, ...] | None
    """The logits that each id was chosen from, after all processors: for each new id float32 [B, V], -inf where an id
    may not come. With ``output_scores``; None of a search by beams, which has ``sequences_scores``."""
    logits: tuple[Tensor, ...] | None
    """The logits of the model for each new id, float32 [B, V], for text with picture codes at the lowest number. With
    ``output_logits``."""
    attentions: tuple[tuple[Tensor, ...], ...] | None
    """For each new id the attention weights of each layer: first [B, H, T, T], then [B, H, 1, S]. With
    ``output_attentions``."""
    hidden_states: tuple[tuple[Tensor, ...], ...] | None
    """For each new id the embeddings and each layer's output: first [B, T, E], then [B, 1, E]. With
    ``output_hidden_states``."""
    past_key_values: Any
    """The keys and values of all ids but the last; None with ``use_cache=False``."""


def transition_scores(sequences: Tensor, scores: Sequence[Tensor], *, normalize_logits: bool = False) -> Tensor:
    """Return the score of each new id, float32 [B, X].

    ``sequences`` int64 [B, S] and ``scores`` are those of a ``GenerateOutput``; ``normalize_logits`` makes logarithms
    of probabilities of the scores.
    """
    scores_BXV = torch.stack(tuple(scores), dim=1)
    if normalize_logits:
        scores_BXV = scores_BXV.log_softmax(dim=-1)
    new_BX1 = sequences[:, sequences.shape[1] - scores_BXV.shape[1] :, None]
    return scores_BXV.gather(-1, new_BX1.to(scores_BXV.device))[..., 0]


@dataclass(frozen=True, slots=True)
class Replay:
    """What one more pass over everything that was written shows of the steps in which it was."""

    logits: tuple[Tensor, ...] | None
    attentions: tuple[tuple[Tensor, ...], ...] | None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None
    cache: Any


@torch.no_grad()
def replay(
    model: Any,
    prompts: Sequence[Sequence[int]],
    written_BX: Tensor,
    *,
    embeddings: Sequence[Tensor] = (),
    cache: Any = None,
    logits: bool = False,
    attentions: bool = False,
    hidden_states: bool = False,
) -> Replay:
    """Return what the model computes at each step, from one pass over the prompts and all new ids but the last.

    A position doesn't depend on those after it, so that it is the same up to rounding. ``written_BX`` int64 [B, X] are
    the new ids, filled up; ``embeddings`` [T, E] stand for the prompts where there are any. ``cache`` is filled with
    what it lacks.
    """
    rows, device = len(prompts), written_BX.device
    width = max(map(len, prompts))
    ids_BS = torch.full((rows, width + written_BX.shape[1]), 0, dtype=torch.int64, device=device)
    mask_BS = torch.ones_like(ids_BS)
    for row, prompt in enumerate(prompts):
        ids_BS[row, width - len(prompt) : width] = torch.tensor(prompt, dtype=torch.int64, device=device)
        mask_BS[row, : width - len(prompt)] = 0
    ids_BS[:, width:] = written_BX
    known = 0 if cache is None else cache.length
    keywords: dict[str, Any] = {"input_ids": ids_BS[:, known:-1]}
    if embeddings:
        embeds_BSE = model.get_input_embeddings()(ids_BS)
        for row, prompt_TE in enumerate(embeddings):
            embeds_BSE[row, width - len(prompt_TE) : width] = prompt_TE
        keywords = {"inputs_embeds": embeds_BSE[:, known:-1]}
    output = model.model(
        **keywords,
        attention_mask=mask_BS[:, :-1],
        cache=cache,
        output_attentions=attentions,
        output_hidden_states=hidden_states,
    )
    steps = written_BX.shape[1]
    start = width - 1 - known
    places = [slice(0, start + 1), *(slice(start + step, start + step + 1) for step in range(1, steps))]
    return Replay(
        logits=tuple(model.lm_head(output.last_hidden_state[:, start:]).float().unbind(dim=1)) if logits else None,
        attentions=tuple(
            tuple(layer[:, :, place, : known + place.stop] for layer in output.attentions) for place in places
        )
        if attentions
        else None,
        hidden_states=tuple(tuple(layer[:, place] for layer in output.hidden_states) for place in places)
        if hidden_states
        else None,
        cache=cache,
    )
