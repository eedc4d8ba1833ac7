"""What holds for every configuration and every batch.

A row's logits are the same number whatever it is computed beside, up to rounding: other shapes let a matrix product
add up in another order. So logits are compared within ``ROUNDING``, and ids only where the likeliest leads by more than
``MARGIN``, beyond which rounding can't change the choice.

Shapes: B batch, T length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, GenerationOptions
from chameleon_core.generation import choosing
from chameleon_core.generation import rows as rows_module
from chameleon_core.generation.noise import gumbel_noise
from chameleon_core.testing import batches, configs, make_config, make_model, pad_rows, text_ids

# Two layers of sums over 32 to 48 products in float32 (machine epsilon 1.2e-7), on logits of up to about 10.
ROUNDING = {"rtol": 0.0, "atol": 5e-5}
MARGIN = 2 * ROUNDING["atol"]

MODEL = make_model()
LAYOUT = MODEL.layout
Side = Literal["left", "right"]


@torch.no_grad()
def row_logits(
    model: ChameleonForConditionalGeneration, rows: Sequence[Sequence[int]], side: Side = "left"
) -> list[Tensor]:
    """The logits [T, V] of each row's own positions."""
    input_ids, mask = pad_rows(rows, side)
    logits_BTV = model(input_ids, attention_mask=mask).logits
    return [logits_TV[real] for logits_TV, real in zip(logits_BTV, mask.bool(), strict=True)]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)


@given(configs(), st.data(), st.integers(0, 3))
def test_the_rest_of_the_batch_and_padding_never_change_a_rows_logits(
    config: ChameleonConfig, data: st.DataObject, seed: int
) -> None:
    model = make_model(config, seed=seed)
    rows = data.draw(batches(config))
    alone = [row_logits(model, [row])[0] for row in rows]
    assert_same(row_logits(model, rows, "left"), alone)
    assert_same(row_logits(model, rows, "right"), alone)


@given(configs(), st.data())
def test_what_padding_holds_never_matters(config: ChameleonConfig, data: st.DataObject) -> None:
    model = make_model(config)
    rows = data.draw(batches(config))
    side = data.draw(st.sampled_from(["left", "right"]))
    input_ids, mask = pad_rows(rows, side)
    other = torch.where(mask.bool(), input_ids, data.draw(text_ids(config)))
    with torch.no_grad():
        found, expected = (model(ids, attention_mask=mask).logits[mask.bool()] for ids in (input_ids, other))
    torch.testing.assert_close(found, expected, **ROUNDING)


@given(configs(), st.data())
def test_future_tokens_never_change_past_logits(config: ChameleonConfig, data: st.DataObject) -> None:
    model = make_model(config)
    row = data.draw(st.lists(text_ids(config), min_size=2, max_size=16))
    cut = data.draw(st.integers(1, len(row) - 1))
    (whole,), (start,) = row_logits(model, [row]), row_logits(model, [row[:cut]])
    torch.testing.assert_close(whole[:cut], start, **ROUNDING)


@given(configs(), st.data())
def test_cached_logits_are_the_uncached_ones_however_the_row_is_cut(
    config: ChameleonConfig, data: st.DataObject
) -> None:
    model = make_model(config)
    rows = data.draw(batches(config, max_length=10))
    input_ids, mask = pad_rows(rows)
    width = input_ids.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, width))) | {width})
    cache = model.model.new_cache(len(rows), capacity=data.draw(st.integers(1, 16)))
    pieces = []
    with torch.no_grad():
        for start, end in zip([0, *cuts], cuts, strict=False):
            pieces.append(model(input_ids[:, start:end], attention_mask=mask[:, :end], cache=cache).logits)
        whole = model(input_ids, attention_mask=mask).logits
    found = torch.cat(pieces, dim=1)
    torch.testing.assert_close(found[mask.bool()], whole[mask.bool()], **ROUNDING)


@given(configs(), st.data())
def test_packed_documents_are_the_same_as_apart(config: ChameleonConfig, data: st.DataObject) -> None:
    model = make_model(config)
    documents = data.draw(batches(config))
    packed = torch.tensor([[token_id for document in documents for token_id in document]])
    lengths = torch.tensor([len(document) for document in documents])
    owners = torch.repeat_interleave(torch.arange(len(documents)), lengths)[None]
    with torch.no_grad():
        logits_TV = model(packed, document_ids=owners).logits[0]
    assert_same(logits_TV.split(lengths.tolist()), [row_logits(model, [document])[0] for document in documents])


@given(configs(), st.data())
def test_lanes_may_leave_and_join_a_cache_in_any_order(config: ChameleonConfig, data: st.DataObject) -> None:
    """Rows in two caches of different lengths, joined, thinned out and fed on, are rows that were never apart."""
    model = make_model(config)
    rows = data.draw(batches(config))
    others = data.draw(batches(config))
    caches = []
    with torch.no_grad():
        for batch in (rows, others):
            cache = model.model.new_cache(len(batch), capacity=1)
            ids_BT, mask_BT = pad_rows(batch)
            model(ids_BT, attention_mask=mask_BT, cache=cache)
            caches.append(cache)
        joined, other = caches
        joined.extend(other)
        everyone = [*rows, *others]
        kept = data.draw(st.lists(st.sampled_from(range(len(everyone))), min_size=1, max_size=4, unique=True))
        joined.select(kept)
        next_id = data.draw(text_ids(config))
        found = model(torch.full((len(kept), 1), next_id), cache=joined).logits[:, 0]
    expected = [row_logits(model, [[*everyone[place], next_id]])[0][-1] for place in kept]
    assert_same(list(found), expected)


def leads_of(ids: Sequence[int], prompt_length: int, options: GenerationOptions) -> list[float]:
    """At each new id, by how much the chosen one leads in logits over the rest of what was allowed.

    Allowed ids are found again by walking the row's states, so that nothing of the engine is trusted.
    """
    row = rows_module.start_row(
        0,
        ids[:prompt_length],
        options,
        layout=LAYOUT,
        context_length=MODEL.config.context_length,
        stop_ids=frozenset({LAYOUT.eos_id}),
    )
    (logits_TV,) = row_logits(MODEL, [list(ids)])
    leads = []
    for place in range(prompt_length, len(ids)):
        logits_V = logits_TV[place - 1]
        allowed_V = torch.zeros(LAYOUT.vocab_size, dtype=torch.bool)
        if row.forced_id is not None:
            allowed_V[row.forced_id] = True
        elif row.wants_code:
            allowed_V[LAYOUT.code_to_id_Z] = True
        else:
            allowed_V |= LAYOUT.text_allowed_V
            allowed_V[LAYOUT.eos_id] = True
            allowed_V[LAYOUT.begin_image_id] = row.may_begin(LAYOUT.begin_image_id)
        assert allowed_V[ids[place]], "an id that the row's state forbids"
        allowed_V[ids[place]] = False
        leads.append(float(logits_V[ids[place]] - logits_V.masked_fill(~allowed_V, -torch.inf).max()))
        row.accept(ids[place])
    return leads


def written(rows: Sequence[Sequence[int]], options: GenerationOptions) -> list[list[int]]:
    """What each row wrote, up to its end."""
    new: list[list[int]] = [[] for _ in rows]
    for step in MODEL.stream_ids(*pad_rows(rows), options=options):
        for row, token_id in zip(new, step.ids, strict=True):
            if token_id is not None:
                row.append(token_id)
    return new


modalities = st.sampled_from(["text", "image", "interleaved"])


@given(batches(make_config()), modalities)
def test_greedy_ids_are_the_likeliest_allowed_ones_in_any_batch(
    rows: list[list[int]], modality: Literal["text", "image", "interleaved"]
) -> None:
    options = GenerationOptions(modality=modality, max_new_tokens=16)
    for row, new in zip(rows, written(rows, options), strict=True):
        # A chosen id may trail another by rounding, never by more.
        assert min(leads_of([*row, *new], len(row), options)) > -MARGIN


@given(batches(make_config()), modalities)
def test_the_rest_of_the_batch_never_changes_greedy_ids_above_the_margin(
    rows: list[list[int]], modality: Literal["text", "image", "interleaved"]
) -> None:
    options = GenerationOptions(modality=modality, max_new_tokens=16)
    together = written(rows, options)
    for row, new in zip(rows, together, strict=True):
        (alone,) = written([row], options)
        leads = leads_of([*row, *alone], len(row), options)
        decided = next((place for place, lead in enumerate(leads) if lead <= MARGIN), len(leads))
        assert new[:decided] == alone[:decided]


@given(batches(make_config(), max_rows=3), st.data(), st.integers(0, 2**64), modalities)
@settings(max_examples=15)
def test_the_rest_of_the_batch_never_changes_a_sampled_rows_ids(
    rows: list[list[int]], data: st.DataObject, seed: int, modality: Literal["text", "image", "interleaved"]
) -> None:
    """A row draws by its index and the seed, so the others, whatever they are and write, leave its ids alone.

    Except where two ids with their noise are equal within rounding: those examples say nothing.
    """
    options = GenerationOptions(modality=modality, max_new_tokens=10, do_sample=True, temperature=2.0, seed=seed)
    place = data.draw(st.integers(0, len(rows) - 1))
    others = data.draw(st.lists(st.lists(text_ids(MODEL.config), min_size=1), min_size=len(rows), max_size=len(rows)))
    others[place] = rows[place]
    with BorderWatch() as watch:
        first = written(rows, options)[place]
    assume(watch.nearest > MARGIN)
    assert written(others, options)[place] == first


class BorderWatch:
    """Watches by how much the choice with its noise leads at any time."""

    def __enter__(self) -> BorderWatch:
        self.nearest = float("inf")
        self._choose_sampled = choosing.choose_sampled
        choosing.choose_sampled = self._watched
        return self

    def __exit__(self, *_: object) -> None:
        choosing.choose_sampled = self._choose_sampled

    def _watched(self, logits_RA: Tensor, ids_A: Tensor, keys_R: Tensor) -> Tensor:
        first, second = (logits_RA + gumbel_noise(keys_R, ids_A)).topk(2, dim=-1).values.T
        self.nearest = min(self.nearest, float((first - second).min()))
        return self._choose_sampled(logits_RA, ids_A, keys_R)


def test_rounding_leaves_most_choices_decided() -> None:
    """The laws above aren't empty: the leads of this model are far above the margin."""
    options = GenerationOptions(max_new_tokens=40)
    (new,) = written([[40, 41]], options)
    leads = sorted(leads_of([40, 41, *new], 2, options))
    assert leads[len(leads) // 10] > 10 * MARGIN
