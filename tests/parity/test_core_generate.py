"""The same greedy ids as transformers, cached and uncached, from the same random weights.

Both sides round in their own way, so ids are compared up to the first place of a row where the two likeliest are
closer than ``MARGIN``; how much of the ids that is, is asserted too.

Shapes: B batch, T length, V vocabulary, P pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core.testing import make_vocabulary, pad_rows
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

PairMaker = Callable[..., Any]

STEPS = 64
# Twice the bound on the logits: rounding can move two of them towards each other.
MARGIN = 2e-5
EOS = 2

# Large enough that few rows come upon the end of the stream by chance.
VOCABULARY = {"vocab_size": 2048, "vocabulary_map": make_vocabulary(size=2048)}
PROMPTS = [[0, 40, 41, 42, 43, 44], [0, 50], [61, 23, 400, 60, 33, 340, 35, 36, 37]]


def suppressed(pair: Any) -> list[int]:
    """The specials that text may not hold here; the peer forbids only codes by itself."""
    return sorted(pair.ours.layout.special_ids - {EOS})


def their_ids(pair: Any, input_ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
    return pair.theirs.generate(
        input_ids=input_ids,
        attention_mask=mask,
        max_new_tokens=STEPS,
        do_sample=False,
        suppress_tokens=suppressed(pair),
        **options,
    )


@torch.no_grad()
def text_logits(pair: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Our logits [B, T, V] of a pass over everything, codes and specials at -inf."""
    forbidden = [*suppressed(pair), *pair.ours.layout.picture_ids]
    return pair.ours(input_ids, attention_mask=mask).logits.index_fill(-1, torch.tensor(forbidden), -torch.inf)


def uncached_ids(pair: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Greedy ids, each from a pass over everything before it."""
    ended = torch.zeros(len(input_ids), dtype=torch.bool)
    for _ in range(STEPS):
        next_ids = text_logits(pair, input_ids, mask)[:, -1].argmax(dim=-1).where(~ended, pair.ours.pad_token_id)
        ended |= next_ids == EOS
        input_ids = torch.cat((input_ids, next_ids[:, None]), dim=1)
        mask = torch.cat((mask, torch.ones_like(next_ids)[:, None]), dim=1)
    return input_ids


def assert_same_ids(pair: Any, ours: Tensor, theirs: Tensor, mask: Tensor) -> None:
    """Equal prompts, and equal new ids up to each row's first near tie."""
    prompt_length, new = mask.shape[1], ours.shape[1] - mask.shape[1]
    whole_mask = torch.cat((mask, torch.ones(len(ours), new, dtype=mask.dtype)), dim=1)
    best_BT2 = text_logits(pair, ours, whole_mask)[:, prompt_length - 1 : -1].topk(2).values
    near_BT = best_BT2[..., 0] - best_BT2[..., 1] <= MARGIN
    written = compared = 0
    for own, other, near in zip(ours.tolist(), theirs.tolist(), near_BT.tolist(), strict=True):
        end = own.index(EOS, prompt_length) + 1 if EOS in own[prompt_length:] else len(own)
        tie = prompt_length + near.index(True) if True in near else len(own)
        assert own[: min(tie, end)] == other[: min(tie, end)]
        written += end - prompt_length
        compared += min(tie, end) - prompt_length
    assert written > 0.5 * STEPS * len(ours), "these rows end too soon to say much"
    assert compared > 0.95 * written, "these rows have too many near ties to say much"


@pytest.mark.parametrize("rows", [PROMPTS, PROMPTS[:1], [[60]]], ids=["left-padded batch", "one row", "one id"])
def test_cached_greedy_ids(make_pair: PairMaker, changes: dict[str, Any], rows: Sequence[Sequence[int]]) -> None:
    pair = make_pair(**VOCABULARY, **changes)
    input_ids, mask = pad_rows(rows)
    ours = pair.ours.generate(input_ids, mask, max_new_tokens=STEPS)
    assert_same_ids(pair, ours, their_ids(pair, input_ids, mask), mask)


def test_uncached_greedy_ids(make_pair: PairMaker, changes: dict[str, Any]) -> None:
    pair = make_pair(**VOCABULARY, **changes)
    input_ids, mask = pad_rows(PROMPTS)
    ours = uncached_ids(pair, input_ids, mask)
    assert_same_ids(pair, ours, their_ids(pair, input_ids, mask, use_cache=False), mask)
    assert_same_ids(pair, ours, pair.ours.generate(input_ids, mask, max_new_tokens=STEPS), mask)


def test_greedy_ids_of_the_whole_vocabulary(make_pair: PairMaker) -> None:
    pair = make_pair(vocab_size=65536, vocabulary_map=make_vocabulary(num_codes=8192, size=65536))
    prompts = [[0, 20000, 30000, 40000], [50000]]
    input_ids, mask = pad_rows(prompts)
    ours = pair.ours.generate(input_ids, mask, max_new_tokens=STEPS)
    assert_same_ids(pair, ours, their_ids(pair, input_ids, mask), mask)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"stop_ids": (1941,)}, {"eos_token_id": [EOS, 1941]}),
        ({"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 1}),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        (
            {"forbidden_ids": (1914,), "forbidden_sequences": ((183, 1936), (73, 73, 73))},
            {"bad_words_ids": [[1914], [183, 1936], [73, 73, 73]]},
        ),
        ({"stop_ids": (1941,), "min_new_tokens": 30}, {"eos_token_id": [EOS, 1941], "min_new_tokens": 30}),
    ],
    ids=["repetition penalty", "more stops", "no id twice", "no pair twice", "forbidden ids", "a least length"],
)
def test_options_that_both_sides_have(make_pair: PairMaker, options: dict[str, Any], expected: dict[str, Any]) -> None:
    pair = make_pair(**VOCABULARY)
    # One row: the peer's penalty counts the padding of a batch as an id of the prompt.
    input_ids, mask = pad_rows(PROMPTS[:1])
    ours = pair.ours.generate(input_ids, mask, max_new_tokens=STEPS, **options)
    theirs = their_ids(pair, input_ids, mask, pad_token_id=1, **expected)
    assert ours.tolist() == theirs.tolist()
    assert ours.tolist() != pair.ours.generate(input_ids, mask, max_new_tokens=STEPS).tolist()


def test_ids_after_prompts_with_pictures(make_pair: PairMaker) -> None:
    """The model documentation's own example: placeholders, and pixels beside them."""
    pair = make_pair(**VOCABULARY)
    vqvae = ChameleonVQVAE(ChameleonVQVAEConfig.from_dict(pair.ours.config.vq_config)).eval()
    missing, unexpected = vqvae.load_state_dict(pair.theirs.model.vqmodel.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("decoder.") for name in missing)
    pair.ours.image_tokenizer = ImageTokenizer(vqvae)

    layout = pair.ours.layout
    picture = [layout.begin_image_id, *[layout.placeholder_id] * layout.tokens_per_image, layout.end_image_id]
    input_ids, mask = pad_rows([[0, 40, *picture, *picture, 41], [0, *picture, 42]])
    pixels_PCHW = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1

    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, attention_mask=mask, pixel_values=pixels_PCHW).logits)
        theirs = pair.theirs(
            input_ids=input_ids,
            attention_mask=mask,
            pixel_values=pixels_PCHW,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        ).logits
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=0, atol=1e-5)

    generated = pair.ours.generate(
        input_ids=input_ids, attention_mask=mask, pixel_values=pixels_PCHW, max_new_tokens=STEPS
    )
    expected = their_ids(pair, input_ids, mask, pixel_values=pixels_PCHW)
    real_ids = pair.ours.insert_images(input_ids, pixels_PCHW)
    assert len(set(real_ids[0].tolist()) & layout.picture_ids) > 1
    # The prompts come back with their real ids here, and with their placeholders there.
    assert torch.equal(generated[:, : mask.shape[1]], real_ids)
    assert_same_ids(pair, generated, torch.cat((real_ids, expected[:, mask.shape[1] :]), dim=1), mask)
