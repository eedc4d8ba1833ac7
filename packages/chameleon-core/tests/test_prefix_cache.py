"""Beginnings of prompts that are kept: what a prompt is fed of what another one had, to the last id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chameleon_core import GenerationOptions
from chameleon_core.generation import Engine, Request
from chameleon_core.testing import make_model

MODEL = make_model().double()
TEXT = GenerationOptions(max_new_tokens=3)
PICTURE = TEXT.replace(modality="image", max_new_tokens=None)


def prompt_of(length: int) -> list[int]:
    return [40 + place * 7 % 24 for place in range(length)]


class Fed:
    """An engine that keeps beginnings, and how many ids each prompt is fed before an id is chosen."""

    def __init__(self, positions: int | None = None) -> None:
        self.engine: Engine[Any] = Engine(MODEL, prefix_positions=positions)

    def __call__(self, prompt: Sequence[int], options: GenerationOptions = TEXT) -> int:
        handle = self.engine.submit(Request(prompt=prompt, options=options))
        counts = []
        hook = MODEL.model.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].numel()))
        try:
            for _ in self.engine.run():
                pass
        finally:
            hook.remove()
        engine = Engine(MODEL)
        alone = engine.submit(Request(prompt=prompt, options=options))
        for _ in engine.run():
            pass
        assert handle.new_ids == alone.new_ids
        return int(counts[0])


@pytest.mark.parametrize("length", [1, 5, 16, 17, 32, 39])
def test_of_a_prompt_that_comes_again_only_the_last_id_is_fed(length: int) -> None:
    fed = Fed()
    assert fed(prompt_of(length)) == length
    assert fed(prompt_of(length)) == 1
    # And of a picture's only the id that begins it.
    assert fed(prompt_of(length), PICTURE) == 1


@pytest.mark.parametrize(("first", "then", "rest"), [(5, 9, 4), (16, 20, 4), (20, 40, 20), (40, 20, 4), (9, 5, 5)])
def test_another_prompt_is_fed_what_follows_the_kept_blocks_it_begins_with(first: int, then: int, rest: int) -> None:
    fed = Fed()
    fed(prompt_of(first))
    assert fed(prompt_of(then)) == rest


def test_of_several_ends_the_longest_is_taken() -> None:
    fed = Fed()
    for length in (18, 22, 20):
        fed(prompt_of(length))
    assert fed(prompt_of(30)) == 8


def test_what_was_not_used_for_longest_is_dropped() -> None:
    fed = Fed(positions=24)
    fed([50, *prompt_of(19)])
    assert fed([50, *prompt_of(19)]) == 1
    fed(prompt_of(7))
    assert fed(prompt_of(7)) == 1
    assert fed([50, *prompt_of(19)]) == 20


def test_like_prompts_start_together_and_long_ones_wait_for_the_first() -> None:
    engine: Engine[Any] = Engine(MODEL, prefix_positions=None)
    for prompt in ([*prompt_of(20)], [*prompt_of(20)], [50, 51], [50, 51]):
        engine.submit(Request(prompt=prompt, options=TEXT))
    engine.step()
    assert engine.num_running == 1
    engine.step()
    assert engine.num_running == 4
