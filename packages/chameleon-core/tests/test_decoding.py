"""Decoding strategies: no guess changes an id, a good one saves passes, and what is wrong names the plugin."""

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
from torch import Tensor

from chameleon_backends import plugins
from chameleon_backends._entry_points import FoundEntryPoint
from chameleon_core import HOOK_API_VERSION, BrokenPluginError, ConfigError, GenerationOptions, PluginSpec, hookimpl
from chameleon_core.checkpoints.quantization_plan import Quantization
from chameleon_core.errors import GenerationError, UnknownPluginError
from chameleon_core.generation import Engine, GuessView, Request, choosing
from chameleon_core.generation.decoding import Jacobi
from chameleon_core.generation.decoding.lookup import Lookup
from chameleon_core.generation.processors import RowView
from chameleon_core.model import ChameleonForConditionalGeneration
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.quantization import quantize_model
from chameleon_core.registry import REGISTRY
from chameleon_core.testing import make_config, make_model, make_scripted_model, make_vocabulary

# Pictures of 4 × 4 codes.
PICTURES = {"resolution": 8, "channel_multiplier": [1, 1]}
CONFIG = make_config(vq_config=PICTURES)
DOUBLE = make_model(CONFIG).double()
LAYOUT = DOUBLE.layout
BEGIN, END = LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()

SAMPLERS: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.4, "top_p": 0.9},
    {"do_sample": True, "temperature": 3.0},
    {"do_sample": True, "top_k": 3},
    {"do_sample": True, "top_p": 0.5},
    {"do_sample": True, "min_p": 0.2, "temperature": 2.0},
    {"do_sample": True, "temperature": 0.7, "top_k": 8, "top_p": 0.8, "min_p": 0.01},
)
GUIDANCE: tuple[dict[str, Any], ...] = ({}, {"guidance_text": 1.5}, {"guidance_text": 3.0, "guidance_image": 1.2})
WINDOWS = (1, 2, 3, 5, 8, 12, 16)


def run(
    model: ChameleonForConditionalGeneration, requests: Sequence[Request], **engine_options: Any
) -> tuple[list[list[int]], int]:
    """Return what requests that are submitted together wrote, and how many passes that took."""
    engine = Engine(model, **engine_options)
    handles = [engine.submit(request) for request in requests]
    passes = 0
    while not engine.is_idle:
        engine.step()
        passes += 1
    for handle in handles:
        if handle.error is not None:
            raise handle.error
    assert engine.cache.positions == 0
    return [handle.new_ids for handle in handles], passes


def decoded(request: Request, decoding: str | dict[str, Any]) -> Request:
    """Return the same request with a strategy."""
    options = request.options.replace(decoding=decoding)
    return Request(prompt=request.prompt, options=options, index=request.index)


def combinations(count: int) -> list[tuple[Request, dict[str, Any]]]:
    """Return requests of pictures over all samplers and guidances, each with a strategy of some window."""
    random = Random(0)
    kinds = list(itertools.product(SAMPLERS, GUIDANCE, WINDOWS))
    random.shuffle(kinds)
    found = []
    for number in range(count):
        sampler, guidance, window = kinds[number % len(kinds)]
        prompt = [0, *(random.randrange(40, 64) for _ in range(random.randint(1, 5)))]
        if random.random() < 0.3:
            prompt = [0, BEGIN, *random.choices(CODES, k=16), END, *prompt[1:]]
        if random.random() < 0.2:
            prompt += [BEGIN, *random.choices(CODES, k=random.randint(0, 15))]
        options = GenerationOptions(modality="image", seed=random.randrange(50), **sampler, **guidance)
        request = Request(prompt=prompt, options=options, index=random.randrange(4))
        found.append((request, {"name": "jacobi", "window": window}))
    return found


def both(
    model: ChameleonForConditionalGeneration, count: int, batches: Sequence[int]
) -> Iterator[tuple[Request, list[int], list[int]]]:
    """Yield each combination's request and what was written plainly and by guesses, in batches of several sizes."""
    asked = combinations(count)
    start = 0
    for size in itertools.cycle(batches):
        batch = asked[start : start + size]
        if not batch:
            return
        plain, _ = run(model, [request for request, _ in batch])
        guessed, _ = run(model, [decoded(request, decoding) for request, decoding in batch])
        for (request, _), expected, found in zip(batch, plain, guessed, strict=True):
            yield request, expected, found
        start += size


def rounding_model(kind: str) -> tuple[ChameleonForConditionalGeneration, float, int]:
    """Return a model of a dtype, how far its logits may be rounded apart, and how many combinations to try.

    The passes of a model differ by a few times the dtype's epsilon of logits of about 10; int4 computes in float32.
    """
    config = make_config(vq_config=PICTURES, intermediate_size=64)
    model = make_model(config)
    if kind == "bfloat16":
        return model.to(torch.bfloat16), 0.25, 168
    if kind == "int4":
        quantize_model(model, Quantization("int4", {"group_size": 32}))
        return model, 1e-4, 168
    return model, 1e-4, 336


def could_be_rounded_to(
    model: ChameleonForConditionalGeneration,
    request: Request,
    expected: list[int],
    found: list[int],
    tolerance: float,
) -> bool:
    """Return whether the first id that differs is chosen from some logits that differ by less than ``tolerance``."""
    place = next(place for place in range(len(expected)) if expected[place] != found[place])
    original, chosen = choosing._choose_alike, []

    def record(chain: Any, logits_PA: Tensor, candidates: Any, points: Any) -> list[int]:
        generator = torch.Generator().manual_seed(0)
        moved_NA = 2 * torch.rand(512, logits_PA.shape[1], generator=generator) - 1
        moved_NA *= tolerance * sum(map(abs, points[0].weights))
        chosen.extend(original(chain, logits_PA[:1] + moved_NA, candidates, [points[0]] * 512))
        return original(chain, logits_PA, candidates, points)

    choosing._choose_alike = record
    try:
        engine = Engine(model)
        prompt = [*request.prompt, *expected[:place]]
        engine.submit(Request(prompt=prompt, options=request.options, index=request.index))
        engine.step()
    finally:
        choosing._choose_alike = original
    return {expected[place], found[place]} <= set(chosen)


def view(kind: Any) -> RowView:
    return RowView(prompt=(0,), options=GenerationOptions(), layout=LAYOUT, tokenizer=None, kind=kind)


def guess_view(codes: tuple[int, ...], count: int) -> GuessView:
    return GuessView(kind="image", ids=(0, BEGIN, *codes), codes=codes, codes_per_row=4, count=count)


def text_view(*ids: int) -> GuessView:
    return GuessView(kind="text", ids=ids, count=99)


class TestJacobi:
    def test_ids_are_those_of_plain_decoding_in_more_than_1000_combinations(self) -> None:
        """In float64, so that rounding, which depends on the shapes of a pass, decides nothing."""
        checked = 0
        for request, expected, found in both(DOUBLE, 1016, batches=(1, 2, 9, 50, 65)):
            assert found == expected, request
            checked += 1
        assert checked == 1016

    @pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
    def test_every_id_that_differs_is_a_near_tie(self, kind: str) -> None:
        """The two likeliest ids of the first difference are nearer to each other than rounding."""
        model, tolerance, count = rounding_model(kind)
        differing = 0
        for request, expected, found in both(model, count, batches=(1, 5, 36)):
            if found != expected:
                differing += 1
                assert could_be_rounded_to(model, request, expected, found, tolerance)
        # Rounding decides the rare case only.
        assert differing <= count // (100 if kind == "float32" else 3)

    @pytest.mark.parametrize("sampler", SAMPLERS[:4], ids=str)
    def test_pictures_of_several_sizes_with_ends_of_rows_are_those_of_plain_decoding(
        self, sampler: dict[str, Any]
    ) -> None:
        names = make_vocabulary(more_specials=[reserved(8799 + number) for number in range(6)])
        config = make_config(
            vocab_size=len(names),
            vocabulary_map=names,
            vq_config=PICTURES,
            picture_grammar={"name": "lumina", "max_codes": 32},
        )
        model = make_model(config).double()
        asked = [
            Request(
                prompt=[0, 40 + seed],
                options=GenerationOptions(
                    modality=modality, max_new_tokens=50, seed=seed, guidance_text=1.0 + seed % 2, **sampler
                ),
            )
            for seed in range(6)
            for modality in ("image", "interleaved")
        ]
        plain, passes = run(model, asked)
        for window in WINDOWS:
            guessed, fewer = run(model, [decoded(each, {"name": "jacobi", "window": window}) for each in asked])
            assert guessed == plain
            assert fewer <= passes

    def test_it_saves_passes_where_codes_depend_little_on_their_neighbours(self) -> None:
        model = make_model(CONFIG).double()
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.mul_(0.02)
                layer.mlp.down_proj.weight.mul_(0.02)
            model.model.embed_tokens.weight[CODES] = model.model.embed_tokens.weight[CODES[0]].clone()
        request = Request(prompt=[0, 40], options=GenerationOptions(modality="image", do_sample=True, seed=0))
        plain, passes = run(model, [request])
        guessed, fewer = run(model, [decoded(request, {"name": "jacobi", "window": 12, "adaptive": False})])
        assert guessed == plain
        assert passes == 16
        assert fewer <= 4

    def test_a_pass_never_writes_less_than_one_id(self) -> None:
        request, _ = combinations(1)[0]
        _, passes = run(DOUBLE, [request])
        _, fewer = run(DOUBLE, [decoded(request, "jacobi")])
        assert fewer <= passes

    def test_guesses_are_what_was_chosen_then_the_row_above(self) -> None:
        guesser = Jacobi(window=4).start(view("image"))
        assert guesser is not None
        row = guess_view(codes=(10, 11, 12, 13), count=9)
        assert guesser.guess(guess_view(codes=(), count=9)) == []
        assert guesser.guess(guess_view(codes=(7,), count=9)) == [7, 7, 7, 7]
        assert guesser.guess(row) == [10, 11, 12, 13]
        guesser.observe(row, (20, 21, 22, 23, 24), 2)
        assert guesser.guess(guess_view(codes=(10, 11, 12, 13, 20, 21), count=9)) == [22, 23, 24, 21]
        assert guesser.guess(guess_view(codes=(10, 11, 12, 13, 20, 21), count=2)) == [22, 23]
        assert Jacobi().start(view("text")) is None

    @pytest.mark.parametrize("adaptive", [True, False])
    def test_the_window_follows_how_many_guesses_are_right(self, adaptive: bool) -> None:
        guesser = Jacobi(window=8, adaptive=adaptive).start(view("image"))
        assert guesser is not None
        row = guess_view(codes=(7,), count=30)
        assert len(guesser.guess(row)) == 8
        for _ in range(40):
            guesser.observe(row, range(9), 1)
        assert len(guesser.guess(row)) == (2 if adaptive else 8)
        for _ in range(40):
            guesser.observe(row, range(9), 9)
        assert len(guesser.guess(row)) == 8


class TestLookup:
    def test_it_guesses_what_followed_before(self) -> None:
        guesser = Lookup(window=3, match=2).start(view("text"))
        assert guesser is not None
        assert tuple(guesser.guess(text_view(1, 2, 3))) == ()
        assert tuple(guesser.guess(text_view(1, 2, 3, 4, 5, 1, 2))) == (3, 4, 5)
        assert tuple(guesser.guess(text_view(1, 2, 3, 4, 5, 1, 2, 3))) == (4, 5, 1)
        assert tuple(guesser.guess(text_view(1, 2, 3, 4, 5, 1, 2, 3, 9, 2))) == (3, 9, 2)

    def test_text_that_repeats_itself_takes_fewer_passes(self) -> None:
        cycle = [40, 41, 42, 43, 44]
        model = make_scripted_model(dict(zip(cycle, [*cycle[1:], 40], strict=True))).double()
        request = Request(prompt=[0, *cycle, *cycle], options=GenerationOptions(max_new_tokens=40))
        plain, passes = run(model, [request])
        guessed, fewer = run(model, [decoded(request, "lookup")])
        assert guessed == plain == [[cycle[place % 5] for place in range(40)]]
        assert passes == 40
        assert fewer <= 8


class Acme:
    """A strategy whose guesser calls ``guesses``, set by the test."""

    guesses: Callable[[GuessView], Any] = staticmethod(lambda row: ())

    def __init__(self, how: str = "") -> None:
        if how == "make":
            raise SystemExit("make")
        self.how = how

    def start(self, row: RowView) -> Any:
        match self.how:
            case "start":
                raise KeyError("start")
            case "half":
                return SimpleNamespace(guess=1)
        return self

    def guess(self, row: GuessView) -> Any:
        return Acme.guesses(row)

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int) -> None:
        assert 1 <= accepted <= len(chosen)
        assert all(type(each) is int for each in chosen)
        if self.how == "observe":
            raise ValueError("observe")


class Plugin:
    """A third-party plugin with three strategies."""

    @hookimpl
    def chameleon_core_decoding(self) -> list[PluginSpec]:
        return [
            PluginSpec(name="acme", factory=Acme, api_version=HOOK_API_VERSION),
            PluginSpec(name="acme-none", factory=object, api_version=HOOK_API_VERSION),
            PluginSpec(
                name="acme-picky",
                factory=Acme,
                api_version=HOOK_API_VERSION,
                unsupported=lambda row: f"it writes no {row.kind}.",
            ),
        ]


@pytest.fixture(scope="module")
def plugin() -> Iterator[None]:
    found = FoundEntryPoint(
        group="chameleon_core", name="acme", value="acme_guesses:plugin", distribution="acme-guesses", version="0.3"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "acme_guesses", SimpleNamespace(plugin=Plugin()))
        patch.setattr(plugins, "entry_points", lambda prefix: [found])
        REGISTRY.reload()
        yield
    REGISTRY.reload()


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request of any modality, greedy or sampled, guided or not, with processors that have a state."""
    prompt = [40 + place * 5 % 24 for place in range(draw(st.integers(1, 6)))]
    modality = draw(st.sampled_from(["text", "image", "interleaved"]))
    if modality != "text" and draw(st.booleans()):
        prompt += [BEGIN, *CODES[: draw(st.integers(0, 16))]]
    options: dict[str, Any] = {"modality": modality, "max_new_tokens": draw(st.integers(18, 40))}
    if draw(st.booleans()):
        options |= {"do_sample": True, "temperature": 2.0, "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        options |= {"guidance_text": 3.0, "guidance_image": draw(st.sampled_from([1.0, 1.2]))}
    if draw(st.booleans()):
        options |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "top_k": 20, "min_new_tokens": 6}
    if draw(st.booleans()):
        options |= {"stop_ids": (45, 47), "forbidden_ids": (50, CODES[3])}
    return Request(prompt=prompt, options=GenerationOptions(**options), index=draw(st.integers(0, 3)))


@pytest.mark.usefixtures("plugin")
class TestGuesses:
    @given(st.lists(requests(), min_size=1, max_size=4), st.integers(0, 2**32), st.floats(0, 1))
    @settings(max_examples=40, deadline=None)
    def test_no_guess_changes_an_id(self, asked: list[Request], chance: int, knowing: float) -> None:
        """Whatever is guessed, right or wrong: ids that can't come, text in pictures, codes in text, far too many."""
        plain, passes = run(DOUBLE, asked)
        truth = [[*request.prompt, *ids] for request, ids in zip(asked, plain, strict=True)]
        random = Random(chance)

        def guesses(row: GuessView) -> list[int]:
            right = next(ids for ids in truth if tuple(ids[: len(row.ids)]) == row.ids)[len(row.ids) :]
            known = [each if random.random() < knowing else random.randrange(64) for each in right]
            return known[: random.randint(0, 20)] + random.choices(range(64), k=random.randint(0, 60))

        Acme.guesses = staticmethod(guesses)
        engine_options = {
            "max_rows": random.choice([None, 1, 2]),
            "max_positions": random.choice([None, 400]),
            "prompt_chunk": random.choice([None, 2]),
            "prefix_positions": random.choice([0, 100]),
        }
        guessed, fewer = run(DOUBLE, [decoded(request, "acme") for request in asked], **engine_options)
        assert guessed == plain
        if engine_options["max_rows"] is engine_options["prompt_chunk"] is engine_options["max_positions"] is None:
            assert fewer <= passes

    def test_right_guesses_are_all_taken(self) -> None:
        request = Request(prompt=[0, 40], options=GenerationOptions(modality="image", guidance_text=2.0))
        (ids,), passes = run(DOUBLE, [request])
        Acme.guesses = staticmethod(lambda row: ids[len(row.ids) - 2 : -1])
        guessed, fewer = run(DOUBLE, [decoded(request, "acme")])
        assert guessed == [ids]
        assert (passes, fewer) == (16, 1)

    @pytest.mark.parametrize(
        ("guessed", "message"),
        [
            (None, "returned None from guess; expected a list of ids"),
            (7, "returned 7 from guess"),
            ({7}, "returned a set from guess"),
            pytest.param(iter([7]), "returned a list_iterator from guess", id="an iterator"),
            (torch.tensor([7]), "returned a Tensor from guess"),
            ([7.0], r"guessed 7\.0; expected ids, integers from 0 to 63"),
            ([True], "guessed True; expected ids"),
            ("ab", "guessed 'a'; expected ids"),
            ([8, -1], "guessed -1; expected ids"),
            ([64], "guessed 64; expected ids"),
            ([10**30], "guessed 10000"),
        ],
        ids=str,
    )
    def test_what_is_no_list_of_ids_names_the_plugin(self, guessed: Any, message: str) -> None:
        Acme.guesses = staticmethod(lambda row: guessed)
        for modality in ("text", "image"):
            with pytest.raises(BrokenPluginError, match=rf"'acme' of acme-guesses 0.3 {message}"):
                run(DOUBLE, [Request(prompt=[0, 40], options=options(modality, "acme"))])

    def test_only_the_rows_of_a_broken_plugin_end(self) -> None:
        Acme.guesses = staticmethod(lambda row: None)
        engine = Engine(DOUBLE)
        broken, fine = (
            engine.submit(Request(prompt=[0, 40], options=options("image", name))) for name in ("acme", "jacobi")
        )
        list(engine.run())
        assert broken.finish_reason == "error"
        assert broken.new_ids == [BEGIN]
        assert fine.finish_reason == "stop"
        assert engine.cache.positions == 0

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("make", "failed, calling its factory: SystemExit: make"),
            ("start", "failed, starting a row: KeyError: 'start'"),
            ("half", "returned a SimpleNamespace from start, without a method guess"),
            ("observe", "failed, observing what was chosen: ValueError: observe"),
        ],
    )
    def test_what_goes_wrong_elsewhere_names_the_plugin(self, how: str, message: str) -> None:
        Acme.guesses = staticmethod(lambda row: ())
        with pytest.raises(BrokenPluginError, match=rf"'acme' of acme-guesses 0.3 {message}"):
            run(DOUBLE, [Request(prompt=[0, 40], options=options("image", {"name": "acme", "how": how}))])

    def test_a_strategy_without_start_or_that_refuses_a_row_says_so(self) -> None:
        with pytest.raises(BrokenPluginError, match=r"'acme-none' of acme-guesses 0.3 returned an object without"):
            run(DOUBLE, [Request(prompt=[0, 40], options=options("image", "acme-none"))])
        with pytest.raises(GenerationError, match=r"'acme-picky' .* can't be used here: it writes no image\."):
            run(DOUBLE, [Request(prompt=[0, 40], options=options("image", "acme-picky"))])


def options(modality: Any, decoding: Any) -> GenerationOptions:
    return GenerationOptions(modality=modality, max_new_tokens=20, decoding=decoding)


class TestOptions:
    @pytest.mark.parametrize(
        ("decoding", "message"),
        [
            ("", "GenerationOptions.decoding takes a name, or a mapping"),
            ({"window": 3}, "GenerationOptions.decoding takes a name, or a mapping"),
            ({"name": "jacobi", "window": {1}}, "can't be written as JSON"),
            (3, "decoding"),
        ],
        ids=str,
    )
    def test_what_names_no_strategy_is_refused_at_once(self, decoding: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            GenerationOptions(decoding=decoding)

    @pytest.mark.parametrize(
        ("decoding", "message"),
        [
            ({"name": "jacobi", "windw": 3}, "the decoding strategy 'jacobi' has no option 'windw'.*'window'"),
            ({"name": "jacobi", "window": 0}, "window of the decoding strategy 'jacobi' must be an integer"),
            ({"name": "jacobi", "window": True}, "must be an integer"),
            ({"name": "jacobi", "adaptive": 1}, "adaptive of the decoding strategy 'jacobi' must be True or False"),
            (
                {"name": "lookup", "match": 17},
                "match of the decoding strategy 'lookup' must be an integer",
            ),
            ({"name": "plain", "window": 3}, "the decoding strategy 'plain' has no option 'window'"),
        ],
        ids=str,
    )
    def test_wrong_options_of_a_strategy_are_said_before_anything_runs(self, decoding: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Engine(DOUBLE).submit(Request(prompt=[0, 40], options=options("image", decoding)))

    def test_an_unknown_name_gets_the_closest_one(self) -> None:
        with pytest.raises(UnknownPluginError, match=r"no decoding strategy named 'jacoby'.*Did you mean 'jacobi'\?"):
            Engine(DOUBLE).submit(Request(prompt=[0, 40], options=options("image", "jacoby")))

    @pytest.mark.parametrize("decoding", ["jacobi", {"name": "jacobi", "window": 8}], ids=str)
    def test_it_is_written_and_read_again(self, decoding: Any) -> None:
        written = GenerationOptions(decoding=decoding).to_file_dict(CONFIG)
        assert written["decoding"] == decoding
        assert GenerationOptions.from_file_dict(written, CONFIG).decoding == decoding
        assert "decoding" not in GenerationOptions().to_file_dict(CONFIG)
