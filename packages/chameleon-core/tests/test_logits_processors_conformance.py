"""The built-in logits processors pass the conformance suite; wrong processors and weakened suites don't.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

import chameleon_core.testing.logits_processors as suite
from chameleon_core.generation import RowView
from chameleon_core.hookspecs import LogitsProcessorSpec
from chameleon_core.testing import LogitsProcessorConformance
from chameleon_core.testing.processor_problems import LAYOUT

OFF = -math.inf
WORD = int(LAYOUT.text_allowed_V.nonzero()[0, 0])
"""The first text id, which rows have often."""
Ids = tuple[int, ...]


class TestTemperature(LogitsProcessorConformance):
    processor_name = "temperature"
    options = {"temperature": 0.7}


class TestTopK(LogitsProcessorConformance):
    processor_name = "top-k"
    options = {"k": 5}


class TestTopP(LogitsProcessorConformance):
    processor_name = "top-p"
    options = {"p": 0.6}


class TestMinP(LogitsProcessorConformance):
    processor_name = "min-p"
    options = {"p": 0.2}


class TestTypical(LogitsProcessorConformance):
    processor_name = "typical"
    options = {"p": 0.6}


class TestRepetitionPenalty(LogitsProcessorConformance):
    processor_name = "repetition-penalty"
    options = {"penalty": 1.5}
    by_id = True


class TestNoRepeatNgrams(LogitsProcessorConformance):
    processor_name = "no-repeat-ngrams"
    options = {"size": 2}
    by_id = True


class TestForbiddenIds(LogitsProcessorConformance):
    processor_name = "forbidden-ids"
    options = {"ids": [WORD], "sequences": [[WORD + 1, WORD + 2], [WORD + 3, WORD + 1, WORD + 3]]}
    by_id = True


class TestMinNewTokens(LogitsProcessorConformance):
    processor_name = "min-new-tokens"
    options = {"count": 4}
    by_id = True
    prompt_counts = False


class Right:
    """Makes ids that a row has already less likely. Wrong ones have some functions replaced.

    A replacement gets the right answer as its first argument.
    """

    def __init__(
        self,
        *,
        start: Callable[[Ids, RowView], Any] = lambda state, row: state,
        advance: Callable[[Ids, Ids, int], Any] = lambda new, state, token_id: new,
        process: Callable[[Tensor, Tensor, Tensor, Sequence[Ids]], Any] = lambda result, logits, ids, states: result,
    ) -> None:
        self.wrong_start, self.wrong_advance, self.wrong_process = start, advance, process

    def start(self, row: RowView, /) -> Any:
        return self.wrong_start(row.prompt, row)

    def advance(self, state: Any, token_id: int, /) -> Any:
        return self.wrong_advance((*state, token_id), state, token_id)

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Any:
        counts = [torch.tensor(state, dtype=torch.int64).bincount(minlength=LAYOUT.vocab_size) for state in states]
        counts_RA = torch.stack(counts)[:, ids_A].float()
        return self.wrong_process(logits_RA - 0.5 * counts_RA, logits_RA, ids_A, states)


class Counting(Right):
    """Counts its calls, and lets the count decide."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Any:
        self.calls += 1
        return super().process(logits_RA, ids_A, states) - 0.01 * self.calls


class Remembering(Right):
    """Keeps what it knows of a row by the row's prompt, in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[Ids, list[int]] = {}

    def start(self, row: RowView, /) -> Any:
        self.ids[row.prompt] = list(row.prompt)
        return row.prompt

    def advance(self, state: Any, token_id: int, /) -> Any:
        self.ids[state].append(token_id)
        return state

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Any:
        return super().process(logits_RA, ids_A, [tuple(self.ids[state]) for state in states])


class ListState(Right):
    """States that are lists, which it appends to."""

    def start(self, row: RowView, /) -> Any:
        return list(row.prompt)

    def advance(self, state: Any, token_id: int, /) -> Any:
        state.append(token_id)
        return state


class ListCopy(ListState):
    """Copies the list, and appends to the old one as well."""

    def advance(self, state: Any, token_id: int, /) -> Any:
        new = [*state, token_id]
        state.append(token_id)
        return new


def in_place(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return logits_RA.copy_(result_RA)


def ids_in_place(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    ids_A.sub_(1)
    return result_RA


def states_in_place(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    states[0] = (*states[0], 1)
    return result_RA


def states_emptied(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    states.pop()
    return result_RA


def drawing(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return result_RA + 1e-3 * torch.rand(result_RA.shape)


def normalized_by_batch(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return result_RA - result_RA.max()


def last_row_alone(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return torch.cat((result_RA[:-1], logits_RA[-1:]))


def first_state_for_all(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return logits_RA + (result_RA - logits_RA)[:1]


def by_column(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return result_RA - 0.1 * torch.arange(len(ids_A))


def first_five(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return torch.where(torch.arange(len(ids_A)) < 5, result_RA, OFF)


def allowing(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return result_RA.clamp(min=-1e4)


def replacing(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    return torch.where(ids_A == ids_A[3], 1.0, result_RA)


def log_of_counts(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    """Infinite for ids that a row doesn't have."""
    return result_RA - (logits_RA - result_RA).log()


def nan_beside_forbidden(result_RA: Tensor, logits_RA: Tensor, ids_A: Tensor, states: Any) -> Tensor:
    """The mean of logits, of which some are −∞."""
    return result_RA - result_RA.mean(dim=-1, keepdim=True)


def without(condition: Callable[[Tensor, Sequence[Ids]], Tensor]) -> Callable[..., Tensor]:
    """Forbids everything where a condition holds."""
    return lambda result_RA, logits_RA, ids_A, states: torch.where(condition(ids_A, states), OFF, result_RA)


def refuse(state: Ids, row: RowView) -> Ids:
    raise ValueError("no rows")


def of_text_alone(new: Ids, state: Ids, token_id: int) -> Ids:
    if not LAYOUT.text_allowed_V[token_id]:
        raise KeyError(token_id)
    return new


def growing(new: Ids, state: Ids, token_id: int) -> Ids:
    """Has room for 40 ids."""
    assert len(new) < 40
    return new


WRONG: dict[str, dict[str, Any]] = {
    "test_the_plugin_gives_a_light_spec_and_a_processor": {
        "no processor": object(),
        "without advance": type("Half", (), {"start": lambda self, row: 0, "process": lambda self, *args: 0})(),
    },
    "test_it_serves_the_rows_of_its_kinds": {
        "refuses to start": Right(start=refuse),
        "fails on several rows": Right(
            process=lambda result, logits, ids, states: (
                result.view(1, -1)[0, : len(ids)].view(len(states), -1) if len(states) == 1 else result[[len(states)]]
            )
        ),
    },
    "test_logits_keep_their_shape_and_type": {
        "a list": Right(process=lambda result, logits, ids, states: result.tolist()),
        "another type": Right(process=lambda result, logits, ids, states: result.double()),
        "one column less": Right(process=lambda result, logits, ids, states: result[:, 1:]),
        "one row": Right(process=lambda result, logits, ids, states: result[:1] if len(states) > 1 else result[0]),
        "the first numbers in memory": Right(
            process=lambda result, logits, ids, states: logits.as_strided(logits.shape, (logits.shape[1], 1))
        ),
    },
    "test_no_logit_is_nan_or_infinite": {
        "the logarithm of a count": Right(process=log_of_counts),
        "the mean of all": Right(process=nan_beside_forbidden),
        "certain": Right(process=lambda result, logits, ids, states: torch.where(ids == ids[0], math.inf, result)),
    },
    "test_an_id_stays_allowed": {
        "nothing after many ids": Right(
            process=without(lambda ids, states: torch.tensor([[len(each) > 4] for each in states]))
        ),
        "nothing but what a row has": Right(
            process=lambda result, logits, ids, states: torch.where(result == logits, OFF, result)
        ),
        "nothing at all": Right(process=without(lambda ids, states: torch.tensor(True))),
    },
    "test_what_is_forbidden_stays_forbidden": {
        "a lowest logit": Right(process=allowing),
        "a logit of its own": Right(process=replacing),
    },
    "test_nothing_is_changed_in_place": {
        "logits": Right(process=in_place),
        "ids": Right(process=ids_in_place),
        "a state replaced": Right(process=states_in_place),
        "a state removed": Right(process=states_emptied),
    },
    "test_the_same_calls_give_the_same_logits": {
        "noise": Right(process=drawing),
        "a count of calls": Counting(),
    },
    "test_advancing_leaves_the_old_state_as_it_was": {
        "the same list": ListState(),
        "a list and its copy": ListCopy(),
        "rows kept by their prompts": Remembering(),
    },
    "test_rows_do_not_depend_on_each_other": {
        "less the largest of all rows": Right(process=normalized_by_batch),
        "the last row left out": Right(process=last_row_alone),
        "the first row's state for all": Right(process=first_state_for_all),
        "one row apart": Right(process=lambda result, logits, ids, states: result if len(states) > 1 else logits),
    },
    "test_the_order_of_the_ids_makes_no_difference": {
        "by column": Right(process=by_column),
        "the first five": Right(process=first_five),
    },
    "test_ids_do_not_depend_on_each_other": {
        "less the mean": Right(process=nan_beside_forbidden),
        "the likeliest": Right(
            process=lambda result, logits, ids, states: torch.where(result < result.amax(-1, True) - 1, OFF, result)
        ),
    },
    "test_ids_count_in_the_prompt_as_after_it": {
        "the prompt left out": Right(start=lambda state, row: ()),
        "the prompt's last id": Right(start=lambda state, row: state[-1:]),
        "twice after the prompt": Right(advance=lambda new, state, token_id: (*new, token_id)),
    },
    "test_any_id_may_follow": {
        "text alone": Right(advance=of_text_alone),
        "few ids": Right(advance=growing),
    },
}
CASES = [pytest.param(law, wrong, id=f"{law}-{what}") for law, cases in WRONG.items() for what, wrong in cases.items()]


@pytest.fixture
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip shrinking: a failure is expected, and its smallest example isn't needed."""
    monkeypatch.setattr(suite, "LAWS", settings(suite.LAWS, phases=[Phase.generate]))


class OfRight(LogitsProcessorConformance):
    by_id = True


def run_law(law: str, processor: Any, of: type[LogitsProcessorConformance] = OfRight) -> None:
    getattr(of(), law)(processor)


@pytest.mark.parametrize("law", WRONG)
def test_the_right_processor_passes_as_the_wrong_ones_do_not(law: str) -> None:
    """So wrong processors fail because of their mistake, not because of how they are made."""
    run_law(law, Right())


@pytest.mark.parametrize(("law", "processor"), CASES)
@pytest.mark.usefixtures("no_shrinking")
def test_a_wrong_processor_fails_the_law_that_it_breaks(law: str, processor: Any) -> None:
    with pytest.raises((AssertionError, AttributeError, ValueError, KeyError, IndexError)):
        run_law(law, processor)


def test_every_law_has_two_wrong_processors_that_fail_it() -> None:
    assert {name for name in dir(LogitsProcessorConformance) if name.startswith("test_")} == WRONG.keys()
    assert all(len(cases) >= 2 for cases in WRONG.values())


class Unprompted(LogitsProcessorConformance):
    """Of a processor that leaves the prompt out."""

    prompt_counts = False


@pytest.mark.usefixtures("no_shrinking")
def test_where_the_prompt_does_not_count_it_makes_no_difference() -> None:
    law = "test_ids_count_in_the_prompt_as_after_it"
    run_law(law, Right(start=lambda state, row: ()), Unprompted)
    for start in (lambda state, row: state, lambda state, row: state[-1:]):
        with pytest.raises(AssertionError, match="another prompt gives other logits"):
            run_law(law, Right(start=start), Unprompted)


def test_the_law_of_single_ids_is_skipped_where_it_does_not_apply() -> None:
    with pytest.raises(pytest.skip.Exception, match="by_id"):
        run_law("test_ids_do_not_depend_on_each_other", Right(), Unprompted)


class Named(LogitsProcessorConformance):
    processor_name = "acme"


@pytest.mark.usefixtures("no_shrinking")
def test_what_a_spec_says_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def registered(**fields: Any) -> None:
        spec = LogitsProcessorSpec(name="acme", factory=Right, api_version=2, **fields)
        monkeypatch.setattr(suite, "REGISTRY", type("Registry", (), {"get": lambda self, hook, name: spec})())

    registered(summary="fewer repetitions", kinds="text")
    run_law("test_the_plugin_gives_a_light_spec_and_a_processor", Right(), Named)
    run_law("test_it_serves_the_rows_of_its_kinds", Right(), Named)
    assert Named().kinds() == ["text"]
    registered()
    with pytest.raises(AssertionError, match="no summary"):
        run_law("test_the_plugin_gives_a_light_spec_and_a_processor", Right(), Named)
    registered(unsupported=lambda row: "it needs another layout")
    with pytest.raises(AssertionError, match="refuses a row, so nothing was tested: it needs another layout"):
        run_law("test_it_serves_the_rows_of_its_kinds", Right(), Named)


def test_a_suite_without_a_processor_says_what_to_set() -> None:
    fixture = OfRight.processor._get_wrapped_function()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="OfRight must set processor_name, or override the fixture 'processor'"):
        fixture(OfRight())


def test_a_standard_test_is_not_lost_without_a_reason() -> None:
    with pytest.raises(TypeError, match="replaces test_an_id_stays_allowed"):

        class Weak(LogitsProcessorConformance):
            test_an_id_stays_allowed = None
