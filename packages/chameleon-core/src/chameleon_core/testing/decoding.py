"""The conformance suite for decoding strategies: the contract of ``DecodingStrategy`` as laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, ClassVar, cast

import pytest

from ..generation import (
    DecodingStrategy,
    Engine,
    GenerationOptions,
    Guesser,
    GuessView,
    Request,
    RequestHandle,
    RowView,
    Searcher,
)
from ..generation.decoding import RowGuesser, RowSearcher
from ..generation.decoding.strategies import decoding_strategy
from ..generation.hypotheses import SearchingRow
from ..generation.processors import Kind
from ..registry import DECODING_HOOK, REGISTRY
from .conformance import Conformance
from .models import make_config, make_model

# Pictures of 4 × 4 codes, in double precision, so that the shapes of a pass decide nothing.
MODEL = make_model(make_config(vq_config={"resolution": 8, "channel_multiplier": [1, 1]})).double()
LAYOUT = MODEL.layout
CODES = LAYOUT.code_to_id_Z.tolist()
WORDS = range(40, 64)
KINDS: tuple[Kind, ...] = ("text", "image")
SEEDS = range(6)


class DecodingStrategyConformance(Conformance):
    """The contract of ``DecodingStrategy`` as tests. Derive from it and name the strategy::

        class TestAcme(DecodingStrategyConformance):
            strategy_name = "acme"
            options = {"window": 8}

    ``options`` are the strategy's own. It is looked up by its name, so its plugin must be installed; to test one that
    isn't registered, override the fixture ``strategy``.
    """

    strategy_name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def strategy(self) -> DecodingStrategy:
        """The strategy under test."""
        if not self.strategy_name:
            raise ValueError(f"{type(self).__name__} must set strategy_name, or override the fixture 'strategy'.")
        decoding = {"name": self.strategy_name, **self.options}
        return decoding_strategy(GenerationOptions(decoding=decoding))[0]

    def test_it_starts_guessers_or_searchers(self, strategy: DecodingStrategy) -> None:
        """``start`` returns None or an object with the methods of a guesser; for text, it may be a searcher."""
        assert isinstance(strategy, DecodingStrategy), "a strategy has the method start"
        searcher = searcher_of(strategy)
        if searcher is not None:
            assert isinstance(searcher, Searcher), "a searcher has width and the methods extend and results"
            assert type(searcher.width) is int, "width is an integer"
            assert searcher.width >= 1, "width is at least 1"
        for kind in KINDS:
            guesser = guesser_of(strategy, kind)
            assert guesser is None or isinstance(guesser, Guesser), "a guesser has the methods guess and observe"
        if self.strategy_name:
            assert REGISTRY.get(DECODING_HOOK, self.strategy_name).summary, "the spec has no summary for the listing"

    def test_guesses_are_ids_that_may_come(self, strategy: DecodingStrategy) -> None:
        """At most ``count``, of text in text and codes in pictures: what can't come is fed in vain, or cut."""
        for kind, seed in cases():
            for view, guesses in simulated(strategy, kind, seed):
                assert isinstance(guesses, Sequence), f"{type(guesses).__name__} in place of a list of ids"
                assert len(guesses) <= view.count, f"{len(guesses)} guesses where {view.count} can be of use"
                allowed = set(CODES) if kind == "image" else set(range(64)) - set(CODES)
                wrong = [each for each in guesses if type(each) is not int or each not in allowed]
                assert not wrong, f"guesses of {wrong[:3]}, which can't come in {kind}"

    def test_guessing_changes_nothing(self, strategy: DecodingStrategy) -> None:
        """Asked again before it has observed anything, a guesser guesses the same."""
        for kind, seed in cases():
            once = [list(guesses) for _, guesses in simulated(strategy, kind, seed)]
            repeated = [list(guesses) for _, guesses in simulated(strategy, kind, seed, asked=3)]
            assert repeated == once

    def test_the_same_row_gets_the_same_guesses(self, strategy: DecodingStrategy) -> None:
        """The number of passes of a request is the same whenever it runs."""
        for kind, seed in cases():
            first, second = ([list(each) for _, each in simulated(strategy, kind, seed)] for _ in range(2))
            assert second == first

    def test_rows_do_not_influence_each_other(self, strategy: DecodingStrategy) -> None:
        """Each row has a guesser of its own, whatever other rows run at the same time."""
        for kind, seed in cases():
            alone = [list(guesses) for _, guesses in simulated(strategy, kind, seed)]
            runs = simulated(strategy, kind, seed), simulated(strategy, kind, seed + 1)
            together: list[list[int]] = []
            for each, _ in zip(*runs, strict=False):
                together.append(list(each[1]))
            assert together == alone[: len(together)]

    def test_ids_are_those_of_plain_decoding(self, strategy: DecodingStrategy) -> None:
        """The engine runs with the strategy, in no more passes, and writes the same."""
        for kind, seed in cases():
            options = GenerationOptions(
                modality=kind, max_new_tokens=20, do_sample=seed % 2 > 0, seed=seed, guidance_text=1.0 + seed % 3
            )
            request = Request(prompt=[0, *Random(seed).choices(WORDS, k=3)], options=options)
            plain, passes = written(request, kind, None)
            guesser = guesser_of(strategy, kind)
            found, fewer = written(request, kind, guesser)
            assert found == plain, "other ids"
            assert fewer <= passes

    def test_a_search_continues_what_may_run_on(self, strategy: DecodingStrategy) -> None:
        """By ids that may come there, and its results are hypotheses that ended, the best first."""
        for seed in SEEDS:
            for handle in searched(strategy, [seed]):
                assert handle.error is None, handle.error
                scores = [each.score for each in handle.hypotheses]
                assert scores == sorted(scores, reverse=True), "results that aren't the best first"
                assert handle.new_ids == list(handle.hypotheses[0].ids), "the row wrote another text"

    def test_a_search_finds_the_same_again(self, strategy: DecodingStrategy) -> None:
        """A request writes the same whenever it runs."""
        for seed in SEEDS:
            first, second = (searched(strategy, [seed]) for _ in range(2))
            assert [each.hypotheses for each in first] == [each.hypotheses for each in second]

    def test_searches_do_not_influence_each_other(self, strategy: DecodingStrategy) -> None:
        """Each row has a searcher of its own, whatever other rows run at the same time."""
        together = searched(strategy, list(SEEDS))
        alone = [handle for seed in SEEDS for handle in searched(strategy, [seed])]
        assert not [each.error for each in together + alone if each.error is not None]
        assert [each.hypotheses for each in together] == [each.hypotheses for each in alone]

    def test_a_search_that_is_cut_off_has_what_it_found(self, strategy: DecodingStrategy) -> None:
        """The running hypotheses are among the results where nothing is complete."""
        for steps in (1, 3, 6):
            for handle in searched(strategy, list(SEEDS), steps=steps):
                assert handle.error is None, handle.error
                assert handle.hypotheses, "no results of a search that was cancelled"


def cases() -> Iterator[tuple[Kind, int]]:
    """Yield the kinds of rows and their seeds."""
    for kind in KINDS:
        for seed in SEEDS:
            yield kind, seed


def row_view(kind: Kind) -> RowView:
    """Return a row at the end of its prompt."""
    stop_ids = frozenset({LAYOUT.eos_id})
    return RowView(
        prompt=(0, 40), options=GenerationOptions(), layout=LAYOUT, tokenizer=None, kind=kind, stop_ids=stop_ids
    )


def guesser_of(strategy: DecodingStrategy, kind: Kind) -> Guesser | None:
    """Return what guesses for a row of a kind; None where nothing does."""
    started = strategy.start(row_view(kind))
    return None if started is None or hasattr(started, "extend") else started


def searcher_of(strategy: DecodingStrategy) -> Searcher | None:
    """Return what searches for a row of text; None where nothing does."""
    started = strategy.start(row_view("text"))
    return cast(Searcher, started) if hasattr(started, "extend") else None


def searched(strategy: DecodingStrategy, seeds: Sequence[int], *, steps: int | None = None) -> list[RequestHandle]:
    """Return the handles of texts that a strategy searches in one engine, a row for each seed; none where it guesses.

    They are cancelled after ``steps``. Rows of an odd seed are sampled.
    """
    engine = Engine(MODEL)
    handles = []
    for seed in seeds:
        searcher = searcher_of(strategy)
        if searcher is None:
            return []
        options = GenerationOptions(max_new_tokens=8 + seed, do_sample=seed % 2 > 0, seed=seed)
        handles.append(engine.submit(Request(prompt=[0, *Random(seed).choices(WORDS, k=3)], options=options)))
        row = engine._waiting.rows()[-1]
        engine._waiting.remove(row)
        checked = RowSearcher(searcher, "the strategy under test")
        searching: SearchingRow[Any] = SearchingRow(
            row.row, row.view, row.chains, row.states, row.handle, {}, searcher=checked
        )
        engine._waiting.put_back(searching)
    while not engine.is_idle:
        if steps == 0:
            for handle in handles:
                handle.cancel()
        engine.step()
        steps = None if steps is None else steps - 1
    return handles


def simulated(
    strategy: DecodingStrategy, kind: Kind, seed: int, *, asked: int = 1
) -> Iterator[tuple[GuessView, Sequence[int]]]:
    """Yield what a guesser is told and what it guesses in each pass of a row whose ids repeat themselves a little.

    After a wrong guess random ids are chosen, often those that are right. ``asked`` is how often each guess is wanted.
    """
    guesser = guesser_of(strategy, kind)
    if guesser is None:
        return
    random = Random(seed)
    pool = CODES if kind == "image" else list(WORDS)
    pattern = random.choices(pool, k=4)
    truth = [each if random.random() < 0.7 else random.choice(pool) for each in pattern * 4]
    done = 0
    while done < len(truth) - 1:
        view = GuessView(
            kind=kind,
            ids=(0, *truth[:done]) if kind == "text" else (0, LAYOUT.begin_image_id, *truth[:done]),
            codes=tuple(truth[:done]) if kind == "image" else (),
            codes_per_row=4 if kind == "image" else None,
            count=len(truth) - done - 1,
        )
        for _ in range(asked):
            guesses = guesser.guess(view)
        fed = list(guesses or ())[: view.count]
        right = next((place for place, each in enumerate(fed) if each != truth[done + place]), len(fed))
        chosen = [
            truth[done + place] if place <= right or random.random() < 0.6 else random.choice(pool)
            for place in range(len(fed) + 1)
        ]
        guesser.observe(view, tuple(chosen), right + 1)
        done += right + 1
        yield view, guesses


def written(request: Request, kind: Kind, guesser: Guesser | None) -> tuple[list[int], int]:
    """Return what a request writes with a guesser, and the number of passes."""
    engine = Engine(MODEL)
    handle = engine.submit(request)
    row = engine._waiting.first()
    assert row is not None
    if guesser is not None:
        row.guessers[kind] = RowGuesser(guesser, "the strategy under test", MODEL.config.vocab_size)
    passes = 0
    while not engine.is_idle:
        engine.step()
        passes += 1
    if handle.error is not None:
        raise handle.error
    return handle.new_ids, passes
