"""A model of the 7B model's width with four layers: new tokens and prompts, in bfloat16, int8 and int4.

Quantized layers, the output layer among them, are compared with ``transformers`` computing in bfloat16 with the
dequantized weights.
"""

from __future__ import annotations

from functools import partial

import torch
from _memory import stored_bytes
from loading import wide_config

from chameleon_core import GenerationOptions
from chameleon_core.quantization import Quantization, quantize_model

from .comparing import require_likeliest, require_near_logits
from .models import Pair, our_steps, random_model, their_model, their_steps
from .rates import multiplying, reading
from .row import Contest, Goal, LatestOnly, Row, Scale, milliseconds

DTYPE = torch.bfloat16


@LatestOnly
def pair(method: str | None, scale: Scale) -> Pair:
    """Return both models, ours quantized by ``method``; rows that follow each other share them."""
    layers, width, vocabulary_size = scale.pick((4, 4096, 65536), (2, 2048, 65536), (1, 128, 512))
    ours = random_model(wide_config(layers, width=width, vocabulary_size=vocabulary_size), DTYPE)
    if method is not None:
        quantize_model(ours, Quantization(method, skip=()))
    return Pair(ours, their_model(ours))


def decode(method: str | None, scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a new token, greedily."""
    models, new = pair(method, scale), scale.pick(12, 8, 4)
    prompt_BT = models.prompt(1, 32)
    ours, our_ids = our_steps(models.ours, prompt_BT, new)
    theirs, _ = their_steps(models.theirs, prompt_BT, new)

    def compare() -> None:
        ids_BX = our_ids()
        logits_BTV = models.their_logits(ids_BX, new)
        require_near_logits(models.our_logits(ids_BX, new), logits_BTV, DTYPE)
        require_likeliest(models.of_text(logits_BTV), ids_BX[:, -new:], DTYPE)

    # A step reads one row of the embedding.
    size = stored_bytes(models.ours) - models.ours.model.embed_tokens.weight.nbytes
    return Contest(ours, theirs, reading(size, scale), compare)


def prefill(method: str | None, scale: Scale) -> Contest:
    """Return a contest over the milliseconds until a prompt's first new token."""
    models = pair(method, scale)
    prompt_BT = models.prompt(1, scale.pick(1056, 512, 40))
    options = GenerationOptions(max_new_tokens=1)
    mask_BT = torch.ones_like(prompt_BT)
    ours = partial(models.ours.generate, prompt_BT, options=options)
    theirs = partial(
        models.theirs.generate, input_ids=prompt_BT, attention_mask=mask_BT, max_new_tokens=1, do_sample=False
    )

    def compare() -> None:
        ids_BX = ours()
        logits_BTV = models.their_logits(ids_BX, 1)
        require_near_logits(models.our_logits(ids_BX, 1), logits_BTV, DTYPE)
        require_likeliest(models.of_text(logits_BTV), ids_BX[:, -1:], DTYPE)

    limit = multiplying(prefill_flops(models, prompt_BT.shape[1]), DTYPE, scale)
    return Contest(milliseconds(ours), milliseconds(theirs), limit, compare)


def prefill_flops(models: Pair, length: int) -> float:
    """Return the operations of a prompt: its layers' products, causal attention, and the last position's logits."""
    config = models.ours.config
    layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    attention = 2 * length * (length + 1) * config.hidden_size
    return config.num_hidden_layers * (2.0 * layer * length + attention) + 2.0 * config.hidden_size * config.vocab_size


def _rows(method: str | None, decoding: Goal, prompt: Goal) -> list[Row]:
    name = method or "bfloat16"
    what = f"7B's width, 4 layers, {name}" + ("" if method is None else " with the output layer")
    return [
        Row(f"decode-7b-{name}", f"a token at {what}", partial(decode, method), "ms a token", decoding),
        Row(
            f"prefill-7b-{name}", f"a prompt of 1,056 ids and a token at {what}", partial(prefill, method), goal=prompt
        ),
    ]


ROWS = [
    *_rows(None, Goal(peer=1.0, limit=0.9), Goal(peer=1.4, limit=0.8)),
    *_rows("int8", Goal(peer=1.9, limit=0.85), Goal(peer=1.2)),
    *_rows("int4", Goal(peer=3.3, limit=0.75), Goal(peer=1.1)),
]
