"""The suite for decoding strategies: the built-in ones pass, and each law is failed by two wrong ones."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from chameleon_core import BrokenPluginError
from chameleon_core.generation import Continuation, GuessView, Hypothesis, RowView, SearchView
from chameleon_core.generation.decoding.beam import Beam, BeamSearcher
from chameleon_core.generation.decoding.jacobi import Jacobi, JacobiGuesser
from chameleon_core.testing import DecodingStrategyConformance
from chameleon_core.testing.decoding import LAYOUT


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


class TestBeam(DecodingStrategyConformance):
    strategy_name = "beam"


class TestBeamOfTwo(DecodingStrategyConformance):
    strategy_name = "beam"
    options = {"num_beams": 2, "early_stopping": True, "length_penalty": 0.0}


class TestBeamOfOne(DecodingStrategyConformance):
    strategy_name = "beam"
    options = {"num_beams": 1}


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


class WrongSearch(Beam):
    """Starts a searcher of the class ``Kind`` for text."""

    Kind: type[BeamSearcher] = BeamSearcher

    def start(self, row: RowView, /) -> Any:
        return self.Kind(self, 1) if row.kind == "text" else None


class WithoutResults:
    def start(self, row: RowView, /) -> Any:
        return type("Half", (), {"extend": lambda self, view: (), "width": 2})()


class WithoutWidth(WrongSearch):
    class Kind(BeamSearcher):
        width = 0  # type: ignore[assignment]


class Forbidden(WrongSearch):
    class Kind(BeamSearcher):
        def extend(self, view: SearchView, /) -> list[Continuation]:
            return [Continuation(0, LAYOUT.begin_image_id, 0.0)]


class Endless(WrongSearch):
    class Kind(BeamSearcher):
        def extend(self, view: SearchView, /) -> list[Continuation]:
            return self._candidates(view)[: self.width]


class WorstFirst(WrongSearch):
    class Kind(BeamSearcher):
        def results(self, running: Sequence[Hypothesis], /) -> list[Hypothesis]:
            return super().results(running)[::-1]


class Inventing(WrongSearch):
    class Kind(BeamSearcher):
        def results(self, running: Sequence[Hypothesis], /) -> list[Hypothesis]:
            return [Hypothesis((40, 41, 42), 1.0, "stop")]


class ByChance(WrongSearch):
    class Kind(BeamSearcher):
        def extend(self, view: SearchView, /) -> list[Continuation]:
            found = super().extend(view)
            return found and [random.choice(found)]


class Narrower(WrongSearch):
    """Each row has fewer hypotheses than the one before."""

    def __init__(self) -> None:
        super().__init__(8)
        self.numbers = itertools.count()

    def start(self, row: RowView, /) -> Any:
        return BeamSearcher(Beam(2 + next(self.numbers) % 7), 1) if row.kind == "text" else None


class OneSearcher(WrongSearch):
    """All rows share one searcher."""

    def __init__(self) -> None:
        super().__init__(3)
        self.searcher = BeamSearcher(self, 1)

    def start(self, row: RowView, /) -> Any:
        return self.searcher if row.kind == "text" else None


class SharedResults(WrongSearch):
    """All searchers keep what is complete in one list."""

    def __init__(self) -> None:
        super().__init__(3)
        self.complete: list[Hypothesis] = []

    def start(self, row: RowView, /) -> Any:
        searcher = BeamSearcher(self, 1)
        strategy = self

        class Shared(BeamSearcher):
            def extend(self, view: SearchView, /) -> list[Continuation]:
                self._complete = strategy.complete
                found = super().extend(view)
                strategy.complete = self._complete
                return found

        searcher.__class__ = Shared
        return searcher if row.kind == "text" else None


class CompleteAlone(WrongSearch):
    class Kind(BeamSearcher):
        def results(self, running: Sequence[Hypothesis], /) -> list[Hypothesis]:
            return super().results(())


class RaisingWhenCutOff(WrongSearch):
    class Kind(BeamSearcher):
        def results(self, running: Sequence[Hypothesis], /) -> list[Hypothesis]:
            if running:
                raise KeyError("cut off")
            return super().results(running)


FAILED_BY: dict[str, list[type]] = {
    "test_it_starts_guessers_or_searchers": [WithoutStart, WithoutObserve, WithoutResults, WithoutWidth],
    "test_guesses_are_ids_that_may_come": [TooMany, TextInPictures, Nothing],
    "test_guessing_changes_nothing": [Forgetful, Counting, Chance],
    "test_the_same_row_gets_the_same_guesses": [Chance, Tiring],
    "test_rows_do_not_influence_each_other": [OneGuesser, SharedMemory],
    "test_ids_are_those_of_plain_decoding": [Nothing, Raising],
    "test_a_search_continues_what_may_run_on": [Forbidden, Endless, WorstFirst, Inventing],
    "test_a_search_finds_the_same_again": [ByChance, Narrower, OneSearcher],
    "test_searches_do_not_influence_each_other": [OneSearcher, SharedResults],
    "test_a_search_that_is_cut_off_has_what_it_found": [CompleteAlone, RaisingWhenCutOff],
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
