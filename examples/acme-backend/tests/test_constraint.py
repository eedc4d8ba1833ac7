"""The logits processor: the toolkit's conformance suite, and what it lets a model write."""

from __future__ import annotations

import pytest
import regex
import torch

from acme_backend.constraint_plugin import unsupported
from chameleon_core import ConfigError, GenerationOptions, TokenLayout
from chameleon_core.generation import FORBIDDEN, RowView, processor_chain
from chameleon_core.testing import LogitsProcessorConformance
from chameleon_text.testing import make_tokenizer

DATE = r"on (the )?\d\d?\. (May|June) \d{4}"


class TestRegexConstraint(LogitsProcessorConformance):
    """Never in place, states that can be taken back, rows and ids by themselves, something always allowed."""

    processor_name = "acme-regex"
    options = {"pattern": r'[a-z ]+, "?(the|\d+)"?\.'}
    by_id = True
    prompt_counts = False


def written(pattern: str, seed: int) -> str:
    """What a model without preferences writes under a constraint, up to its end."""
    tokenizer = make_tokenizer()
    layout = TokenLayout.from_vocabulary_map(tokenizer.token_ids, 4, special_ids=tokenizer.special_ids)
    options = GenerationOptions(logits_processors=({"name": "acme-regex", "pattern": pattern},))
    row = RowView(
        prompt=(layout.bos_id,),
        options=options,
        layout=layout,
        tokenizer=tokenizer,
        kind="text",
        stop_ids=frozenset({layout.eos_id}),
    )
    chain = processor_chain(options, "text")
    state, ids = chain.start(row), []
    ids_A = torch.arange(layout.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    while True:
        logits_RA = chain.process(torch.randn(1, len(ids_A), generator=generator), ids_A, [state])
        token_id = int(logits_RA.argmax())
        if token_id == layout.eos_id:
            return tokenizer.decode(ids)
        ids.append(token_id)
        state = chain.advance(state, token_id)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_written_matches(seed: int) -> None:
    assert regex.fullmatch(DATE, written(DATE, seed))


def test_a_text_that_is_complete_may_end_or_go_further() -> None:
    lengths = {len(written("a{2,5}", seed)) for seed in range(30)}
    assert lengths == {2, 3, 4, 5}


def test_what_is_no_regular_expression_is_refused() -> None:
    options = GenerationOptions(logits_processors=({"name": "acme-regex", "pattern": "(a"},))
    with pytest.raises(ConfigError, match=r"pattern of acme-regex isn't a regular expression: missing \)"):
        processor_chain(options, "text")


def test_a_row_without_a_tokenizer_is_refused() -> None:
    row = RowView(prompt=(0,), options=GenerationOptions(), layout=None, tokenizer=None, kind="text")
    assert unsupported(row) == "acme-regex matches text, and the request has no tokenizer"


def test_pictures_are_left_alone() -> None:
    options = GenerationOptions(logits_processors=({"name": "acme-regex", "pattern": "a"},))
    logits_RA = torch.zeros(1, 3)
    assert not (processor_chain(options, "image").process(logits_RA, torch.arange(3), [()]) == FORBIDDEN).any()
