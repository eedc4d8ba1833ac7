"""The built-in logits processors by hand, the chain that the options ask for, and plugins in it.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_backends import UnsupportedAttentionError, plugins
from chameleon_backends._entry_points import FoundEntryPoint
from chameleon_core.errors import (
    BrokenPluginError,
    ChameleonCoreError,
    ConfigError,
    GenerationError,
    UnknownPluginError,
)
from chameleon_core.generation import (
    ExtraProcessors,
    GenerationOptions,
    ProcessorChain,
    RowView,
    StatelessProcessor,
    make_processor,
    processor_chain,
)
from chameleon_core.generation.processors.contract import Kind
from chameleon_core.generation.processors.row_ids import RowIds
from chameleon_core.hookspecs import HOOK_API_VERSION, LogitsProcessorSpec, hookimpl
from chameleon_core.registry import LOGITS_PROCESSORS_HOOK, REGISTRY

OFF = -math.inf
IDS = torch.tensor([7, 3, 9, 4])


def row_of(*prompt: int, options: GenerationOptions | None = None, stop_ids: Sequence[int] = ()) -> RowView:
    return RowView(
        prompt=prompt,
        options=options or GenerationOptions(),
        layout=None,
        tokenizer=None,
        kind="text",
        stop_ids=frozenset(stop_ids),
    )


def processed(name: str, logits: Sequence[float], *ids: int, stop_ids: Sequence[int] = (), **options: Any) -> list[Any]:
    """The logits of ids 7, 3, 9 and 4 after a processor, for a row with these ids, of which the first is its prompt."""
    processor = make_processor(name, **options)
    state = processor.start(row_of(*ids[:1], stop_ids=stop_ids))
    for token_id in ids[1:]:
        state = processor.advance(state, token_id)
    result = processor.process(torch.tensor([logits]), IDS[: len(logits)], [state])[0].tolist()
    return [round(each, 5) for each in result]


def kept(name: str, probabilities: Sequence[float], **options: Any) -> list[bool]:
    """Which of ids with these probabilities a truncating processor keeps."""
    logits = (torch.tensor(probabilities).log() + 7).tolist()
    return [each > OFF for each in processed(name, logits, 0, **options)]


@pytest.mark.parametrize(
    ("name", "options", "probabilities", "expected"),
    [
        ("top-k", {"k": 1}, (0.2, 0.5, 0.3), [False, True, False]),
        ("top-k", {"k": 2}, (0.2, 0.5, 0.3), [False, True, True]),
        ("top-k", {"k": 99}, (0.2, 0.5, 0.3), [True, True, True]),
        # Equal ones can't be told apart, so both of the second place stay.
        ("top-k", {"k": 2}, (0.5, 0.25, 0.25), [True, True, True]),
        ("top-p", {"p": 0.4}, (0.2, 0.5, 0.3), [False, True, False]),
        ("top-p", {"p": 0.6}, (0.2, 0.5, 0.3), [False, True, True]),
        ("top-p", {"p": 0.9}, (0.2, 0.5, 0.3), [True, True, True]),
        ("top-p", {"p": 1e-9}, (0.2, 0.5, 0.3), [False, True, False]),
        ("top-p", {"p": 1}, (0.2, 0.5, 0.3), [True, True, True]),
        ("top-p", {"p": 0.6}, (0.25, 0.5, 0.25), [True, True, True]),
        ("min-p", {"p": 0.5}, (0.2, 0.5, 0.3), [False, True, True]),
        ("min-p", {"p": 0.3}, (0.2, 0.5, 0.3), [True, True, True]),
        ("min-p", {"p": 0.99}, (0.2, 0.5, 0.3), [False, True, False]),
        ("min-p", {"p": 0}, (0.2, 0.5, 0.3), [True, True, True]),
        # −log of the probabilities: 0.51, 1.61, 1.61; the entropy is 0.95. The likeliest is the nearest to it.
        ("typical", {"p": 0.5}, (0.6, 0.2, 0.2), [True, False, False]),
        # 0.11, 2.66, 3.51 and an entropy of 0.37: the likeliest again; 0.16, 2.12, 4.2 and 0.46 with it the second.
        ("typical", {"p": 0.95}, (0.85, 0.12, 0.03), [True, True, False]),
        # 0.8, 1.27, 1.27 and an entropy of 1.06: the two less likely ones are nearer, and hold 0.56.
        ("typical", {"p": 0.5}, (0.45, 0.28, 0.27), [False, True, True]),
        ("typical", {"p": 1}, (0.6, 0.2, 0.2), [True, True, True]),
    ],
)
def test_what_truncation_keeps(name: str, options: dict[str, Any], probabilities: Any, expected: list[bool]) -> None:
    assert kept(name, probabilities, **options) == expected


def test_the_temperature_divides_what_is_relative_to_the_largest() -> None:
    assert processed("temperature", [2.0, 1.0, 3.0, OFF], 0, temperature=0.5) == [-2, -4, 0, OFF]
    assert processed("temperature", [3e38, -3e38, OFF], 0, temperature=1e-6) == [0, OFF, OFF]
    assert processed("temperature", [1e30, 0.0, OFF], 0, temperature=1e6) == [0, pytest.approx(-1e24), OFF]


def test_repetition_divides_positive_and_multiplies_negative_logits() -> None:
    logits = [3.0, -3.0, 3.0, -3.0]
    assert processed("repetition-penalty", logits, 7, penalty=1.5) == [2.0, -3.0, 3.0, -3.0]
    assert processed("repetition-penalty", logits, 7, 3, 3, 8, penalty=1.5) == [2.0, -4.5, 3.0, -3.0]
    assert processed("repetition-penalty", logits, 65535, 9, penalty=0.5) == [3.0, -3.0, 6.0, -3.0]
    assert processed("repetition-penalty", logits, 7, 3, penalty=1) == logits


@pytest.mark.parametrize(
    ("size", "ids", "forbidden"),
    [
        (1, (7, 9, 1), {7, 9}),
        (2, (7, 9, 7, 3, 7), {9, 3}),
        (2, (7, 9, 3), set()),
        (3, (7, 9, 3, 7, 9), {3}),
        (3, (7, 9), set()),
        (2, (7,), set()),
        (2, (7, 7), {7}),
        (9, (7, 9, 3, 7, 9), set()),
    ],
)
def test_an_ngram_is_not_repeated(size: int, ids: tuple[int, ...], forbidden: set[int]) -> None:
    expected = [OFF if each in forbidden else 1.0 for each in IDS.tolist()]
    assert processed("no-repeat-ngrams", [1.0] * 4, *ids, size=size) == expected


@pytest.mark.parametrize(
    ("options", "ids", "forbidden"),
    [
        ({"ids": (7, 4, 65535)}, (0,), {7, 4}),
        ({"sequences": ((5, 9), (6, 5, 3))}, (6, 5), {9, 3}),
        ({"sequences": ((5, 9), (6, 5, 3))}, (0, 5), {9}),
        ({"sequences": ((5, 9), (6, 5, 3))}, (5,), {9}),
        ({"sequences": ((5, 9), (6, 5, 3))}, (5, 0), set()),
        ({"ids": (4,), "sequences": ((9,),)}, (0,), {4, 9}),
        ({}, (0,), set()),
    ],
)
def test_ids_and_the_ends_of_sequences_are_forbidden(
    options: dict[str, Any], ids: tuple[int, ...], forbidden: set[int]
) -> None:
    expected = [OFF if each in forbidden else 1.0 for each in IDS.tolist()]
    assert processed("forbidden-ids", [1.0] * 4, *ids, **options) == expected


def test_a_row_does_not_end_before_its_least_number_of_ids() -> None:
    for new_ids, expected in (((), [1.0, OFF, 1.0]), ((8,), [1.0, OFF, 1.0]), ((8, 8), [1.0, 1.0, 1.0])):
        assert processed("min-new-tokens", [1.0] * 3, 0, *new_ids, stop_ids=[3, 60], count=2) == expected
    assert processed("min-new-tokens", [1.0] * 3, 0, stop_ids=[3], count=0) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("temperature", {"temperature": 0}, "temperature of the logits processor 'temperature' must be a number 1e-6"),
        ("top-k", {"k": 0}, "must be an integer ≥ 1; got 0"),
        ("top-k", {"k": 2.5}, "must be an integer ≥ 1; got 2.5"),
        ("top-p", {"p": 0}, r"must be a number in \(0, 1\]; got 0"),
        ("min-p", {"p": 1}, r"must be a number in \[0, 1\); got 1"),
        ("typical", {"p": "half"}, "got 'half'"),
        ("repetition-penalty", {"penalty": True}, "got True"),
        ("no-repeat-ngrams", {"size": 0}, "≥ 1"),
        ("forbidden-ids", {"ids": [-1]}, "ids of the logits processor 'forbidden-ids' must be ids"),
        ("forbidden-ids", {"sequences": [[]]}, "has an empty sequence"),
        ("forbidden-ids", {"sequences": 5}, "sequences of the logits processor"),
        ("min-new-tokens", {"count": -1}, "≥ 0"),
        ("top-k", {}, "'top-k' needs the option 'k'"),
        ("top-k", {"kk": 5}, "has no option 'kk'; its options are: k. Did you mean 'k'?"),
    ],
)
def test_an_impossible_option_of_a_processor_is_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_processor(name, **options)


def names_of(options: GenerationOptions, kind: Kind) -> list[str]:
    return [type(link.processor).__name__ for link in processor_chain(options, kind).links]


ALL = GenerationOptions(
    do_sample=True,
    temperature=0.7,
    top_k=50,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.9,
    repetition_penalty=1.2,
    no_repeat_ngram_size=3,
    forbidden_ids=(5,),
    min_new_tokens=2,
    logits_processors=("forbidden-ids",),
)


def test_the_options_ask_for_processors_in_the_order_that_they_state() -> None:
    constraints = ["RepetitionPenalty", "NoRepeatNgrams", "ForbiddenIds", "MinNewTokens", "ForbiddenIds"]
    truncation = ["Temperature", "TopK", "TopP", "MinP", "Typical"]
    assert names_of(ALL, "text") == constraints + truncation
    assert names_of(ALL, "image") == ["ForbiddenIds", "ForbiddenIds", *truncation]
    assert names_of(ALL.replace(do_sample=False), "text") == constraints
    assert names_of(GenerationOptions(), "text") == names_of(GenerationOptions(do_sample=True), "image") == []


def test_pictures_take_the_text_s_sampling_unless_they_have_their_own() -> None:
    own = ALL.replace(image_temperature=1.0, image_top_k=9, image_top_p=1.0, image_min_p=0.2, image_typical_p=1.0)
    top_k, min_p = (link.processor for link in processor_chain(own, "image").links[2:])
    assert (top_k.k, min_p.p) == (9, 0.2)


def test_the_same_processors_are_the_same_chain() -> None:
    chain = processor_chain(ALL, "text")
    assert processor_chain(ALL.replace(seed=7, max_new_tokens=9), "text") is chain
    assert processor_chain(ALL.replace(top_k=49), "text") is not chain
    assert processor_chain(GenerationOptions(), "text") is processor_chain(GenerationOptions(), "image")


def test_extra_processors_run_between_constraints_and_truncation_or_last() -> None:
    class Extra(StatelessProcessor):
        def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
            return logits_RA

    options = GenerationOptions(do_sample=True, top_k=3, forbidden_ids=(5,))
    links = processor_chain(options, "text", ExtraProcessors(inner=(Extra(),), last=(Extra(),))).links
    assert [type(link.processor).__name__ for link in links] == ["ForbiddenIds", "Extra", "TopK", "Extra"]


def test_a_chain_gives_each_processor_its_own_states() -> None:
    chain = processor_chain(ALL.replace(do_sample=False), "text")
    before = chain.start(row_of(7, 9, stop_ids=[4]))
    after = chain.advance(chain.advance(before, 7), 9)
    logits_RA = torch.full((2, 4), 2.0)
    # No end before two ids; then 7, 9, 7, 9 may be followed by anything but 7, which has followed 7, 9.
    assert chain.process(logits_RA, IDS, [before, after])[:, [0, 3]].tolist() == [
        [pytest.approx(2 / 1.2), OFF],
        [OFF, 2.0],
    ]
    assert chain.process(logits_RA, IDS, [after, before]).tolist() == (
        chain.process(logits_RA, IDS, [before, after]).flip(0).tolist()
    )
    assert repr(chain) == "ProcessorChain(RepetitionPenalty, NoRepeatNgrams, ForbiddenIds, MinNewTokens, ForbiddenIds)"


class Counting(StatelessProcessor):
    """Derives from the processor without a state and has one."""

    def start(self, row: RowView, /) -> int:  # type: ignore[override]
        return 0

    def advance(self, state: int, token_id: int, /) -> int:  # type: ignore[override]
        return state + 1


def test_states_follow_the_ids_of_processors_that_have_one() -> None:
    assert ProcessorChain([Counting()]).advance((0,), 5) == (1,)
    replaced = StatelessProcessor()
    replaced.advance = lambda state, token_id, /: token_id  # type: ignore[method-assign]
    assert ProcessorChain([replaced, Counting()]).advance((None, 3), 5) == (5, 4)
    assert ProcessorChain([make_processor("top-k", k=2)]).advance((None,), 5) == (None,)


def test_where_all_is_forbidden_the_row_and_the_processor_are_named() -> None:
    options = GenerationOptions(do_sample=True, top_k=2, forbidden_ids=tuple(IDS.tolist()))
    chain = processor_chain(options, "text")
    with pytest.raises(
        GenerationError, match=r"^row 0 of the 2 .*'forbidden-ids' of chameleon-core .* forbids every id"
    ):
        chain.process(torch.zeros(2, 4), IDS, [chain.start(row_of(1))] * 2)


def test_a_penalty_that_overflows_is_said() -> None:
    chain = processor_chain(GenerationOptions(repetition_penalty=0.001), "text")
    with pytest.raises(GenerationError, match=r"row 0 .*'repetition-penalty' of .* makes logits NaN or infinite"):
        chain.process(torch.tensor([[1e38, 1.0]]), IDS[:2], [chain.start(row_of(7))])


def test_a_processor_that_gets_nan_does_not_hide_it() -> None:
    chain = processor_chain(GenerationOptions(do_sample=True, temperature=0.5, top_p=0.5), "text")
    with pytest.raises(GenerationError, match=r"row 1 of the 2 of this step: .* makes logits NaN"):
        chain.process(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]), IDS[:2], [chain.start(row_of(1))] * 2)


class TestRowIds:
    """The ids of a row, which grow without copies and never change for who holds them."""

    def test_older_ones_keep_their_ids(self) -> None:
        every = [RowIds([5, 6])]
        for token_id in range(1000):
            every.append(every[-1].plus(token_id))
        assert [len(each) for each in every] == list(range(2, 1003))
        assert all(each.ids_T.tolist() == [5, 6, *range(len(each) - 2)] for each in every[::50])

    def test_ids_that_are_taken_back_leave_no_trace(self) -> None:
        first = RowIds([5])
        guessed = first.plus(6).plus(7)
        other = first.plus(8).plus(9)
        again = first.plus(8)
        assert guessed.ids_T.tolist() == [5, 6, 7]
        assert other.ids_T.tolist() == [5, 8, 9]
        assert again.ids_T.tolist() == [5, 8]
        assert first.ids_T.tolist() == [5]

    def test_they_are_made_and_grow_in_inference_mode_and_out_of_it(self) -> None:
        with torch.inference_mode():
            ids = RowIds([5]).plus(6)
        ids = ids.plus(7)
        with torch.inference_mode():
            ids = ids.plus(8)
        assert ids.plus(9).ids_T.tolist() == [5, 6, 7, 8, 9]


class Misbehaving(StatelessProcessor):
    """Does with logits what the test says."""

    def __init__(self, how: str = "well") -> None:
        self.how = how

    def start(self, row: RowView, /) -> None:
        if self.how == "start":
            raise SystemExit("start")

    def advance(self, state: None, token_id: int, /) -> None:
        if self.how == "advance":
            raise KeyError("advance")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Any:
        match self.how:
            case "process":
                raise RuntimeError("process")
            case "sibling's":
                raise UnsupportedAttentionError("no kernel.")
            case "ours":
                raise GenerationError("too many rows.")
            case "nothing":
                return None
            case "shape":
                return logits_RA[:, :-1]
            case "dtype":
                return logits_RA.double()
            case "nan":
                return torch.where(ids_A == 3, math.nan, logits_RA)
            case "infinity":
                return torch.where(ids_A == 3, math.inf, logits_RA)
            case "all":
                return torch.full_like(logits_RA, OFF)
        return logits_RA


def make_text_only() -> Any:
    return SimpleNamespace(start=1)


class Plugin:
    """A third-party plugin with three processors."""

    @hookimpl
    def chameleon_core_logits_processors(self) -> list[LogitsProcessorSpec]:
        def spec(name: str, **fields: Any) -> LogitsProcessorSpec:
            return LogitsProcessorSpec(name=name, api_version=HOOK_API_VERSION, **fields)

        return [
            spec("acme", factory=Misbehaving, kinds=frozenset({"text"})),
            spec("acme-methods", factory=make_text_only),
            spec("acme-picky", factory=Misbehaving, unsupported=lambda row: "it needs a tokenizer."),
            spec("acme-absent", factory=Misbehaving, unavailable=lambda: "no library"),
        ]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = FoundEntryPoint(
        group="chameleon_core", name="acme", value="acme_limits:plugin", distribution="acme-limits", version="0.3"
    )
    monkeypatch.setitem(sys.modules, "acme_limits", SimpleNamespace(plugin=Plugin()))  # type: ignore[arg-type]
    monkeypatch.setattr(plugins, "entry_points", lambda prefix: [found])
    REGISTRY.reload()
    yield
    monkeypatch.undo()
    REGISTRY.reload()


def acme_chain(how: str) -> ProcessorChain:
    options = GenerationOptions(logits_processors=({"name": "acme", "how": how},), do_sample=True, top_k=2)
    return processor_chain(options, "text")


@pytest.mark.usefixtures("plugin")
class TestPlugins:
    """Processors of others: used by name, and named where they are wrong."""

    def test_one_is_used_for_its_kinds(self) -> None:
        options = GenerationOptions(logits_processors=("acme",))
        assert names_of(options, "text") == ["Misbehaving"]
        assert names_of(options, "image") == []

    def test_an_unknown_name_has_a_suggestion(self) -> None:
        with pytest.raises(UnknownPluginError, match=r"no logits processor named 'acm'.* Did you mean 'acme'"):
            processor_chain(GenerationOptions(logits_processors=("acm",)), "text")

    def test_an_unknown_option_has_a_suggestion(self) -> None:
        with pytest.raises(ConfigError, match=r"'acme' has no option 'hoow'; its options are: how. Did you mean 'how'"):
            processor_chain(GenerationOptions(logits_processors=({"name": "acme", "hoow": 1},)), "text")

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("process", r"'acme' of acme-limits 0.3 failed, processing logits: RuntimeError: process\.$"),
            ("nothing", "'acme' of acme-limits 0.3 returned None in place of logits"),
            ("shape", r"returned logits \[2, 3\] of torch.float32 on cpu; expected \[2, 4\]"),
            ("dtype", "of torch.float64"),
            ("nan", "returned logits of NaN or infinity for row 0 of the 2 of this step"),
            ("infinity", "returned logits of NaN or infinity"),
        ],
    )
    def test_wrong_logits_name_the_plugin(self, how: str, message: str) -> None:
        chain = acme_chain(how)
        with pytest.raises(BrokenPluginError, match=message):
            chain.process(torch.zeros(2, 4), IDS, [chain.start(row_of(1))] * 2)

    def test_wrong_states_name_the_plugin(self) -> None:
        with pytest.raises(BrokenPluginError, match=r"0.3 failed, starting a row: SystemExit: start"):
            acme_chain("start").start(row_of(1))
        chain = acme_chain("advance")
        with pytest.raises(BrokenPluginError, match=r"0.3 failed, advancing a row: KeyError: 'advance'"):
            chain.advance(chain.start(row_of(1)), 5)

    def test_forbidding_all_names_the_plugin(self) -> None:
        chain = acme_chain("all")
        with pytest.raises(GenerationError, match=r"row 0 of the 1 .*'acme' of acme-limits 0.3 forbids every id"):
            chain.process(torch.zeros(1, 4), IDS, [chain.start(row_of(1))])

    def test_errors_of_the_toolkit_pass_with_a_note(self) -> None:
        chain = acme_chain("ours")
        with pytest.raises(GenerationError, match="too many rows") as caught:
            chain.process(torch.zeros(1, 4), IDS, [chain.start(row_of(1))])
        assert caught.value.__notes__ == [
            "Raised by the logits processor 'acme' of acme-limits 0.3, processing logits."
        ]

    def test_errors_of_a_sibling_are_this_package_s_too(self) -> None:
        chain = acme_chain("sibling's")
        with pytest.raises(ChameleonCoreError, match="no kernel") as caught:
            chain.process(torch.zeros(1, 4), IDS, [chain.start(row_of(1))])
        assert isinstance(caught.value, UnsupportedAttentionError)

    def test_one_without_the_methods_is_refused(self) -> None:
        with pytest.raises(
            BrokenPluginError, match=r"'acme-methods' of acme-limits 0.3 returned a SimpleNamespace without"
        ):
            make_processor("acme-methods")

    def test_one_that_cannot_serve_a_row_says_why(self) -> None:
        chain = processor_chain(GenerationOptions(logits_processors=("acme-picky",)), "text")
        with pytest.raises(GenerationError, match=r"'acme-picky' of .* can't be used here: it needs a tokenizer.$"):
            chain.start(row_of(1))

    def test_one_that_cannot_run_here_says_why(self) -> None:
        with pytest.raises(
            BrokenPluginError, match=r"'acme-absent' of acme-limits 0.3 can't run on this machine: no library"
        ):
            processor_chain(GenerationOptions(logits_processors=("acme-absent",)), "text")

    def test_a_plugin_without_dependencies_of_rows_is_used(self) -> None:
        chain = acme_chain("well")
        logits_RA = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
        assert chain.process(logits_RA, IDS, [chain.start(row_of(1))]).tolist() == [[OFF, 3, 2, OFF]]


@pytest.mark.parametrize("kinds", [(), ("text", ""), (3,)], ids=str)
def test_a_spec_is_for_kinds_of_choices(kinds: Any) -> None:
    with pytest.raises(ConfigError, match="kinds of the logits processor 'acme' must be"):
        LogitsProcessorSpec(name="acme", factory=Misbehaving, api_version=HOOK_API_VERSION, kinds=kinds)
    spec = LogitsProcessorSpec(name="acme", factory=Misbehaving, api_version=2, kinds="text")  # type: ignore[arg-type]
    assert spec.kinds == {"text"}
    every = LogitsProcessorSpec(name="acme", factory=Misbehaving, api_version=2)
    assert [(each.is_for("text"), each.is_for("melody")) for each in (spec, every)] == [(True, False), (True, True)]


def test_the_fields_of_the_options_name_registered_processors() -> None:
    registered = {each.spec.name for each in REGISTRY.registered(LOGITS_PROCESSORS_HOOK)}
    assert registered >= {"temperature", "top-k", "top-p", "min-p", "typical", "repetition-penalty", "forbidden-ids"}
