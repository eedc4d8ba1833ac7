"""``chameleon eval emoji`` asks what the recipe asked: the words, the seeds of chance and the groups are the same."""

from __future__ import annotations

import itertools

from recipes.emoji import prompts, splits, trials
from recipes.emoji.augment import GROUNDS
from recipes.emoji.things import COMPOSED, THINGS

from chameleon_core.evaluation import embedded, embedded_requests
from chameleon_emoji import pictures


def test_the_lists_are_those_of_the_recipe() -> None:
    assert embedded_requests.GROUNDS == GROUNDS
    assert embedded_requests.COMPOSED == COMPOSED
    assert embedded_requests.STYLES == prompts.STYLES
    assert (embedded_requests.COLOURS, embedded_requests.SHAPES) == (splits.COLOURS, splits.SHAPES)
    assert list(embedded_requests.WITHHELD_SHAPES) == sorted(splits.WITHHELD_SHAPES)
    assert embedded.ROWS == trials.ROWS


def test_the_questions_are_those_of_the_recipe() -> None:
    for name in ("WHAT", "ONE_WORD", "WITH_STYLE", "WHICH_GROUP"):
        assert getattr(embedded_requests, name) == getattr(prompts, name)


def test_the_requests_are_those_of_the_recipe() -> None:
    for name, style in itertools.product(sorted(THINGS), prompts.STYLES):
        assert embedded_requests.request(style, name) == prompts.Composition(style, name).caption
        on_ground = prompts.Composition(style, name, ground="orange").caption
        assert embedded_requests.request(style, name, "orange") == on_ground
        assert embedded_requests.name_in(on_ground) == prompts.name_in(on_ground)


def test_the_same_pairs_are_withheld() -> None:
    for first, second in itertools.combinations(sorted(THINGS)[::4], 2):
        assert embedded_requests.is_withheld(first, second) == splits.scene_is_withheld(first, second)


def test_groups_are_those_that_the_model_was_taught() -> None:
    assert {each.group for each in pictures()} == {*prompts.GROUPS.values(), None}
    assert {each.name for each in pictures() if each.group is not None} <= THINGS
