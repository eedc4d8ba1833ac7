"""Each built-in logits processor equals transformers' of the same keyword, and so do all of them one after the other.

Shapes: R rows, A ids that may be chosen (here the whole vocabulary), T length of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from chameleon_core import GenerationOptions
from chameleon_core.generation import RowView, processor_chain
from chameleon_core.testing import make_config

VOCABULARY, PROMPT, STEPS = 1000, 20, 15
EOS = 2
# Each side adds up probabilities in its own order: where the sum meets the mass, an id as unlikely as that may differ.
ROUNDING = 1e-5
IDS = torch.arange(VOCABULARY)

KEYWORDS: list[dict[str, Any]] = [
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 5000},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"min_p": 0.9},
    {"typical_p": 0.1},
    {"typical_p": 0.6},
    {"typical_p": 0.98},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[5], [3, 4], [1, 2, 3], [EOS]]},
    {"suppress_tokens": [3, 7, 999]},
    {"min_new_tokens": 4},
    {"min_new_tokens": 40},
]
ALL: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 200,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.9,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[5], [3, 4], [1, 2, 3]],
    "suppress_tokens": [3, 7, 999],
    "min_new_tokens": 4,
}


CONFIG = make_config(vocab_size=VOCABULARY, eos_token_id=EOS, vocabulary_map=None)


@pytest.fixture(scope="module")
def peer(make_pair: Callable[..., Any]) -> Any:
    """Any model of theirs: it makes the list of processors that a configuration asks for."""
    return make_pair().theirs


def their_logits(peer: Any, keywords: dict[str, Any], ids_RT: Tensor, logits_RA: Tensor) -> Tensor:
    """What the peer's processors make of logits, in the order in which its generate runs them."""
    config = GenerationConfig(do_sample=True, eos_token_id=EOS, **{"top_k": None, **keywords})
    config._eos_token_tensor = torch.tensor([EOS])
    processors = peer._get_logits_processor(config, input_ids_seq_length=PROMPT, device="cpu")
    return processors(ids_RT, logits_RA.clone())


def our_logits(keywords: dict[str, Any], ids_RT: Tensor, logits_RA: Tensor) -> Tensor:
    options = GenerationOptions.from_file_dict({"do_sample": True, **keywords}, CONFIG)
    chain = processor_chain(options, "text")
    states = []
    for ids in ids_RT.tolist():
        row = RowView(
            prompt=tuple(ids[:PROMPT]),
            options=options,
            layout=None,
            tokenizer=None,
            kind="text",
            stop_ids=frozenset({EOS}),
        )
        state = chain.start(row)
        for token_id in ids[PROMPT:]:
            state = chain.advance(state, token_id)
        states.append(state)
    return chain.process(logits_RA, IDS, states)


def example(scale: float, *, seed: int, rows: int = 8) -> tuple[Tensor, Tensor]:
    """Rows of few different ids, so that they repeat themselves, and logits of which no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    ids_RT = torch.randint(8, (rows, PROMPT + STEPS), generator=generator)
    logits_RA = torch.rand(rows, VOCABULARY, generator=generator) * 1e-3 + torch.randn(
        rows, VOCABULARY, generator=generator
    )
    return ids_RT, scale * logits_RA


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0], ids=["flat", "even", "steep"])
@pytest.mark.parametrize("keywords", [*KEYWORDS, ALL], ids=lambda each: "all" if len(each) > 1 else str(each))
def test_logits_are_those_of_transformers(peer: Any, keywords: dict[str, Any], scale: float) -> None:
    changed = 0
    for seed in range(2):
        ids_RT, logits_RA = example(scale, seed=seed)
        for length in (PROMPT, PROMPT + 3, PROMPT + STEPS):
            ours_RA = our_logits(keywords, ids_RT[:, :length], logits_RA)
            theirs_RA = their_logits(peer, keywords, ids_RT[:, :length], logits_RA)
            disputed_RA = (ours_RA == -torch.inf) != (theirs_RA == -torch.inf)
            assert logits_RA.softmax(dim=-1)[disputed_RA].sum() < ROUNDING
            # A temperature is applied to other numbers here, which differ from theirs by a constant in each row.
            torch.testing.assert_close(ours_RA.softmax(dim=-1), theirs_RA.softmax(dim=-1), rtol=1e-4, atol=ROUNDING)
            changed += not torch.equal(ours_RA, logits_RA)
    assert changed or keywords == {"top_k": 5000} or scale < 1


def test_all_at_once_is_all_of_them() -> None:
    assert ALL.keys() == {name for each in KEYWORDS for name in each}
