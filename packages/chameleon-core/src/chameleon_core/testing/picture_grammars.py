"""The tests that every picture grammar passes: inherit the class, name the grammar and run pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_backends.plugins import PluginSpec

from ..hookspecs import HOOK_API_VERSION
from ..layout import TokenLayout
from ..picture_format import PictureFormat, picture_format
from ..picture_grammars import GrammarContext, Grid, OpenPicture
from ..registry import PICTURE_GRAMMARS_HOOK, REGISTRY
from .conformance import Conformance
from .models import make_config, make_vocabulary

LAW = settings(max_examples=40, deadline=None, derandomize=True, database=None, report_multiple_bugs=False)
SIZE = 64
MOST_GRIDS = 12
"""Where a grammar has more grids than this, so many are written and read."""


class Written(NamedTuple):
    """One id of a picture, and the state before it."""

    picture: OpenPicture
    token_id: int


class PictureGrammarConformance(Conformance):
    """The contract of ``PictureGrammar``, as tests.

    A subclass says which grammar it tests: its name, its options and the names that it needs of a vocabulary::

        class TestAcme(PictureGrammarConformance):
            name = "acme"
            more_specials = ("<row>", "</row>")

    The grammar is looked up as a model would, so its plugin must be installed.
    """

    name: ClassVar[str]
    """The name that the grammar under test is registered under."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The grammar's own options."""
    more_specials: ClassVar[Sequence[str]] = ()
    """Special tokens that it needs besides those of every vocabulary."""

    @pytest.fixture
    def spec(self) -> PluginSpec:
        """The spec that the hook returned."""
        return REGISTRY.get(PICTURE_GRAMMARS_HOOK, self.name)

    @pytest.fixture
    def context(self) -> GrammarContext:
        """A vocabulary of 16 codes with ``more_specials``, and an image tokenizer of 4×4 codes a picture."""
        return make_context(self.more_specials)

    @pytest.fixture
    def pictures(self, context: GrammarContext) -> PictureFormat:
        """The pictures of the grammar under test."""
        return picture_format({"name": self.name, **self.options}, context)

    # How it is registered.

    def test_the_spec_says_what_it_is_and_for_which_hooks(self, spec: PluginSpec) -> None:
        assert spec.api_version == HOOK_API_VERSION
        assert spec.summary, "the spec has no summary for the listing"

    def test_it_can_run_here(self, spec: PluginSpec, context: GrammarContext) -> None:
        assert spec.why_unavailable() is None, "the suite runs where the grammar can"
        assert spec.why_unsupported(context) is None, "it refuses a vocabulary with the names of more_specials"

    def test_a_vocabulary_without_its_names_is_refused_by_a_sentence(self, spec: PluginSpec) -> None:
        if not self.more_specials:
            pytest.skip("it needs no names besides those of every vocabulary")
        reason = spec.why_unsupported(make_context())
        assert reason is not None, "the vocabulary lacks its names, and unsupported() doesn't say so"
        assert reason.strip()

    # What it says of itself.

    def test_grids_are_distinct_and_have_positions(self, pictures: PictureFormat) -> None:
        assert pictures.grids, "it has no grid"
        assert len(set(pictures.grids)) == len(pictures.grids), "a grid is there twice"
        assert all(min(grid) >= 1 for grid in pictures.grids)

    def test_markers_are_ids_that_nothing_else_is(self, pictures: PictureFormat, context: GrammarContext) -> None:
        layout = TokenLayout.from_vocabulary_map(context.token_ids, 16)
        assert pictures.marker_ids <= set(context.token_ids.values()), "a marker that isn't in the vocabulary"
        required = {layout.bos_id, layout.eos_id, layout.pad_id, layout.separator_id, layout.placeholder_id}
        others = required | {context.begin_image_id, context.end_image_id} | set(context.code_ids)
        assert pictures.marker_ids.isdisjoint(others), "a marker that already means something"
        assert not any(layout.text_allowed_V[token_id] for token_id in pictures.marker_ids), "a marker that is text"

    def test_made_twice_it_writes_the_same(self, pictures: PictureFormat, spec: PluginSpec) -> None:
        again = PictureFormat(spec.make(pictures.context, **self.options), pictures.context)
        assert again.grids == pictures.grids
        for grid in _some(pictures.grids):
            codes = [0] * pictures.num_codes(grid)
            assert again.write(codes, grid) == pictures.write(codes, grid)

    # What may come.

    def test_what_may_come_is_a_code_or_one_of_some_markers(
        self, pictures: PictureFormat, context: GrammarContext
    ) -> None:
        allowed = pictures.marker_ids | {context.end_image_id}

        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            for written in _drawn(data, pictures):
                next_ids = written.picture.next_ids
                if next_ids is not None:
                    assert next_ids, "nothing may come next"
                    assert len(set(next_ids)) == len(next_ids), "an id is listed twice"
                    assert allowed.issuperset(next_ids), "an id that is neither a marker nor end-image"

        law()

    def test_a_picture_ends_with_end_image_after_its_codes(
        self, pictures: PictureFormat, context: GrammarContext
    ) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            walk = _drawn(data, pictures)
            ids = [written.token_id for written in walk]
            assert ids.index(context.end_image_id) == len(ids) - 1, "end-image isn't the last id and no other"
            grid = walk[-1].picture.grid
            assert grid in pictures.grids
            assert sum(token_id in context.code_ids for token_id in ids) == pictures.num_codes(Grid(*grid))

        law()

    def test_what_is_left_is_what_comes(self, pictures: PictureFormat, context: GrammarContext) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            walk = _drawn(data, pictures)
            grid = walk[-1].picture.grid
            for place, (picture, _) in enumerate(walk):
                left = [written.token_id for written in walk[place:]]
                codes = sum(token_id in context.code_ids for token_id in left)
                assert picture.least_ids_left <= len(left) <= picture.ids_left
                assert picture.grid in (None, grid)
                assert picture.codes_left == (None if picture.grid is None else codes)
                if picture.grid is not None:
                    assert picture.least_ids_left == picture.ids_left, "the grid is known, the number of ids isn't"

        law()

    def test_the_bounds_of_what_is_left_are_those_of_the_grids(self, pictures: PictureFormat) -> None:
        lengths = [pictures.grammar.open((grid,)).ids_left for grid in pictures.grids]
        opened = pictures.grammar.open(pictures.grids)
        assert opened.ids_left == max(lengths)
        assert opened.least_ids_left == min(lengths)

    def test_only_grids_that_were_asked_for_are_drawn(self, pictures: PictureFormat) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            grids = data.draw(st.lists(st.sampled_from(pictures.grids), min_size=1, max_size=5, unique=True))
            walk = _drawn(data, pictures, grids)
            assert walk[-1].picture.grid in grids

        law()

    def test_an_open_picture_never_changes(self, pictures: PictureFormat) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            opened = pictures.grammar.open(pictures.grids)
            before = _seen(opened)
            walk = _drawn(data, pictures, opened=opened)
            seen = [_seen(written.picture) for written in walk]
            assert seen[0] == before, "accept changed the picture"
            again: OpenPicture | None = opened
            for written, then in zip(walk, seen, strict=True):
                assert again is not None, "the same ids end the picture earlier the second time"
                assert _seen(again) == then == _seen(written.picture)
                again = again.accept(written.token_id)
            assert again is None

        law()

    # There and back.

    def test_a_picture_that_was_written_is_read_again(self, pictures: PictureFormat) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            grid = data.draw(st.sampled_from(pictures.grids))
            count = pictures.num_codes(grid)
            codes = data.draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
            ids = pictures.write(codes, grid)
            assert pictures.read([*ids, 0, 1]) == (tuple(codes), grid, len(ids))

        law()

    def test_every_grid_can_be_drawn_where_all_may(self, pictures: PictureFormat) -> None:
        for grid in _some(pictures.grids):
            picture: OpenPicture | None = pictures.grammar.open(pictures.grids)
            for token_id in pictures.write([0] * pictures.num_codes(grid), grid)[1:]:
                assert picture is not None, "the picture ends too early"
                assert pictures.may_come(picture, token_id), "what the grid alone has can't come where all grids may"
                picture = picture.accept(token_id)
            assert picture is None


def make_context(more_specials: Sequence[str] = ()) -> GrammarContext:
    """Return what a grammar is made from: 16 codes, 4×4 of them a picture, and further special tokens."""
    names = make_vocabulary(size=SIZE, more_specials=more_specials)
    config = make_config(
        vocab_size=len(names), vocabulary_map=names, vq_config={"resolution": 8, "channel_multiplier": [1, 1]}
    )
    return TokenLayout.from_config(config).pictures.context


def _drawn(
    data: st.DataObject,
    pictures: PictureFormat,
    grids: Sequence[Grid] | None = None,
    *,
    opened: OpenPicture | None = None,
) -> list[Written]:
    """Return the ids of a picture, each drawn from what may come. Fails where it has more than it may have."""
    start = pictures.grammar.open(grids or pictures.grids) if opened is None else opened
    most = start.ids_left
    walk: list[Written] = []
    picture: OpenPicture | None = start
    while picture is not None:
        assert len(walk) < most, f"the picture has more than the {most} ids that were left"
        next_ids = picture.next_ids
        if next_ids is None:
            # Which code it is changes nothing, so one is drawn for all.
            token_id = pictures.context.code_ids[len(walk) % len(pictures.context.code_ids)]
        elif len(next_ids) == 1:
            token_id = next_ids[0]
        else:
            assert next_ids, "nothing may come next"
            token_id = data.draw(st.sampled_from(next_ids))
        walk.append(Written(picture, token_id))
        picture = picture.accept(token_id)
    return walk


def _seen(picture: OpenPicture) -> tuple[Any, ...]:
    return picture.next_ids, picture.grid, picture.codes_left, picture.ids_left, picture.least_ids_left


def _some(grids: Sequence[Grid]) -> Sequence[Grid]:
    return grids[:: max(1, len(grids) // MOST_GRIDS)]
