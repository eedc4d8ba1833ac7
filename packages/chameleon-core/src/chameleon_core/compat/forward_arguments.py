"""The arguments of ``forward`` that users of ``transformers`` know and models here need no parameter for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ..config import ChameleonConfig
from ..errors import ArgumentError

INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "head_mask": "no head can be masked; scale the head's part of self_attn.o_proj.weight.",
        "token_type_ids": "ids have no types; leave it out.",
        "mm_token_type_ids": "the placeholders in input_ids say where pictures are; leave it out.",
        "encoder_hidden_states": "there is no encoder; pictures are ids.",
        "encoder_attention_mask": "there is no encoder; pictures are ids.",
        "num_logits_to_keep": "it is called logits_to_keep.",
        "cu_seq_lens_q": "packed rows are marked by document_ids, int64 [batch, length].",
        "cu_seq_lens_k": "packed rows are marked by document_ids, int64 [batch, length].",
        "max_length_q": "packed rows are marked by document_ids, int64 [batch, length].",
        "max_length_k": "packed rows are marked by document_ids, int64 [batch, length].",
        "output_router_logits": "no layer has experts.",
    }
)
"""What replaces each argument, as a clause for an error message."""


def refuse_forward_arguments(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ``ArgumentError`` for the first argument that ``forward`` has no use for, and say what to do instead."""
    for name, value in given.items():
        if name in INSTEAD and (value is None or value is False):
            continue
        if name in INSTEAD:
            raise ArgumentError(f"forward() can't use {name}: {INSTEAD[name]}")
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(known)}."
        raise ArgumentError(f"forward() has no argument {name!r}. {hint}")


def is_requested(given: bool | None, config: ChameleonConfig, name: str) -> bool:
    """Return whether an output is requested, by the call or else by the config's field of this name."""
    return bool(getattr(config, name, config.extras.get(name, False)) if given is None else given)


def as_requested(output: Any, return_dict: bool | None, config: ChameleonConfig) -> Any:
    """Return an output as it is, or as a tuple where the call or else the config says ``return_dict=False``."""
    if return_dict is None:
        return_dict = bool(config.extras.get("return_dict", True))
    return output if return_dict else output.to_tuple()
