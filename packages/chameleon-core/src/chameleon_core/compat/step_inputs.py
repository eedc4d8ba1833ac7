"""The arguments of one step of a loop that generates, as loops written for ``transformers`` ask for them.

Shapes: B batch, T length, E hidden width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class StepInputs:
    """A model that says what ``forward`` is called with in the next step."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **others: Any,
    ) -> dict[str, Any]:
        """Return the arguments of ``forward`` for the next step of a loop.

        ``input_ids`` [B, T] are all ids so far; the last ``next_sequence_length`` are new, all of them by default.
        ``inputs_embeds`` [B, T, E] and pictures are fed in the first step. Other arguments are handed on as they are.
        """
        new = slice(None) if next_sequence_length is None else slice(-next_sequence_length, None)
        inputs: dict[str, Any] = {"input_ids": input_ids[:, new].contiguous()}
        if inputs_embeds is not None and is_first_iteration:
            inputs = {"input_ids": None, "inputs_embeds": inputs_embeds[:, new].contiguous()}
        if past_key_values is not None:
            inputs["past_key_values"] = past_key_values
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        position_ids = others.pop("position_ids", None)
        if position_ids is not None:
            inputs["position_ids"] = position_ids[..., new]
        late = not is_first_iteration and others.get("use_cache", True)
        dropped = {"labels", *(("pixel_values", "mm_encoder_outputs") if late else ())}
        return inputs | {name: value for name, value in others.items() if name not in dropped}
