"""The conformance suite for logits processors: the contract of ``LogitsProcessor`` as laws.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ..generation import FORBIDDEN, LogitsProcessor, make_processor
from ..generation.processors import Kind
from ..hookspecs import LogitsProcessorSpec
from ..registry import LOGITS_PROCESSORS_HOOK, REGISTRY
from .conformance import Conformance
from .processor_problems import LAYOUT, ProcessorProblem, SmallTokenizer, make_problem

LAWS = settings(derandomize=True, deadline=None, database=None, report_multiple_bugs=False)
EXAMPLES = 12
"""Each has up to four rows, of which each is a case of its own."""

Law = Callable[[Any, LogitsProcessor, ProcessorProblem], None]


def for_all(law: Law) -> Callable[[Any, LogitsProcessor], None]:
    """Turn a law about one problem into a test of drawn problems of each kind that the processor is for."""

    def test(self: Any, processor: LogitsProcessor) -> None:
        def holds(kind: Kind, seed: int) -> None:
            problem = make_problem(processor, kind, seed, device=self.device, tokenizer=self.tokenizer)
            law(self, processor, problem)

        for kind in self.kinds():
            settings(LAWS, max_examples=EXAMPLES)(given(st.just(kind), st.integers(0, 2**32 - 1))(holds))()

    test.__name__, test.__qualname__, test.__doc__ = law.__name__, law.__qualname__, law.__doc__
    return test


class LogitsProcessorConformance(Conformance):
    """The contract of ``LogitsProcessor`` as tests. Derive from it and name the processor::

        class TestAcme(LogitsProcessorConformance):
            processor_name = "acme"
            options = {"strength": 0.5}

    ``options`` are the processor's own. It is looked up by its name, so its plugin must be installed; to test one that
    isn't registered, override the fixture ``processor``. Rows are of a small vocabulary whose text ids are letters,
    digits and a few more, and have only ids that the processor allowed.
    """

    processor_name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    by_id: ClassVar[bool] = False
    """Whether what an id gets depends on no other id that may be chosen: not so for truncation."""
    prompt_counts: ClassVar[bool] = True
    """Whether ids of the prompt count like those after it. Where they don't, no prompt may make a difference."""
    device: ClassVar[str] = "cpu"
    tokenizer: ClassVar[Any] = SmallTokenizer()
    """What decodes text ids."""

    @pytest.fixture
    def processor(self) -> LogitsProcessor:
        """The processor under test."""
        if not self.processor_name:
            raise ValueError(f"{type(self).__name__} must set processor_name, or override the fixture 'processor'.")
        reason = self.spec().why_unavailable()
        if reason is not None:
            pytest.fail(f"{self.processor_name!r} can't run here, so nothing was tested: {reason}")
        return make_processor(self.processor_name, **self.options)

    def spec(self) -> LogitsProcessorSpec:
        """Return the spec of the processor under test."""
        return cast(LogitsProcessorSpec, REGISTRY.get(LOGITS_PROCESSORS_HOOK, self.processor_name))

    def kinds(self) -> list[Kind]:
        """Return the kinds of choices that the processor is for."""
        if not self.processor_name:
            return ["image", "text"]
        spec = self.spec()
        return [kind for kind in ("image", "text") if spec.is_for(kind)] or sorted(spec.kinds)

    # How it is registered.

    def test_the_plugin_gives_a_light_spec_and_a_processor(self, processor: LogitsProcessor) -> None:
        """The spec is a ``LogitsProcessorSpec`` with a summary, the processor has the contract's three methods."""
        assert isinstance(processor, LogitsProcessor), "a processor has the methods start, advance and process"
        if self.processor_name:
            assert self.spec().summary, "the spec has no summary for the listing"

    @for_all
    def test_it_serves_the_rows_of_its_kinds(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """``unsupported`` refuses no row of a small vocabulary with a tokenizer."""
        if self.processor_name:
            for row in problem.rows:
                reason = self.spec().why_unsupported(row.view)
                assert reason is None, f"it refuses a row, so nothing was tested: {reason}"
        problem.process(processor)

    # What it returns.

    @for_all
    def test_logits_keep_their_shape_and_type(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Float32 [R, A] on the same device, for logits of any strides."""
        result = problem.process(processor)
        expected = problem.logits_RA
        assert result.shape == expected.shape, f"{list(result.shape)}, expected {list(expected.shape)}"
        assert result.dtype == torch.float32, f"the logits are {result.dtype}"
        assert result.device == expected.device, f"the logits are on {result.device}"
        contiguous = dataclasses.replace(problem, logits_RA=expected.contiguous())
        _assert_equal(contiguous.process(processor), result, "logits of other strides give other results")

    @for_all
    def test_no_logit_is_nan_or_infinite(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Of ids that aren't forbidden, also where others are forbidden already."""
        for each in (problem, _with_forbidden(problem)):
            result_RA = each.process(processor)
            assert not result_RA.isnan().any(), "a logit is NaN"
            assert (result_RA < torch.inf).all(), "a logit is infinite"

    @for_all
    def test_an_id_stays_allowed(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """In each row, where nothing is forbidden before."""
        allowed_R = (problem.process(processor) > FORBIDDEN).any(dim=-1)
        assert allowed_R.all(), f"everything is forbidden in a row after {problem.rows[int(allowed_R.int().argmin())]}"

    @for_all
    def test_what_is_forbidden_stays_forbidden(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Whatever another processor forbade before it."""
        forbidden = _with_forbidden(problem)
        result_RA = forbidden.process(processor)
        assert (result_RA[forbidden.logits_RA == FORBIDDEN] == FORBIDDEN).all(), "a forbidden id is allowed again"

    # What must make no difference.

    @for_all
    def test_nothing_is_changed_in_place(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Neither logits, nor ids, nor the list of states."""
        logits_RA, ids_A, states = problem.logits_RA.clone(), problem.ids_A.clone(), problem.states(processor)
        given_states = list(states)
        processor.process(problem.logits_RA, problem.ids_A, given_states)
        assert torch.equal(problem.logits_RA, logits_RA), "the logits were changed in place"
        assert torch.equal(problem.ids_A, ids_A), "the ids were changed in place"
        assert len(given_states) == len(states), "the list of states was changed"
        assert all(given is each for given, each in zip(given_states, states, strict=True)), "a state was replaced"

    @for_all
    def test_the_same_calls_give_the_same_logits(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Nothing is drawn, and nothing is remembered from call to call, whichever rows were processed between."""
        random_state = torch.get_rng_state()
        states = problem.states(processor)
        first_RA = processor.process(problem.logits_RA, problem.ids_A, states).clone()
        processor.process(problem.logits_RA.flip(0) * 2, problem.ids_A, states[::-1])
        again_RA = processor.process(problem.logits_RA, problem.ids_A, states)
        _assert_equal(again_RA, first_RA, "the second call gives other logits")
        _assert_equal(problem.process(processor), first_RA, "the same rows, started again, get other logits")
        assert torch.equal(torch.get_rng_state(), random_state), "random numbers were drawn"

    @for_all
    def test_advancing_leaves_the_old_state_as_it_was(
        self, processor: LogitsProcessor, problem: ProcessorProblem
    ) -> None:
        """Guesses are taken back: the state before them, and those of other guesses, give the same logits as ever."""
        guesses = [int(each) for each in problem.ids_A[: 3 * 7 : 7]]
        for place, row in enumerate(problem.rows):
            state = row.state(processor)
            logits_RA = problem.logits_RA[place : place + 1]

            def logits(state: Any, logits_RA: Tensor = logits_RA) -> Tensor:
                return processor.process(logits_RA, problem.ids_A, [state]).clone()

            before_RA = logits(state)
            branches = [processor.advance(state, guess) for guess in guesses]
            expected = [logits(branch) for branch in branches]
            for branch in branches:
                for guess in guesses:
                    processor.advance(branch, guess)
            _assert_equal(logits(state), before_RA, "advancing changed the state that it was given")
            for guess, branch, branch_RA in zip(guesses, branches, expected, strict=True):
                _assert_equal(logits(branch), branch_RA, "a state is changed by what follows another one")
                again_RA = logits(processor.advance(state, guess))
                _assert_equal(again_RA, branch_RA, "the same id after the same state gives another state")

    @for_all
    def test_rows_do_not_depend_on_each_other(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Alone, in another order, or beside others, a row gets the same logits to the bit."""
        result_RA, states = problem.process(processor).clone(), problem.states(processor)
        order = [*reversed(range(len(states))), *range(len(states))]
        shuffled_RA = processor.process(problem.logits_RA[order], problem.ids_A, [states[place] for place in order])
        _assert_equal(shuffled_RA, result_RA[order], "rows get other logits in another order")
        for place, state in enumerate(states):
            alone_RA = processor.process(problem.logits_RA[place : place + 1], problem.ids_A, [state])
            _assert_equal(alone_RA, result_RA[place : place + 1], "a row gets other logits alone than beside others")

    @for_all
    def test_the_order_of_the_ids_makes_no_difference(
        self, processor: LogitsProcessor, problem: ProcessorProblem
    ) -> None:
        """What may be chosen comes in any order, and an id gets the same logit."""
        order_A = torch.randperm(len(problem.ids_A), generator=torch.Generator().manual_seed(0)).to(self.device)
        shuffled = dataclasses.replace(
            problem, ids_A=problem.ids_A[order_A], logits_RA=problem.logits_RA[:, order_A].contiguous()
        )
        _assert_close(shuffled.process(processor), problem.process(processor)[:, order_A])

    @for_all
    def test_ids_do_not_depend_on_each_other(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Where ``by_id`` says so: of a part of the ids, each gets the logit that it gets among all."""
        if not self.by_id:
            pytest.skip("by_id says that what an id gets depends on others")
        part = dataclasses.replace(problem, ids_A=problem.ids_A[1::3], logits_RA=problem.logits_RA[:, 1::3])
        _assert_close(part.process(processor), problem.process(processor)[:, 1::3])

    @for_all
    def test_ids_count_in_the_prompt_as_after_it(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """A longer prompt is the shorter one and its ids; where ``prompt_counts`` is False, prompts don't matter."""
        result_RA = problem.process(processor)
        for row in problem.rows:
            longer = dataclasses.replace(row.with_prompt(row.view.prompt + row.ids), ids=())
            other = row.with_prompt((LAYOUT.bos_id, *reversed(row.view.prompt), int(problem.ids_A[-1])))
            changed = longer if self.prompt_counts else other
            rows = tuple(changed if each is row else each for each in problem.rows)
            message = (
                "the end of a longer prompt gives other logits than advancing"
                if self.prompt_counts
                else "another prompt gives other logits, where prompt_counts is False"
            )
            _assert_equal(dataclasses.replace(problem, rows=rows).process(processor), result_RA, message)

    @for_all
    def test_any_id_may_follow(self, processor: LogitsProcessor, problem: ProcessorProblem) -> None:
        """Pictures stand between text, and specials, too: ``advance`` gets them all, and ``process`` works after."""
        states = problem.states(processor)
        for token_id in range(LAYOUT.vocab_size):
            states = [processor.advance(state, token_id) for state in states]
        result = processor.process(problem.logits_RA, problem.ids_A, states)
        assert result.shape == problem.logits_RA.shape, f"{list(result.shape)} after ids of every kind"


def _with_forbidden(problem: ProcessorProblem) -> ProcessorProblem:
    """Return the problem with every other id forbidden, another half in each row."""
    rows, columns = torch.meshgrid(
        torch.arange(problem.logits_RA.shape[0]), torch.arange(problem.logits_RA.shape[1]), indexing="ij"
    )
    forbidden_RA = ((rows + columns) % 2 == 0).to(problem.logits_RA.device)
    return dataclasses.replace(problem, logits_RA=problem.logits_RA.masked_fill(forbidden_RA, FORBIDDEN))


def _assert_equal(actual: Tensor, expected: Tensor, message: str) -> None:
    assert torch.equal(actual, expected), message


def _assert_close(actual: Tensor, expected: Tensor) -> None:
    """The same ids are forbidden, and the logits of others are equal up to the rounding of sums in another order."""
    assert torch.equal(actual == FORBIDDEN, expected == FORBIDDEN), "other ids are forbidden"
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
