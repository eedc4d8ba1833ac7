"""lm-evaluation-harness: likelihoods and continuations are those of the same folder in transformers.

It takes no tokenizer but one of transformers' own classes, so both sides get the folder's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tests.parity.clients.conftest import Side

PAIRS = [("The quick", " brown fox"), ("A", " b c"), ("", "Once")]


def harness(side: Side, checkpoint: Path) -> Any:
    return HFLM(pretrained=side.model, tokenizer=str(checkpoint), device="cpu", batch_size=2)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=index) for index, each in enumerate(arguments)]


def test_likelihoods(sides: dict[str, Side], checkpoint: Path) -> None:
    asked = requests("loglikelihood", list(PAIRS))
    expected = harness(sides["theirs"], checkpoint).loglikelihood(asked, disable_tqdm=True)
    found = harness(sides["ours"], checkpoint).loglikelihood(asked, disable_tqdm=True)
    for (likelihood, is_greedy), (expected_likelihood, expected_greedy) in zip(found, expected, strict=True):
        assert likelihood == pytest.approx(expected_likelihood, abs=1e-4)
        assert is_greedy == expected_greedy


def test_continuations(sides: dict[str, Side], checkpoint: Path) -> None:
    options = {"until": ["zz"], "max_gen_toks": 8, "do_sample": False}
    asked = requests("generate_until", [(prompt, options) for prompt in ("The quick", "A", "Once upon")])
    expected = harness(sides["theirs"], checkpoint).generate_until(asked, disable_tqdm=True)
    assert harness(sides["ours"], checkpoint).generate_until(asked, disable_tqdm=True) == expected
