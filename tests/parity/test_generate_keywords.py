"""``generate`` keyword by keyword: the same greedy ids as transformers, the same distribution of sampled ones.

Each keyword is tried on a model whose ids are all text, and on one with the specials and codes of a vocabulary.

Shapes: B batch, T length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from chameleon_core.generation import foreign_fields
from chameleon_core.testing import make_vocabulary, pad_rows

EOS, PAD, STEPS = 2, 1, 12
KINDS: dict[str, dict[str, Any]] = {
    "no vocabulary": {"vocab_size": 512, "vocabulary_map": {"<image>": 8}},
    "a vocabulary": {"vocab_size": 512, "vocabulary_map": make_vocabulary(size=512)},
}
PROMPT, BATCH = [[0, 140, 141, 142, 143, 144]], [[0, 140, 141, 142, 143, 144], [161, 323, 400]]


@pytest.fixture(scope="module", params=KINDS)
def pair(make_pair: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return double_pair(make_pair, **KINDS[request.param])


def double_pair(make_pair: Callable[..., Any], **fields: Any) -> Any:
    """A pair in float64; the peer needs a vocabulary where this side needs none."""
    found = make_pair(**fields)
    if "<s>" not in fields["vocabulary_map"]:
        found.ours.config = found.ours.model.config = found.ours.config.replace(vocabulary_map=None)
    found.ours.double()
    found.theirs.double()
    return found


def specials(pair: Any) -> list[int]:
    """The specials that text may not hold here; the peer forbids only codes by itself."""
    return [] if pair.ours.config.vocabulary_map is None else sorted(pair.ours.layout.special_ids - {EOS})


def theirs(pair: Any, rows: list[list[int]], **keywords: Any) -> Any:
    """What the peer writes where text may hold what it may here."""
    input_ids, mask = pad_rows(rows)
    suppressed = sorted({*specials(pair), *(keywords.pop("suppress_tokens", None) or ())})
    if suppressed:
        keywords["suppress_tokens"] = suppressed
    return pair.theirs.generate(**{"input_ids": input_ids, "attention_mask": mask, "pad_token_id": PAD, **keywords})


def ours(pair: Any, rows: list[list[int]], **keywords: Any) -> Any:
    input_ids, mask = pad_rows(rows)
    return pair.ours.generate(**{"input_ids": input_ids, "attention_mask": mask, "pad_token_id": PAD, **keywords})


def plus_one_for_even_ids(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that depends on the length and on the last id."""
    changed = scores.clone()
    changed[:, ::2] += 0.02 * (input_ids.shape[1] % 3)
    changed[torch.arange(len(scores)), input_ids[:, -1]] -= 0.5
    return changed


def allowed(row: int, ids: Tensor) -> list[int]:
    return [200 + (3 * row + len(ids)) % 17, 231, 260 + row]


def ends_after_a_multiple_of_five(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
    return input_ids[:, -1] % 5 == 0


KEYWORDS: dict[str, dict[str, Any]] = {
    "max_length": {"max_length": 14},
    "max_new_tokens over max_length": {"max_length": 7, "max_new_tokens": STEPS},
    "min_length": {"max_length": 16, "min_length": 12, "eos_token_id": [EOS, 231]},
    "min_new_tokens": {"max_new_tokens": STEPS, "min_new_tokens": 9, "eos_token_id": [EOS, 231]},
    "eos_token_id": {"max_new_tokens": 40, "eos_token_id": 231},
    "eos_token_id as a list": {"max_new_tokens": 40, "eos_token_id": [300, 301, 302, 303, 304, 305, 231]},
    "eos_token_id as a tensor": {"max_new_tokens": 40, "eos_token_id": torch.tensor([300, 231])},
    "no eos_token_id": {"max_new_tokens": STEPS, "eos_token_id": None},
    "pad_token_id": {"max_new_tokens": 40, "eos_token_id": [*range(130, 420, 3)], "pad_token_id": 5},
    "num_beams of 1": {"max_new_tokens": STEPS, "num_beams": 1, "num_return_sequences": 1, "length_penalty": 1.0},
    "neutral values": {
        "max_new_tokens": STEPS,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "typical_p": None,
        "do_sample": None,
        "repetition_penalty": None,
        "no_repeat_ngram_size": None,
        "suppress_tokens": None,
        "renormalize_logits": True,
        "remove_invalid_values": False,
        "early_stopping": False,
        "synced_gpus": False,
        "diversity_penalty": 0.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    },
    "num_beams": {"max_new_tokens": STEPS, "num_beams": 3},
    "beams that end early": {
        "max_new_tokens": 20,
        "num_beams": 3,
        "eos_token_id": [EOS, *range(100, 140)],
        "length_penalty": 0.6,
        "early_stopping": True,
    },
    "several of num_beams": {"max_new_tokens": 6, "num_beams": 4, "num_return_sequences": 3},
    "constrained beams": {"max_new_tokens": 6, "num_beams": 3, "prefix_allowed_tokens_fn": allowed},
    "beams with a logits_processor": {
        "max_new_tokens": 6,
        "num_beams": 3,
        "logits_processor": [plus_one_for_even_ids],
    },
    "repetition_penalty": {"max_new_tokens": STEPS, "repetition_penalty": 1.3},
    "no_repeat_ngram_size": {"max_new_tokens": 30, "no_repeat_ngram_size": 2},
    "bad_words_ids": {"max_new_tokens": STEPS, "bad_words_ids": [[231], [300, 301], [EOS]]},
    "suppress_tokens": {"max_new_tokens": STEPS, "suppress_tokens": [*range(130, 420, 2)]},
    "begin_suppress_tokens": {"max_new_tokens": STEPS, "begin_suppress_tokens": [*range(200, 512)]},
    "forced_eos_token_id": {"max_new_tokens": STEPS, "forced_eos_token_id": EOS},
    "sequence_bias": {"max_new_tokens": STEPS, "sequence_bias": {(231,): 0.3, (300,): -5.0, (231, 232): 4.0}},
    "a listed sequence_bias": {"max_new_tokens": STEPS, "sequence_bias": [[[231], 0.3], [[231, 232], 4.0]]},
    "sequence_bias before repetition_penalty": {
        "max_new_tokens": STEPS,
        "sequence_bias": {(231,): 1.0, (232,): 1.0},
        "repetition_penalty": 1.4,
    },
    "exponential_decay_length_penalty": {
        "max_new_tokens": 30,
        "exponential_decay_length_penalty": (3, 1.6),
        "eos_token_id": [EOS, 231, 232, 233],
    },
    "guidance_scale": {"max_new_tokens": STEPS, "guidance_scale": 1.7},
    "logits_processor": {"max_new_tokens": STEPS, "logits_processor": [plus_one_for_even_ids]},
    "a LogitsProcessorList": {
        "max_new_tokens": STEPS,
        "logits_processor": transformers.LogitsProcessorList(
            [plus_one_for_even_ids, transformers.MinNewTokensLengthLogitsProcessor(6, 3, EOS)]
        ),
    },
    "stopping_criteria": {"max_new_tokens": 30, "stopping_criteria": [ends_after_a_multiple_of_five]},
    "a StoppingCriteriaList": {
        "max_new_tokens": 30,
        "stopping_criteria": transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(11)]),
    },
    "prefix_allowed_tokens_fn": {"max_new_tokens": STEPS, "prefix_allowed_tokens_fn": allowed},
    "use_cache": {"max_new_tokens": STEPS, "use_cache": True},
    "no use_cache": {"max_new_tokens": STEPS, "use_cache": False},
    "prompt_lookup_num_tokens": {"max_new_tokens": STEPS, "prompt_lookup_num_tokens": 3},
    "watermarking_config": {
        "max_new_tokens": STEPS,
        "watermarking_config": transformers.WatermarkingConfig(bias=0.5, greenlist_ratio=0.4),
    },
    "prefill_chunk_size": {"max_new_tokens": STEPS, "prefill_chunk_size": 2},
    "a GenerationConfig": {
        "generation_config": transformers.GenerationConfig(max_new_tokens=STEPS, repetition_penalty=1.2)
    },
    "a GenerationConfig below keywords": {
        "generation_config": transformers.GenerationConfig(max_new_tokens=4, repetition_penalty=1.2),
        "max_new_tokens": STEPS,
    },
}
ONE_ROW = {"prompt_lookup_num_tokens"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KEYWORDS)
def test_greedy_ids_are_those_of_transformers(pair: Any, name: str) -> None:
    keywords = KEYWORDS[name]
    for rows in (PROMPT,) if name in ONE_ROW else (PROMPT, BATCH):
        expected = theirs(pair, rows, **keywords)
        assert ours(pair, rows, **keywords).tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore")
def test_the_keywords_change_something(pair: Any) -> None:
    plain = ours(pair, BATCH, max_new_tokens=STEPS).tolist()
    changed = [name for name in KEYWORDS if ours(pair, BATCH, **KEYWORDS[name]).tolist() != plain]
    assert len(changed) >= 20


def test_every_field_of_a_generation_config_is_known() -> None:
    fields = set(transformers.GenerationConfig().to_dict())
    known = [
        foreign_fields.SAME,
        foreign_fields.TRANSLATED,
        foreign_fields.OF_THE_CALL,
        foreign_fields.REFUSED,
        foreign_fields.ABOUT_THE_FILE,
    ]
    assert fields <= set().union(*known)
    assert sum(map(len, known)) == len(set().union(*known))


def test_the_defaults_of_transformers_mean_what_happens_anyway() -> None:
    defaults = transformers.GenerationConfig._get_default_generation_params()
    for name in defaults.keys() & foreign_fields.REFUSED.keys():
        assert foreign_fields.is_neutral(name, defaults[name]), name


@pytest.mark.filterwarnings("ignore")
def test_embeddings_in_the_place_of_ids(pair: Any) -> None:
    input_ids, mask = pad_rows(BATCH)
    embeds = pair.ours.get_input_embeddings()(input_ids).detach()
    keywords = {"attention_mask": mask, "max_new_tokens": STEPS, "pad_token_id": PAD}
    if specials(pair):
        expected = pair.theirs.generate(inputs_embeds=embeds, suppress_tokens=specials(pair), **keywords)
    else:
        expected = pair.theirs.generate(inputs_embeds=embeds, **keywords)
    assert pair.ours.generate(inputs_embeds=embeds, **keywords).tolist() == expected.tolist()
    assert pair.ours.generate(inputs_embeds=embeds, max_length=12, attention_mask=mask).shape[1] == 6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flags", [{}, {"repetition_penalty": 1.3, "renormalize_logits": True}], ids=["", "processed"])
def test_what_return_dict_in_generate_returns(pair: Any, flags: dict[str, Any]) -> None:
    asked = {"return_dict_in_generate": True}
    asked |= {f"output_{name}": True for name in ("scores", "logits", "hidden_states")}
    own = ours(pair, BATCH, max_new_tokens=5, **asked, **flags)
    other = theirs(pair, BATCH, max_new_tokens=5, **asked, **flags)
    assert own.sequences.tolist() == other.sequences.tolist()
    assert list(own.keys()) == list(other.keys())
    for one, two in zip(own.logits, other.logits, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    for one, two in zip(own.scores, other.scores, strict=True):
        open_BV = one.isfinite()
        if not flags:
            torch.testing.assert_close(one[open_BV], two[open_BV], rtol=1e-5, atol=1e-5)
        assert one.argmax(dim=-1).tolist() == two.argmax(dim=-1).tolist()
    _, mask = pad_rows(BATCH)
    for step, (one, two) in enumerate(zip(own.hidden_states, other.hidden_states, strict=True)):
        for layer, layer_of_theirs in zip(one, two, strict=True):
            real = torch.ones(len(mask), 1, dtype=torch.bool) if step else mask.bool()
            torch.testing.assert_close(layer[real], layer_of_theirs[real], rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_attention_weights_of_each_step(make_pair: Callable[..., Any]) -> None:
    for kind in KINDS.values():
        pair = double_pair(make_pair, **kind, attn_implementation="eager")
        asked = {"return_dict_in_generate": True, "output_attentions": True, "max_new_tokens": 5}
        own, other = ours(pair, PROMPT, **asked), theirs(pair, PROMPT, **asked)
        for one, two in zip(own.attentions, other.attentions, strict=True):
            for layer, layer_of_theirs in zip(one, two, strict=True):
                torch.testing.assert_close(layer, layer_of_theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_scores_of_beams(pair: Any) -> None:
    asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
    asked |= {"return_dict_in_generate": True, "output_scores": True}
    own, other = ours(pair, BATCH, **asked), theirs(pair, BATCH, **asked)
    assert own.sequences.tolist() == other.sequences.tolist()
    if not specials(pair):  # a probability there is among all ids, also those that may not come
        torch.testing.assert_close(own.sequences_scores, other.sequences_scores, rtol=1e-4, atol=1e-4)


class Recorded:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.put_values: list[list[Any]] = []

    def put(self, value: Tensor) -> None:
        self.put_values.append(value.tolist())

    def end(self) -> None:
        self.put_values.append([])


def test_a_streamer_is_given_what_transformers_gives_it(pair: Any) -> None:
    own, other = Recorded(), Recorded()
    ours(pair, BATCH, max_new_tokens=STEPS, streamer=own)
    theirs(pair, BATCH, max_new_tokens=STEPS, streamer=other)
    assert own.put_values == other.put_values


class Letters:
    """A tokenizer whose ids are characters."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(" " if each % 7 == 0 else chr(97 + each % 26) for each in ids)


def test_their_text_streamers(pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    streamer = transformers.TextStreamer(Letters(), skip_prompt=True)  # type: ignore[arg-type]
    ids = ours(pair, PROMPT, max_new_tokens=STEPS, streamer=streamer)
    assert capsys.readouterr().out == Letters().decode(ids[0, len(PROMPT[0]) :].tolist()) + "\n"
    iterated = transformers.TextIteratorStreamer(Letters(), skip_prompt=True, timeout=5)  # type: ignore[arg-type]
    ours(pair, PROMPT, max_new_tokens=STEPS, streamer=iterated)
    assert "".join(iterated) == Letters().decode(ids[0, len(PROMPT[0]) :].tolist())
    with pytest.raises(ValueError, match="only supports batch size 1"):
        ours(pair, BATCH, max_new_tokens=STEPS, streamer=streamer)


SAMPLED: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "temperature": {"top_k": 0, "temperature": 0.5},
    "top_k": {"top_k": 4},
    "top_p": {"top_k": 0, "top_p": 0.6},
    "min_p": {"top_k": 0, "min_p": 0.4},
    "typical_p": {"top_k": 0, "typical_p": 0.5},
    "epsilon_cutoff": {"top_k": 0, "epsilon_cutoff": 0.07},
    "eta_cutoff": {"top_k": 0, "eta_cutoff": 0.3},
    "top_h": {"top_k": 0, "top_h": 0.6},
    "all": {"temperature": 0.8, "top_k": 9, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
}
DRAWS = 4000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_ids_have_the_distribution_of_transformers(make_pair: Callable[..., Any], name: str) -> None:
    """The chi-squared statistic of one step's draws against the probabilities of the peer's processed scores."""
    pair = double_pair(make_pair, vocab_size=24, vocabulary_map={"<image>": 8}, initializer_range=0.35)
    prompt = torch.tensor([[0, 7, 9]])
    shared = {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": DRAWS, "eos_token_id": None}
    drawn = pair.ours.generate(prompt, seed=5, **shared, **SAMPLED[name])[:, -1]
    scores = pair.theirs.generate(
        prompt,
        do_sample=True,
        max_new_tokens=1,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **SAMPLED[name],
    ).scores[0][0]
    expected = scores.softmax(dim=-1) * DRAWS
    counts = torch.bincount(drawn, minlength=24).double()
    assert counts[expected == 0].sum() == 0
    likely = expected >= 5
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    # Five standard deviations above the mean of the statistic.
    degrees = int(likely.sum())
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.filterwarnings("ignore")
def test_each_return_sequence_is_drawn_by_itself(pair: Any) -> None:
    sampled = ours(pair, BATCH, do_sample=True, num_return_sequences=3, max_new_tokens=STEPS, seed=1)
    assert sampled.shape == (6, 6 + STEPS)
    assert len({tuple(row) for row in sampled.tolist()}) == 6
    assert sampled[:, :6].tolist() == [row for row in pad_rows(BATCH)[0].tolist() for _ in range(3)]
    for side in (ours, theirs):
        with pytest.raises(ValueError, match="num_return_sequences"):
            side(pair, BATCH, num_return_sequences=3, max_new_tokens=STEPS)
