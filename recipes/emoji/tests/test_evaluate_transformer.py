"""The figures of the trained model and the measures that they use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from recipes.emoji.classifier import Judge
from recipes.emoji.compositions import PlanSize
from recipes.emoji.evaluate_transformer import (
    captions,
    contact_sheet,
    interleaved,
    names,
    round_trip,
    scenes,
    shapes,
)
from recipes.emoji.measures import ink, median_colour, nearest_indices, overlap, psnr_of
from recipes.emoji.pictures import Picture, PictureSet
from recipes.emoji.splits import WITHHELD_SHAPES
from recipes.emoji.stability import draw, run
from recipes.emoji.things import THINGS
from recipes.emoji.train_transformer import SMOKE_ARCHITECTURE, new_chameleon, prepare, random_image_tokenizer
from recipes.emoji.trials import Subject

from chameleon_core import GenerationOptions
from chameleon_core.evaluation.embedded_requests import COLOURS, COMPOSED, SHAPES, STYLES

Bytes = npt.NDArray[np.uint8]


def disc(colour: tuple[int, int, int], radius: float = 30) -> Bytes:
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 31.5) ** 2 + (columns - 31.5) ** 2 < radius**2
    return np.dstack([np.broadcast_to(np.asarray(colour, np.uint8), (64, 64, 3)), inside.astype(np.uint8) * 255])


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return an untrained model, and pictures of every kind that is measured."""
    things = sorted(COMPOSED)[:12]
    plain = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    records = [
        Picture(style, name, "", 3, True, "withheld-shape" if name in WITHHELD_SHAPES else "train", 0, "")
        for style in STYLES
        for name in (*things, *plain)
    ]
    records[2] = Picture("noto", things[2], "", 3, True, "withheld-style", 0, "")
    arrays = [disc((200, (40 * number) % 256, (90 * number) % 256)) for number in range(len(records))]
    pictures = PictureSet(records, np.stack(arrays))
    folder: Path = tmp_path_factory.mktemp("run")
    data = prepare(
        folder,
        pictures,
        random_image_tokenizer(),
        PlanSize(variants=1, grounds=0, recoloured=0, scenes=0, shape_variants=1, views=0),
    )
    chameleon = new_chameleon(data, SMOKE_ARCHITECTURE)
    chameleon.model.eval()
    judge = Judge(sorted({record.name for record in records if record.split == "train"}), (4, 4, 4, 4)).eval()
    options = GenerationOptions(do_sample=True, temperature=0.7, top_p=0.9, guidance_text=3.0)
    return Subject(chameleon, judge, pictures, options)


def test_every_figure_is_a_share_of_its_trials(subject: Subject) -> None:
    figures = [
        *captions(subject, limit=2),
        *shapes(subject, draws=1),
        *names(subject, draws=2),
        *scenes(subject, draws=2),
        *interleaved(subject, draws=2),
        *round_trip(subject, draws=2),
    ]
    assert len({figure.name for figure in figures}) == len(figures)
    for figure in figures:
        assert np.isnan(figure.value) == (figure.count == 0)
        assert figure.count == 0 or 0 <= figure.value <= 1
        assert figure.baseline is None or 0 <= figure.baseline <= 1
    by_name = {figure.name: figure for figure in figures}
    assert by_name["withheld style: exact name"].count == 1
    assert by_name["withheld colour and shape: both right"].count == 9
    assert by_name["withheld scenes: both parts right"].count == 2
    assert by_name["withheld grounds: ground right"].count == 2
    assert by_name["a second picture after a first: its name"].count == 2


def test_drawing_depends_on_the_seed_alone(subject: Subject) -> None:
    first, again, other = (subject.draw(["a red heart"], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_sheet_has_drawings_above_their_nearest_pictures(subject: Subject) -> None:
    assert contact_sheet(subject, ["a red heart", sorted(THINGS)[1]]).size == (3 * 2 * 64, 3 * 2 * 64)


def test_measures_of_drawings() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    red = white.copy()
    red[16:48, 16:48] = (200, 0, 0)
    assert np.count_nonzero(ink(red)) == 32 * 32
    assert median_colour(red, ink(red)).tolist() == [200, 0, 0]
    assert median_colour(white, ink(white)).tolist() == [255, 255, 255]
    half = np.zeros((64, 64), np.bool_)
    half[16:32, 16:48] = True
    assert overlap(ink(red), half) == 0.5
    assert overlap(ink(white), ink(white)) == 0
    assert psnr_of(red, red) == float("inf")
    assert psnr_of(white, white - 255) == 0
    assert nearest_indices(np.stack([red, white]), np.stack([white, red])).tolist() == [1, 0]


def test_the_comparison_of_stability_runs_and_is_drawn(tmp_path: Path) -> None:
    records = [Picture(style, name, "", 3, True, "train", 0, "") for style in STYLES for name in ("cat", "dog")]
    pictures = PictureSet(records, np.stack([disc((40 * number, 90, 0)) for number in range(6)]))
    data = prepare(
        tmp_path / "run",
        pictures,
        random_image_tokenizer(),
        PlanSize(variants=1, grounds=0, recoloured=0, scenes=0, shape_variants=1, views=0),
    )
    curves = [
        run(data, qk_norm=on, z_loss=0.0, steps=2, learning_rate=0.02, architecture=SMOKE_ARCHITECTURE, batch_size=2)
        for on in (True, False)
    ]
    assert [len(curve.loss) for curve in curves] == [2, 2]
    draw(curves, tmp_path / "stability.png", learning_rate=0.02)
    assert (tmp_path / "stability.png").stat().st_size > 1000
