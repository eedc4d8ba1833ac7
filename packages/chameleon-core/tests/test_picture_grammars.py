"""Picture grammars: the built-in ones, the suite that they pass, and what the suite finds in wrong ones."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_backends import errors as backends
from chameleon_core import (
    HOOK_API_VERSION,
    BrokenPluginError,
    ChameleonConfig,
    ConfigError,
    GenerationError,
    PluginSpec,
    TokenLayout,
    UnknownPluginError,
    VocabularyError,
)
from chameleon_core.picture_format import PictureFormat, picture_format
from chameleon_core.picture_grammars import GrammarContext, Grid, RowsGrammar
from chameleon_core.picture_grammars.lumina import lumina, reserved
from chameleon_core.picture_grammars.lumina import unsupported as lumina_unsupported
from chameleon_core.registry import REGISTRY
from chameleon_core.testing import PictureGrammarConformance, make_config, make_vocabulary
from chameleon_core.testing.picture_grammars import make_context

LUMINA = tuple(reserved(8799 + number) for number in range(6))
"""The names for rows that end, and for sizes of one to four units."""


class TestChameleon(PictureGrammarConformance):
    name = "chameleon"


class TestLumina(PictureGrammarConformance):
    name = "lumina"
    options = {"max_codes": 48}
    more_specials = LUMINA


def lumina_pictures(**options: Any) -> PictureFormat:
    return picture_format({"name": "lumina", **options}, make_context(LUMINA))


# The numbers of Lumina-mGPT.


def test_lumina_writes_the_size_in_units_of_two_codes_and_ends_each_row() -> None:
    pictures = lumina_pictures()
    names = {token_id: name for name, token_id in pictures.context.token_ids.items()}
    written = pictures.write(range(8), Grid(2, 4))
    row_end = "<reserved08799>"
    assert [names[token_id] for token_id in written if token_id not in pictures.context.code_ids] == [
        "<racm3:break>",
        "<reserved08801>",
        "<reserved08802>",
        row_end,
        row_end,
        "<eoss>",
    ]
    assert [names[token_id] for token_id in written[3:9]] == [
        *("IMGIMGAZ", "IMGIMGBZ", "IMGIMGCZ", "IMGIMGDZ"),
        row_end,
        "IMGIMGEZ",
    ]


def test_lumina_has_as_many_sizes_as_the_numbers_and_the_vocabulary_allow() -> None:
    assert lumina_pictures().grids == ((2, 2), (2, 4), (2, 6), (2, 8), (4, 2), (4, 4), (6, 2), (8, 2))
    assert lumina_pictures(max_ratio=1).grids == ((2, 2), (4, 4))
    assert len(lumina_pictures(max_codes=64).grids) == 16


def test_a_model_of_the_published_size_has_pictures_of_512_by_512_pixels() -> None:
    names = make_vocabulary(more_specials=[reserved(8799 + number) for number in range(100)])
    config = make_config(vocab_size=len(names), vocabulary_map=names, vq_config=None, picture_grammar="lumina")
    pictures = TokenLayout.from_config(config).pictures
    assert pictures.grid_of_size(512, 512) == (32, 32)
    assert pictures.grid_of_size(256, 1024) == (16, 64)
    assert pictures.most_ids(Grid(32, 32)) == 1 + 2 + 32 * 33 + 1
    assert pictures.fit(300, 310) == (32, 32)
    assert pictures.fit(1000, 10) == (64, 16)
    assert pictures.fit(480, 640) == (28, 36)


# Pictures as ids.


def test_a_picture_that_is_cut_off_is_written_as_far_as_it_goes_and_read_again() -> None:
    pictures = lumina_pictures()
    for count in range(8):
        ids = pictures.write(range(count), Grid(2, 4))
        assert ids[-1] == pictures.context.end_image_id
        assert pictures.read(ids) == (tuple(range(count)), Grid(2, 4), len(ids))


def test_whatever_follows_begin_image_is_read_as_far_as_it_is_a_picture() -> None:
    pictures = lumina_pictures()
    whole = pictures.write(range(8), Grid(2, 4))
    for end in range(1, len(whole)):
        assert pictures.read([*whole[:end], 40]) == (pictures.read(whole[:end]))
        assert pictures.read(whole[:end]).end == end
    assert pictures.read(whole[:2]).grid is None


@given(st.data())
def test_any_ids_are_read_and_what_was_read_is_what_was_there(data: st.DataObject) -> None:
    pictures = lumina_pictures()
    context = pictures.context
    some = st.sampled_from([*sorted(pictures.marker_ids), *context.code_ids[:3], context.end_image_id, 40])
    whole = data.draw(st.sampled_from([pictures.write([0] * 8, Grid(2, 4)), pictures.write([2] * 4, Grid(2, 2))]))
    kept = whole[: data.draw(st.integers(1, len(whole)))]
    ids = [*kept, *data.draw(st.lists(some, max_size=12))]
    codes, grid, end = pictures.read(ids)
    assert 1 <= end <= len(ids)
    assert codes == tuple(context.code_ids.index(token_id) for token_id in ids[:end] if token_id in context.code_ids)
    if grid is not None:
        written = pictures.write(codes, grid)
        # Cut off, it ends with end-image or without, and may lack the end of a row.
        inner = [token_id for token_id in ids[:end] if token_id != context.end_image_id]
        assert written[: len(inner)] == inner or inner[: len(written) - 1] == written[:-1]


def test_positions_of_several_codes_are_written_one_after_the_other() -> None:
    config = lumina_config(vq_config={"resolution": 8, "channel_multiplier": [1, 1], "codes_per_position": 2})
    pictures = TokenLayout.from_config(config).pictures
    codes = tuple(range(16))
    ids = pictures.write(codes, Grid(2, 4))
    assert ids[3:11] == [pictures.context.code_ids[code] for code in codes[:8]]
    assert pictures.read(ids) == (codes, Grid(2, 4), len(ids))
    assert pictures.most_ids(Grid(2, 4)) == len(ids)


def test_pictures_that_a_model_has_not_are_refused() -> None:
    pictures = lumina_pictures()
    with pytest.raises(GenerationError, match=r"no pictures of 5×4 pixels .*the nearest are 4×4"):
        pictures.grid_of_size(5, 4)
    with pytest.raises(GenerationError, match="all have 8×8"):
        picture_format("chameleon", make_context()).grid_of_size(4, 8)
    with pytest.raises(GenerationError, match="8 codes has no grid; pictures of this model have 8 sizes"):
        pictures.write(range(8))
    with pytest.raises(GenerationError, match="no pictures of 3×3 codes"):
        pictures.write(range(8), (3, 3))
    with pytest.raises(GenerationError, match="2×2 has 4 codes; got 5"):
        pictures.write(range(5), (2, 2))
    with pytest.raises(GenerationError, match="0 to 15; got 16"):
        pictures.write([16], (2, 2))


def test_sizes_that_cant_be_told_apart_are_refused() -> None:
    sizes = {Grid(1, 1): (5,), Grid(1, 2): (5, 6)}
    with pytest.raises(ConfigError, match=r"1×1 codes is written as \(5,\), with which that of 1×2, \(5, 6\), begins"):
        RowsGrammar(size_ids=sizes, end_image_id=1)
    with pytest.raises(ConfigError, match="at least one grid"):
        RowsGrammar(size_ids={}, end_image_id=1)


# A config names its grammar.


def lumina_config(**changes: Any) -> ChameleonConfig:
    names = make_vocabulary(more_specials=LUMINA)
    return make_config(**{"vocab_size": len(names), "vocabulary_map": names, "picture_grammar": "lumina", **changes})


def test_a_config_keeps_its_grammar_and_leaves_the_usual_one_out(tmp_path: Any) -> None:
    for requested in ("lumina", {"name": "lumina", "max_codes": 64}):
        lumina_config(picture_grammar=requested).save_pretrained(tmp_path)
        assert ChameleonConfig.from_pretrained(tmp_path).picture_grammar == requested
    assert "picture_grammar" not in make_config().to_dict()


def test_markers_of_a_grammar_are_never_text() -> None:
    layout = TokenLayout.from_config(lumina_config(), special_ids=[])
    assert layout.pictures.marker_ids
    assert layout.pictures.marker_ids <= layout.special_ids
    assert not layout.text_allowed_V[sorted(layout.pictures.marker_ids)].any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"picture_grammar": "lumnia"}, UnknownPluginError, "lumnia.*chameleon, lumina.*Did you mean 'lumina'"),
        ({"picture_grammar": {"name": "lumina", "max_code": 4}}, ConfigError, "no option 'max_code'.*mean 'max_codes'"),
        ({"picture_grammar": {"name": "lumina", "max_codes": 3}}, ConfigError, "max_codes .* integer ≥ 4; got 3"),
        ({"picture_grammar": {"name": "lumina", "max_ratio": 0.5}}, ConfigError, "max_ratio .* number ≥ 1; got 0.5"),
        ({"picture_grammar": {"name": "chameleon", "n": 3}}, ConfigError, "no option 'n'; its options are: none"),
        ({"vocabulary_map": make_vocabulary()}, VocabularyError, "lacks <reserved08799> and <reserved08801>"),
    ],
)
def test_a_grammar_that_cant_be_used_is_refused(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenLayout.from_config(lumina_config(**changes))


def test_a_grammar_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'picture_grammar must be a name, or a mapping with a "name".*max_codes'):
        make_config(picture_grammar={"max_codes": 4})


# Plugins, right and wrong.


class Wrong(PictureGrammarConformance):
    """The suite of a plugin that isn't registered; its tests are called one by one."""

    name = "wrong"
    more_specials = LUMINA


STATES = ("next_ids", "grid", "codes_left", "ids_left", "least_ids_left", "accept")


class Changed:
    """An open picture of another, with some parts changed."""

    def __init__(self, inner: Any, **changes: Any) -> None:
        self.inner = inner
        self.changes = changes

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        return self.changes[name](self.inner, value) if name in self.changes else value

    def accept(self, token_id: int) -> Any:
        following = self.inner.accept(token_id)
        if "accept" in self.changes:
            following = self.changes["accept"](self.inner, following)
        return None if following is None else Changed(following, **self.changes)


class Grammar:
    """Lumina's grammar, with some parts changed."""

    def __init__(self, context: GrammarContext, **changes: Any) -> None:
        self.right = lumina(context, max_codes=32)
        self.grids = changes.pop("grids", lambda grids: grids)(self.right.grids)
        self.marker_ids = self.right.marker_ids | changes.pop("more_markers", lambda context: set())(context)
        self.chosen = changes.pop("chosen", lambda asked, grids: asked)
        self.wrapped = changes.pop("wrapped", lambda picture: picture)
        self.changes = changes

    def open(self, grids: Sequence[Grid]) -> Any:
        chosen = self.chosen(tuple(grids), self.right.grids)
        return self.wrapped(Changed(self.right.open(chosen), **self.changes))


class Mutable:
    """A picture that changes as it accepts ids."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def accept(self, token_id: int) -> Any:
        following = self.inner.accept(token_id)
        self.inner = following or self.inner
        return None if following is None else self


class Sharing(Mutable):
    """A picture that gives a new one for each id and changes itself, too."""

    def accept(self, token_id: int) -> Any:
        following = self.inner.accept(token_id)
        self.inner = following or self.inner
        return None if following is None else Sharing(following)


class Second:
    """A factory that makes another grammar the second time."""

    def __init__(self, **changes: Any) -> None:
        self.changes: list[dict[str, Any]] = [changes, {}]

    def __call__(self, context: GrammarContext) -> Grammar:
        return Grammar(context, **(self.changes.pop() if self.changes else {}))


def spec_of(factory: Callable[..., Any] = Grammar, **fields: Any) -> PluginSpec:
    given = {"api_version": HOOK_API_VERSION, "summary": "a wrong one", "unsupported": lumina_unsupported}
    return PluginSpec(name="wrong", factory=factory, **{**given, **fields})


def wrong(**changes: Any) -> PluginSpec:
    return spec_of(functools.partial(Grammar, **changes))


WRONG: dict[str, list[PluginSpec]] = {
    "test_the_spec_says_what_it_is_and_for_which_hooks": [spec_of(api_version=1), spec_of(summary="")],
    "test_it_can_run_here": [
        spec_of(unavailable=lambda: "it needs a plotter."),
        spec_of(unsupported=lambda context: "it likes no vocabulary."),
    ],
    "test_a_vocabulary_without_its_names_is_refused_by_a_sentence": [
        spec_of(unsupported=lambda context: None),
        spec_of(unsupported=lambda context: " "),
    ],
    "test_grids_are_distinct_and_have_positions": [
        wrong(grids=lambda grids: (*grids, grids[0])),
        wrong(grids=lambda grids: (*grids, Grid(0, 2))),
        wrong(grids=lambda grids: ()),
    ],
    "test_markers_are_ids_that_nothing_else_is": [
        wrong(more_markers=lambda context: {context.code_ids[0]}),
        wrong(more_markers=lambda context: {context.token_ids["</s>"]}),
        wrong(more_markers=lambda context: {context.token_ids["word3"]}),
        wrong(more_markers=lambda context: {10_000}),
    ],
    "test_made_twice_it_writes_the_same": [
        spec_of(Second(grids=lambda grids: grids[::-1])),
        spec_of(Second(chosen=lambda asked, grids: grids[:1])),
    ],
    "test_what_may_come_is_a_code_or_one_of_some_markers": [
        wrong(next_ids=lambda picture, ids: ids and ()),
        wrong(next_ids=lambda picture, ids: ids and (*ids, ids[0])),
        wrong(next_ids=lambda picture, ids: ids if ids is None or len(ids) > 1 else (0,)),
    ],
    "test_a_picture_ends_with_end_image_after_its_codes": [
        wrong(accept=lambda picture, following: following and (following if following.codes_left != 2 else None)),
        wrong(grid=lambda picture, grid: grid and Grid(2, 2)),
        wrong(grid=lambda picture, grid: None),
    ],
    "test_what_is_left_is_what_comes": [
        wrong(ids_left=lambda picture, left: left - 1),
        wrong(ids_left=lambda picture, left: left + 1),
        wrong(least_ids_left=lambda picture, left: left + (picture.grid is None)),
        wrong(codes_left=lambda picture, left: left and left - 1),
        wrong(codes_left=lambda picture, left: None),
        wrong(grid=lambda picture, grid: grid and grid if picture.codes_left else Grid(2, 2)),
    ],
    "test_the_bounds_of_what_is_left_are_those_of_the_grids": [
        wrong(ids_left=lambda picture, left: left + (picture.grid is None)),
        wrong(least_ids_left=lambda picture, left: left - (picture.grid is None)),
    ],
    "test_only_grids_that_were_asked_for_are_drawn": [
        wrong(chosen=lambda asked, grids: grids),
        wrong(chosen=lambda asked, grids: grids[:1]),
    ],
    "test_an_open_picture_never_changes": [wrong(wrapped=Mutable), wrong(wrapped=Sharing)],
    "test_a_picture_that_was_written_is_read_again": [
        wrong(chosen=lambda asked, grids: asked if len(asked) > 1 else grids[:1]),
        wrong(grid=lambda picture, grid: grid and Grid(grid.width, grid.height)),
    ],
    "test_every_grid_can_be_drawn_where_all_may": [
        wrong(chosen=lambda asked, grids: asked[:-1] or asked),
        wrong(next_ids=lambda picture, ids: ids and ids[:1]),
    ],
}


def run_alone(test: str, spec: PluginSpec) -> None:
    context = make_context(LUMINA)
    pictures = PictureFormat(spec.make(context), context) if spec.why_unavailable() is None else None
    given = {"spec": spec, "context": context, "pictures": pictures}
    method = getattr(Wrong(), test)
    method(**{name: given[name] for name in inspect.signature(method).parameters})


def test_every_law_is_failed_by_wrong_plugins() -> None:
    laws = {name for name in dir(PictureGrammarConformance) if name.startswith("test_")}
    assert laws == WRONG.keys()
    assert all(len(plugins) >= 2 for plugins in WRONG.values())


@pytest.mark.parametrize(
    ("law", "number"), [(law, number) for law, plugins in WRONG.items() for number in range(len(plugins))]
)
def test_a_wrong_plugin_fails(law: str, number: int) -> None:
    with pytest.raises((AssertionError, IndexError, ValueError, backends.BrokenPluginError)):
        run_alone(law, WRONG[law][number])


@pytest.mark.parametrize("law", list(WRONG))
def test_a_right_plugin_passes(law: str) -> None:
    run_alone(law, spec_of())


PLUGIN = """
from chameleon_core import HOOK_API_VERSION, PluginSpec, hookimpl
from chameleon_core.picture_grammars import Grid, RowsGrammar


def frieze(context, *, height=2):
    widths = {width: context.token_ids[f"<frieze{width}>"] for width in (2, 3)}
    sizes = {Grid(height, width): (token_id,) for width, token_id in widths.items()}
    return RowsGrammar(size_ids=sizes, end_image_id=context.end_image_id)


@hookimpl
def chameleon_core_picture_grammars():
    for name, factory in (("frieze", frieze), ("broken", lambda context: 1 / 0), ("empty", lambda context: object())):
        yield PluginSpec(name=name, factory=factory, api_version=HOOK_API_VERSION, summary="of one height")
"""
FRIEZE = ("<frieze2>", "<frieze3>")


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with a right grammar and two that can't be used."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "acme_friezes")
    monkeypatch.syspath_prepend(tmp_path)
    metadata = tmp_path / "acme_friezes-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_friezes\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[chameleon_core]\nacme_friezes = acme_friezes\n")
    (tmp_path / "acme_friezes.py").write_text(PLUGIN)
    REGISTRY.reload()
    yield
    sys.modules.pop("acme_friezes", None)
    monkeypatch.undo()
    REGISTRY.reload()


@pytest.mark.usefixtures("_installed")
class TestFrieze(PictureGrammarConformance):
    name = "frieze"
    options = {"height": 1}
    more_specials = FRIEZE
    not_applicable = {
        "test_a_vocabulary_without_its_names_is_refused_by_a_sentence": "it has no unsupported(), for brevity"
    }


@pytest.mark.usefixtures("_installed")
def test_a_plugin_s_grammar_is_named_by_a_config_with_its_options() -> None:
    names = make_vocabulary(more_specials=FRIEZE)
    config = make_config(vocab_size=len(names), vocabulary_map=names, picture_grammar={"name": "frieze", "height": 5})
    assert TokenLayout.from_config(config).pictures.grids == ((5, 2), (5, 3))


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("name", "reason"), [("broken", "ZeroDivisionError: division by zero"), ("empty", "grids")])
def test_a_plugin_that_makes_no_grammar_is_an_error_with_its_cause(name: str, reason: str) -> None:
    with pytest.raises(BrokenPluginError, match=f"acme_friezes.*{reason}"):
        picture_format(name, make_context())
