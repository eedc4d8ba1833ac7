"""Beam search: the best texts that there are, each hypothesis in a lane of its own, alone as in company.

Double precision, so that rounding, which depends on the shapes of a pass, decides nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_backends import plugins
from chameleon_backends._entry_points import FoundEntryPoint
from chameleon_core import (
    HOOK_API_VERSION,
    BrokenPluginError,
    ConfigError,
    ContextLengthError,
    GenerationError,
    GenerationOptions,
    PluginSpec,
    hookimpl,
)
from chameleon_core.generation import (
    Continuation,
    Engine,
    Hypothesis,
    Request,
    RequestHandle,
    RowView,
    SearchView,
)
from chameleon_core.registry import REGISTRY
from chameleon_core.testing import make_model, make_scripted_model

MODEL = make_model().double()
LAYOUT = MODEL.layout
EOS, BEGIN = LAYOUT.eos_id, LAYOUT.begin_image_id
A, B, C, D, E = range(40, 45)
WORDS = range(40, 64)


def beam(num_beams: int = 4, **options: Any) -> dict[str, Any]:
    return {"name": "beam", "num_beams": num_beams, **options}


def request(*prompt: int, decoding: Any = None, index: int = 0, priority: int = 0, **options: Any) -> Request:
    chosen = GenerationOptions(**{"max_new_tokens": 8, "decoding": decoding or beam(), **options})
    return Request(prompt=prompt or (0, A), options=chosen, index=index, priority=priority)


def run(engine: Engine[Any], *requests: Request) -> list[RequestHandle]:
    handles = [engine.submit(each) for each in requests]
    for _ in engine.run():
        pass
    for handle in handles:
        if handle.error is not None:
            raise handle.error
    assert engine.cache.positions == 0
    return handles


def alone(asked: Request, **engine_options: Any) -> RequestHandle:
    (handle,) = run(Engine(MODEL, **engine_options), asked)
    return handle


@torch.no_grad()
def log_probability(prompt: Sequence[int], ids: Sequence[int]) -> float:
    """Return that of text, whose ids may be any but codes."""
    logits_TV = MODEL(torch.tensor([[*prompt, *ids]])).logits[0].float()
    logits_TV[:, LAYOUT.code_to_id_Z] = -torch.inf
    log_probs_TV = logits_TV.log_softmax(dim=-1)
    return sum(float(log_probs_TV[len(prompt) - 1 + place, token_id]) for place, token_id in enumerate(ids))


class TestWhatIsFound:
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0, -1.0])
    def test_enough_beams_find_the_best_of_all_texts(self, length_penalty: float) -> None:
        few = [A, B, C, EOS]
        forbidden = tuple(each for each in range(64) if each not in few)
        texts = [text for length in (1, 2, 3) for text in itertools.product(few, repeat=length)]
        complete = [text for text in texts if EOS not in text[:-1] and (len(text) == 3 or text[-1] == EOS)]
        scores = {text: log_probability((0, D), text) / len(text) ** length_penalty for text in complete}
        best = sorted(complete, key=lambda text: -scores[text])
        asked = request(
            0,
            D,
            decoding=beam(64, length_penalty=length_penalty, early_stopping="never"),
            max_new_tokens=3,
            forbidden_ids=forbidden,
        )
        found = alone(asked).hypotheses
        assert [each.ids for each in found] == best
        assert [each.score for each in found] == pytest.approx([scores[text] for text in best], rel=1e-5)
        assert {each.finish_reason for each in found} == {"stop", "length"}

    def test_one_beam_decodes_plainly(self) -> None:
        for options in ({}, {"do_sample": True, "seed": 3}):
            plain = alone(request(decoding="plain", **options))
            found = alone(request(decoding=beam(1), **options))
            assert found.new_ids == plain.new_ids
            assert found.hypotheses == ()

    def test_more_beams_find_better_texts_than_greedy_decoding(self) -> None:
        gains = []
        for word in WORDS[::3]:
            greedy = alone(request(0, word, decoding="plain")).new_ids
            found = alone(request(0, word, decoding=beam(8, length_penalty=0.0)))
            gains.append(found.hypotheses[0].score - log_probability((0, word), greedy))
        assert min(gains) > -1.0
        assert sum(gains) > 1.0

    def test_the_row_writes_the_best_hypothesis_and_ends_as_it_did(self) -> None:
        engine = Engine(MODEL)
        handle = engine.submit(request(0, B, stop_ids=(A, C, E)))
        events = [event for event in engine.run() if event.handle is handle]
        assert [event.ids for event in events] == [tuple(handle.new_ids)], "one event, at the end"
        assert handle.hypotheses[0].ids == tuple(handle.new_ids)
        assert handle.hypotheses[0].finish_reason == handle.finish_reason
        assert len(handle.hypotheses) == 4

    def test_a_text_that_has_few_continuations_gives_fewer_hypotheses(self) -> None:
        forbidden = tuple(each for each in range(64) if each not in (A, EOS))
        found = alone(request(decoding=beam(8), max_new_tokens=2, forbidden_ids=forbidden)).hypotheses
        assert {each.ids for each in found} == {(EOS,), (A, EOS), (A, A)}

    def test_a_least_length_holds_for_all_hypotheses(self) -> None:
        found = alone(request(stop_ids=tuple(range(50, 64)), min_new_tokens=5)).hypotheses
        assert min(len(each.ids) for each in found) >= 5

    def test_a_dead_end_is_given_up_and_the_others_run_on(self) -> None:
        """After A nothing may come but what is forbidden; the other hypotheses don't end with it."""
        dead = tuple((A, each) for each in range(64))
        handle = alone(request(0, B, forbidden_sequences=dead, max_new_tokens=4))
        assert handle.hypotheses
        assert all(A not in each.ids[:-1] for each in handle.hypotheses)
        with pytest.raises(GenerationError, match="forbids every id that may come next"):
            alone(request(0, A, forbidden_sequences=dead))

    def test_a_stop_string_ends_a_hypothesis(self) -> None:
        words = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
        handle = run(Engine(MODEL, tokenizer=words), request(0, A, stop_strings=("4",), max_new_tokens=6))[0]
        for each in handle.hypotheses:
            texts = [words.decode(each.ids[:length]) for length in range(1, len(each.ids) + 1)]
            assert [text for text in texts if "4" in text][:1] in ([], [texts[-1]])
        assert handle.finish_reason == "stop"


class TestSampling:
    def test_the_same_seed_finds_the_same_and_others_other_texts(self) -> None:
        found = [alone(request(do_sample=True, seed=seed)).new_ids for seed in (0, 0, 1, 2, 3)]
        assert found[0] == found[1]
        assert len({tuple(each) for each in found}) > 2

    def test_continuations_are_drawn_without_replacement_by_their_probability(self) -> None:
        """The first draw of the first step is a sample; all of them differ."""
        counts = dict.fromkeys((A, B, C), 0)
        forbidden = tuple(each for each in range(64) if each not in counts)
        options = {"max_new_tokens": 1, "forbidden_ids": forbidden, "do_sample": True, "temperature": 2.0}
        weights = {each: log_probability((0, D), (each,)) / 2 for each in counts}
        total = torch.tensor(list(weights.values())).logsumexp(dim=0).item()
        chances = {each: torch.tensor(weight - total).exp().item() for each, weight in weights.items()}
        number = 300
        asked = [request(0, D, decoding=beam(2), seed=seed, **options) for seed in range(number)]
        for handle in run(Engine(MODEL), *asked):
            first, second = (each.ids[0] for each in handle.hypotheses)
            assert first != second
            counts[first] += 1
            counts[second] += 1
        for each, chance in chances.items():
            others = [other for other in chances if other != each]
            drawn = chance + sum(chances[other] * chance / (1 - chances[other]) for other in others)
            assert counts[each] / number == pytest.approx(drawn, abs=0.1)


class TestLanes:
    def test_the_prompt_is_computed_once(self) -> None:
        fed: list[int] = []
        hook = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
        alone(request(0, *[A] * 30, decoding=beam(4), stop_ids=(), min_new_tokens=8, max_new_tokens=8))
        hook.remove()
        assert fed == [31, *[4] * 7]

    @pytest.mark.parametrize("engine_options", [{"prompt_chunk": 3}, {"cache_implementation": "int8"}], ids=str)
    def test_other_engines_find_the_same(self, engine_options: dict[str, Any]) -> None:
        cache = {key: value for key, value in engine_options.items() if key == "cache_implementation"}
        asked = request(0, A, B, C, D, A, stop_ids=(A, B), max_new_tokens=12, **cache)
        with_cache = {"cache_implementation": "int8"} if cache else {}
        assert alone(asked, **engine_options).hypotheses == alone(asked, **with_cache).hypotheses

    def test_room_is_needed_for_each_hypothesis(self) -> None:
        alone(request(decoding=beam(3)), max_positions=192)
        with pytest.raises(ContextLengthError, match="in each of 3 lanes, which is room for 192"):
            alone(request(decoding=beam(3)), max_positions=191)

    @given(st.data(), st.integers(0, 2**32))
    @settings(max_examples=20, deadline=None)
    def test_a_search_finds_the_same_alone_and_in_any_company(self, data: st.DataObject, chance: int) -> None:
        """Whatever arrives when, however prompts are cut, shared or suspended."""
        asked = data.draw(st.lists(requests(), min_size=2, max_size=5))
        random = Random(chance)
        engine = Engine(
            MODEL,
            max_rows=random.choice([None, 2, 3]),
            max_positions=random.choice([None, 384, 600]),
            prompt_chunk=random.choice([None, 1, 5]),
            prefix_positions=random.choice([0, 32]),
        )
        handles: list[RequestHandle] = []
        pending = list(asked)
        while pending or not engine.is_idle:
            while pending and random.random() < 0.4:
                handles.append(engine.submit(pending.pop(0)))
            engine.step()
            assert engine.max_positions is None or engine.cache.positions <= engine.max_positions
        assert engine.cache.positions == 0
        for each, handle in zip(asked, handles, strict=True):
            expected = alone(each)
            assert handle.error is None
            assert handle.new_ids == expected.new_ids
            assert [found.ids for found in handle.hypotheses] == [found.ids for found in expected.hypotheses]
            assert handle.finish_reason == expected.finish_reason

    def test_a_search_that_was_suspended_goes_on_where_it_was(self) -> None:
        """The prompt is computed once more, and each hypothesis's own ids, but nothing is searched again."""
        fed: list[int] = []
        asked = request(0, *[A] * 40, decoding=beam(4), min_new_tokens=60, max_new_tokens=60)
        expected = alone(asked)
        engine = Engine(MODEL, max_positions=512)
        handle = engine.submit(asked)
        for _ in range(30):
            engine.step()
        other = engine.submit(request(0, B, decoding=beam(3), priority=1, min_new_tokens=60, max_new_tokens=60))
        hook = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
        for _ in engine.run():
            pass
        hook.remove()
        assert handle.new_ids == expected.new_ids
        assert other.new_ids == alone(other.request).new_ids
        assert sum(fed) < 60 * 3 + 31 * 4 + 41 + 4 * 30


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A search, or a request of another kind."""
    prompt = [0, *(40 + place * 5 % 24 for place in range(draw(st.integers(1, 30))))]
    options: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 20)), "stop_ids": (45, 47, 50)}
    if draw(st.booleans()):
        options |= {"do_sample": True, "temperature": 2.0, "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        options |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    decoding = beam(
        draw(st.sampled_from([2, 3, 4])),
        length_penalty=draw(st.sampled_from([0.0, 1.0, 2.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
    )
    if draw(st.integers(0, 3)) == 0:
        decoding, options["modality"] = "plain", "interleaved"
    return request(
        *prompt, decoding=decoding, index=draw(st.integers(0, 2)), priority=draw(st.integers(0, 2)), **options
    )


class TestEnds:
    @pytest.mark.parametrize("steps", [0, 1, 5])
    def test_what_is_cancelled_ends_with_the_best_so_far(self, steps: int) -> None:
        engine = Engine(MODEL)
        handle = engine.submit(request(min_new_tokens=8))
        for _ in range(steps):
            assert engine.step() == []
        handle.cancel()
        (event,) = engine.step()
        assert handle.finish_reason == event.finish_reason == "cancelled"
        assert len(handle.new_ids) == steps
        assert [each.finish_reason for each in handle.hypotheses] == (["cancelled"] * 4 if steps else [])
        assert engine.cache.positions == 0
        assert engine.is_idle

    def test_a_search_whose_time_is_over_ends_with_the_best_so_far(self) -> None:
        engine = Engine(MODEL)
        asked = request(min_new_tokens=8)
        handle = engine.submit(Request(prompt=asked.prompt, options=asked.options, timeout=1000.0))
        engine.step()
        handle.deadline = 0.0
        engine.step()
        assert handle.finish_reason == "timeout"
        assert len(handle.new_ids) == 1

    def test_a_search_that_should_stop_writes_the_best_so_far(self) -> None:
        prompts = torch.tensor([[0, A], [0, B]])
        calls = itertools.count()
        options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "decoding": beam()}
        found = MODEL.generate(prompts, should_stop=lambda: next(calls) == 3, **options)
        assert found.shape == (2, 5)
        for row in found.tolist():
            asked = request(*row[:2], max_new_tokens=3, min_new_tokens=3)
            assert row[2:] == alone(asked).new_ids

    def test_a_search_goes_on_after_nothing_that_was_written(self) -> None:
        asked = request()
        with pytest.raises(GenerationError, match=r"has written 1 ids already, and .*'beam'.* searches whole texts"):
            Engine(MODEL).submit(Request(prompt=asked.prompt, options=asked.options, written=[A]))

    def test_guidance_of_text_is_refused(self) -> None:
        with pytest.raises(GenerationError, match=r"'beam' .*can't be used with guidance_scale=1\.5"):
            Engine(MODEL).submit(request(guidance_scale=1.5))

    def test_an_error_ends_only_its_own_search(self) -> None:
        model = make_scripted_model({A: B, B: A}).double()
        engine = Engine(model)
        dead = tuple((B, each) for each in range(64))
        broken = engine.submit(request(0, A, forbidden_ids=tuple(set(range(64)) - {B}), forbidden_sequences=dead))
        fine = engine.submit(request(0, A))
        for _ in engine.run():
            pass
        assert broken.finish_reason == "error"
        assert isinstance(broken.error, GenerationError)
        assert fine.finish_reason in ("stop", "length")
        assert engine.cache.positions == 0


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_beams": 0}, "num_beams of the decoding strategy 'beam' must be an integer ≥ 1; got 0"),
            ({"num_beams": True}, "num_beams .* got True"),
            ({"num_beams": 2.0}, "num_beams"),
            ({"length_penalty": "1"}, "length_penalty of .* must be a number from -50 to 50; got '1'"),
            ({"length_penalty": 51}, "length_penalty"),
            ({"length_penalty": False}, "length_penalty"),
            ({"early_stopping": "always"}, "early_stopping of .* must be True, False or \"never\"; got 'always'"),
            ({"early_stopping": 1}, "early_stopping"),
            ({"beams": 3}, "the decoding strategy 'beam' has no option 'beams'.*'num_beams'"),
        ],
        ids=str,
    )
    def test_wrong_options_are_said_before_anything_runs(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Engine(MODEL).submit(request(decoding={"name": "beam", **options}))

    @pytest.mark.parametrize("modality", ["image", "interleaved"])
    def test_pictures_are_refused_with_the_reason(self, modality: str) -> None:
        with pytest.raises(
            GenerationError, match=f"'beam' .*can't be used here: .*modality='{modality}' draws pictures"
        ):
            Engine(MODEL).submit(request(modality=modality, max_new_tokens=20))


class Acme:
    """A searcher whose ``extend`` and ``results`` are set by the test."""

    width: Any = 2
    extends: Callable[[SearchView], Any] = staticmethod(lambda view: [])
    finds: Callable[[Sequence[Hypothesis]], Any] = staticmethod(lambda running: [])

    def start(self, row: RowView) -> Any:
        return self

    def extend(self, view: SearchView) -> Any:
        return Acme.extends(view)

    def results(self, running: Sequence[Hypothesis]) -> Any:
        return Acme.finds(running)


class Plugin:
    @hookimpl
    def chameleon_core_decoding(self) -> list[PluginSpec]:
        return [PluginSpec(name="acme", factory=Acme, api_version=HOOK_API_VERSION)]


@pytest.fixture(scope="module")
def plugin() -> Iterator[None]:
    found = FoundEntryPoint(
        group="chameleon_core", name="acme", value="acme_search:plugin", distribution="acme-search", version="0.4"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "acme_search", SimpleNamespace(plugin=Plugin()))
        patch.setattr(plugins, "entry_points", lambda prefix: [found])
        REGISTRY.reload()
        yield
    REGISTRY.reload()


@pytest.mark.usefixtures("plugin")
class TestPlugins:
    @pytest.mark.parametrize(
        ("extended", "message"),
        [
            (None, "returned None from extend; expected a list of at most 2"),
            (Continuation(0, A, 0.0), "returned a Continuation from extend; expected a list"),
            ([Continuation(0, A, 0.0)] * 3, "returned a list from extend; expected a list of at most 2"),
            ([(0, A, 0.0)], "expected a Continuation of one of the 1 running"),
            ([Continuation(1, A, 0.0)], "expected a Continuation of one of the 1 running"),
            ([Continuation(0, A, float("nan"))], "with a finite score"),
            ([Continuation(0, BEGIN, 0.0)], f"continued a hypothesis by id {BEGIN}, which may not come there"),
            ([Continuation(0, 10**6, 0.0)], "which may not come there"),
            ([Continuation(0, -5, 0.0)], "which may not come there"),
            ([Continuation(0, EOS, 0.0)], "which ends it"),
        ],
        ids=str,
    )
    def test_what_cant_run_on_names_the_plugin(self, extended: Any, message: str) -> None:
        Acme.extends = staticmethod(lambda view: extended)
        with pytest.raises(BrokenPluginError, match=f"'acme' of acme-search 0.4 .*{message}"):
            alone(request(decoding="acme"))

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (None, "returned None from results; expected hypotheses"),
            ([(A, B)], "returned a list from results; expected hypotheses"),
            ([Hypothesis((A, B), 1.0, "stop")], "returned a hypothesis of 2 ids from results that isn't one"),
            ([Hypothesis((EOS,), 1.0)], "or gives another reason than theirs: None"),
        ],
        ids=str,
    )
    def test_results_that_never_were_name_the_plugin(self, found: Any, message: str) -> None:
        def extends(view: SearchView) -> list[Continuation]:
            assert view.ending(Continuation(0, EOS, 0.0)) == "stop"
            return []

        Acme.extends = staticmethod(extends)
        Acme.finds = staticmethod(lambda running: found)
        with pytest.raises(BrokenPluginError, match=f"'acme' of acme-search 0.4 .*{message}"):
            alone(request(decoding="acme"))

    def test_a_search_without_a_text_is_an_error(self) -> None:
        Acme.extends = staticmethod(lambda view: [])
        Acme.finds = staticmethod(lambda running: [])
        with pytest.raises(GenerationError, match=r"'acme' of acme-search 0.4 ended the search without a text"):
            alone(request(decoding="acme"))

    def test_a_search_is_refused_where_pictures_may_be_drawn(self) -> None:
        with pytest.raises(GenerationError, match=r"it searches texts, and modality='interleaved' draws pictures"):
            Engine(MODEL).submit(request(decoding="acme", modality="interleaved"))

    @pytest.mark.parametrize("width", [0, True, 2.0, None])
    def test_a_searcher_without_a_width_names_the_plugin(self, width: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Acme, "width", width)
        with pytest.raises(BrokenPluginError, match=r"acme-search 0.4 has a searcher of width .*; expected an integer"):
            Engine(MODEL).submit(request(decoding="acme"))
