"""The suite for decoding strategies: the built-in ones pass, and each law is failed by two wrong ones."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from chameleon_core import BrokenPluginError
from chameleon_core.generation import GuessView, RowView
from chameleon_core.generation.decoding.jacobi import Jacobi, JacobiGuesser
from chameleon_core.testing import DecodingStrategyConformance


class TestPlain(DecodingStrategyConformance):
    strategy_name = "plain"


class TestJacobi(DecodingStrategyConformance):
    strategy_name = "jacobi"


class TestJacobiOfOne(DecodingStrategyConformance):
    strategy_name = "jacobi"
    options = {"window": 1}


class TestLookup(DecodingStrategyConformance):
    strategy_name = "lookup"


class TestLookupOfOne(DecodingStrategyConformance):
    strategy_name = "lookup"
    options = {"match": 1, "window": 30}


class Wrong(Jacobi):
    """Starts a guesser of the class ``Kind`` for text and pictures."""

    Kind: type[JacobiGuesser] = JacobiGuesser

    def start(self, row: RowView, /) -> Any:
        return self.Kind(4)


class WithoutStart:
    pass


class WithoutObserve:
    def start(self, row: RowView, /) -> Any:
        return type("Half", (), {"guess": lambda self, row: ()})()


class TooMany(Wrong):
    class Kind(JacobiGuesser):
        def guess(self, row: GuessView, /) -> list[int]:
            return [*row.codes, *row.codes] * 8


class TextInPictures(Wrong):
    class Kind(JacobiGuesser):
        def guess(self, row: GuessView, /) -> list[int]:
            return [40]


class Forgetful(Wrong):
    class Kind(JacobiGuesser):
        def guess(self, row: GuessView, /) -> list[int]:
            guesses = super().guess(row)
            self._chosen = ()
            return guesses


class Counting(Wrong):
    class Kind(JacobiGuesser):
        count = 0

        def guess(self, row: GuessView, /) -> list[int]:
            self.count += 1
            return super().guess(row)[: self.count % 3]


class Chance(Wrong):
    class Kind(JacobiGuesser):
        def guess(self, row: GuessView, /) -> list[int]:
            return super().guess(row)[: random.randrange(5)]


class Tiring(Jacobi):
    """Each row gets fewer guesses than the one before."""

    def __init__(self) -> None:
        super().__init__(8)
        self.numbers = itertools.count()

    def start(self, row: RowView, /) -> Any:
        return JacobiGuesser(1 + next(self.numbers) % 3)


class OneGuesser(Jacobi):
    """All rows share one guesser."""

    def __init__(self) -> None:
        super().__init__(8)
        self.guesser = JacobiGuesser(8)

    def start(self, row: RowView, /) -> Any:
        return self.guesser


class SharedMemory(Jacobi):
    """All guessers share what was chosen last."""

    def start(self, row: RowView, /) -> Any:
        strategy = self

        class Guesser(JacobiGuesser):
            def guess(self, row: GuessView, /) -> list[int]:
                return list(getattr(strategy, "last", ()))[: row.count]

            def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
                strategy.last = tuple(chosen)  # type: ignore[attr-defined]

        return Guesser(8)


class Nothing(Wrong):
    class Kind(JacobiGuesser):
        def guess(self, row: GuessView, /) -> Any:
            return None


class Raising(Wrong):
    class Kind(JacobiGuesser):
        def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
            raise KeyError("lost")


FAILED_BY: dict[str, list[type]] = {
    "test_it_starts_guessers": [WithoutStart, WithoutObserve],
    "test_guesses_are_ids_that_may_come": [TooMany, TextInPictures, Nothing],
    "test_guessing_changes_nothing": [Forgetful, Counting, Chance],
    "test_the_same_row_gets_the_same_guesses": [Chance, Tiring],
    "test_rows_do_not_influence_each_other": [OneGuesser, SharedMemory],
    "test_ids_are_those_of_plain_decoding": [Nothing, Raising],
}


def test_every_law_has_at_least_two_wrong_strategies() -> None:
    laws = [name for name, _ in inspect.getmembers(DecodingStrategyConformance) if name.startswith("test_")]
    assert sorted(FAILED_BY) == sorted(laws)
    assert all(len(wrong) >= 2 for wrong in FAILED_BY.values())


@pytest.mark.parametrize(("law", "wrong"), [(law, each) for law, all_wrong in FAILED_BY.items() for each in all_wrong])
def test_a_wrong_strategy_fails(law: str, wrong: type) -> None:
    suite = DecodingStrategyConformance()
    with pytest.raises((AssertionError, AttributeError, BrokenPluginError)):
        getattr(suite, law)(wrong())
