"""``chameleon eval emoji`` asks what the recipe asked: the requests and the groups are the same."""

from __future__ import annotations

import itertools

from recipes.emoji import prompts
from recipes.emoji.things import THINGS

from chameleon_core.evaluation import embedded_requests
from chameleon_emoji import pictures


def test_the_requests_are_those_of_the_recipe() -> None:
    for name, style in itertools.product(sorted(THINGS), embedded_requests.STYLES):
        assert embedded_requests.request(style, name) == prompts.Composition(style, name).caption
        on_ground = prompts.Composition(style, name, ground="orange").caption
        assert embedded_requests.request(style, name, "orange") == on_ground
        assert embedded_requests.name_in(prompts.Composition(style, name).caption) == name


def test_groups_are_those_that_the_model_was_taught() -> None:
    assert {each.group for each in pictures()} == {*prompts.GROUPS.values(), None}
    assert {each.name for each in pictures() if each.group is not None} <= THINGS
