"""A small model with the published vocabulary, in float32: greedy and sampled text, batches, long contexts, pictures.

Four layers, 256 wide. The rows of long contexts have a small vocabulary, so that what they measure are the layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from chameleon_core import GenerationOptions

from .comparing import require_in_nucleus, require_likeliest, require_near_logits
from .models import Pair, Stamps, our_steps, random_model, small_config, their_model, their_steps
from .products import matrix_products
from .rates import alone, reading
from .row import Contest, Goal, LatestOnly, Row, Scale, Side

DTYPE = torch.float32
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
GUIDED = GenerationOptions(
    modality="image", do_sample=True, temperature=0.7, top_p=0.9, seed=0, guidance_text=3.0, guidance_image=1.2
)


@LatestOnly
def pair(vocabulary_size: int, scale: Scale, width: int = 256, layers: int = 4) -> Pair:
    """Return both models; rows that follow each other share them."""
    size = scale.pick(vocabulary_size, vocabulary_size, min(vocabulary_size, 1024))
    ours = random_model(small_config(vocabulary_size=size, width=width, layers=layers), DTYPE)
    return Pair(ours, their_model(ours))


def greedy(
    scale: Scale,
    *,
    batch: int = 1,
    prompt: int = 16,
    vocabulary_size: int = 65536,
    width: int = 256,
    layers: int = 4,
    new: int | None = None,
) -> Contest:
    """Return a contest over the milliseconds of a step, which gives each row of the batch a token."""
    models = pair(vocabulary_size, scale, width, layers)
    new = scale.pick(96, 32, 4) if new is None else new
    length = scale.pick(prompt, max(prompt // 4, 16), min(prompt, 40))
    prompt_BT = models.prompt(batch, length)
    ours, our_ids = our_steps(models.ours, prompt_BT, new)
    theirs, _ = their_steps(models.theirs, prompt_BT, new)

    def compare() -> None:
        ids_BX = our_ids()
        logits_BTV = models.their_logits(ids_BX, new)
        require_near_logits(models.our_logits(ids_BX, new), logits_BTV, DTYPE)
        require_likeliest(models.of_text(logits_BTV), ids_BX[:, -new:], DTYPE)

    return Contest(ours, theirs, reading(_bytes(models, batch, length + new // 2), scale), compare)


def sampled(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a token that is sampled by top-p."""
    models, new = pair(65536, scale), scale.pick(96, 32, 4)
    prompt_BT = models.prompt(1, 16)
    ours, our_ids = our_steps(models.ours, prompt_BT, new, seed=0, **SAMPLING)
    theirs, their_ids = their_steps(models.theirs, prompt_BT, new, top_k=0, **SAMPLING)

    def compare() -> None:
        # The two draw by different random numbers; each must draw from the nucleus that the other's logits give.
        ours_BX, theirs_BX = our_ids(), their_ids()
        for ids_BX, logits_BTV in (
            (ours_BX, models.of_text(models.their_logits(ours_BX, new))),
            (theirs_BX, models.our_logits(theirs_BX, new)),
        ):
            require_in_nucleus(logits_BTV, ids_BX[:, -new:], SAMPLING["top_p"], SAMPLING["temperature"])

    return Contest(ours, theirs, reading(_bytes(models, 1, 16 + new // 2), scale), compare)


def picture(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a picture's code that is drawn with three branches of guidance."""
    config = small_config(vocabulary_size=scale.pick(65536, 65536, 1024))
    size = scale.pick(512, 512, 128)
    config = config.replace(vq_config={"resolution": size, "num_embeddings": config.vocab_size // 8})
    model = random_model(config, DTYPE)
    prompt_BT = Pair(model, None).prompt(1, 16)
    codes = scale.pick(model.layout.tokens_per_image, 96, 4)
    return Contest(picture_steps(model, prompt_BT, GUIDED, codes), limit=alone("products", matrix_products(model, 3)))


def picture_steps(model: Any, prompt_BT: torch.Tensor, options: GenerationOptions, codes: int) -> Side:
    """Return a side with the milliseconds of each of the first ``codes`` codes, after the prompt's step."""

    def side() -> float:
        stamps = Stamps()
        model.generate(
            prompt_BT, options=options, should_stop=lambda: stamps.should_stop() or len(stamps.times) > codes
        )
        del stamps.times[0]
        return stamps.step

    return side


def _bytes(models: Pair, batch: int, length: int) -> float:
    """Return the bytes that a step reads: the weights, without the embedding, and the keys and values."""
    model = models.ours
    weights = sum(each.nbytes for each in model.parameters()) - model.model.embed_tokens.weight.nbytes
    config = model.config
    return weights + batch * length * config.num_hidden_layers * 2 * config.hidden_size * 4


ROWS = [
    Row("small-greedy", "a token, 4 layers × 256, 65,536 ids", greedy, "ms a token", Goal(peer=2.5)),
    Row("small-top-p", "the same sampled with top-p 0.9", sampled, "ms a token", Goal(peer=2.5)),
    Row("small-batch-8", "the same, greedy, 8 rows", partial(greedy, batch=8), "ms a step", Goal(peer=2.0)),
    Row("guided-picture", "a code of a picture, 3 branches of guidance", picture, "ms a code", Goal(figure=5.0)),
    Row(
        "context-4000",
        "a token after 4,000, 512 ids",
        partial(greedy, prompt=3900, vocabulary_size=512),
        "ms a token",
        Goal(peer=2.0),
    ),
    Row(
        "context-1024-batch-16",
        "a token for each of 16 rows after 1,024, 512 ids",
        partial(greedy, prompt=1024, batch=16, vocabulary_size=512),
        "ms a step",
        Goal(peer=2.5),
    ),
]
