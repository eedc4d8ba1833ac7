"""Withheld pictures stay withheld, near copies stay together, and a seed always gives the same pictures."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from recipes.emoji.augment import Placement, on_canvas, scene, turn_hue
from recipes.emoji.evaluate import nearest, thumbnails
from recipes.emoji.pictures import Picture, PictureSet, on_ground
from recipes.emoji.sources import DrawingSet, Label, Package, SourceError, Style, fetch
from recipes.emoji.splits import near_copies, withhold_one_style
from recipes.emoji.train_tokenizer import EmojiPictures

from chameleon_core.evaluation.embedded_requests import is_withheld

Bytes = npt.NDArray[np.uint8]


def disc(colour: tuple[int, int, int], radius: float = 30) -> Bytes:
    """Return a disc on transparent ground: uint8 [64, 64, 4]."""
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 31.5) ** 2 + (columns - 31.5) ** 2 < radius**2
    return np.dstack([np.broadcast_to(np.asarray(colour, np.uint8), (64, 64, 3)), inside.astype(np.uint8) * 255])


def test_near_copies_are_one_cluster_through_others_too() -> None:
    # 25, 27 and 29: each pair of neighbours is within 30 dB, the first and the last are not.
    grey = [np.full((64, 64, 3), level, np.uint8) for level in (200, 206, 212, 100)]
    assert near_copies(np.stack(grey)) == [0, 0, 0, 3]


def test_never_two_styles_of_one_emoji_are_withheld() -> None:
    emoji = [f"thing {number}" for number in range(40) for _ in range(3)]
    clusters = list(range(120))
    # Some things look alike in one style.
    for number in range(0, 30, 3):
        clusters[3 * number + 3] = clusters[3 * number]
    withheld = withhold_one_style(emoji, clusters, range(120), fraction=0.25)
    names = [emoji[index] for index in withheld]
    assert len(names) >= 10
    assert len(set(names)) == len(names)
    groups = {clusters[index] for index in withheld}
    assert withheld == {index for index in range(120) if clusters[index] in groups}


def test_about_a_tenth_of_the_scenes_is_withheld_in_either_order() -> None:
    words = [f"word {number}" for number in range(60)]
    pairs = [(one, other) for one in words for other in words if one < other]
    withheld = [is_withheld(*pair) for pair in pairs]
    assert 0.07 < np.mean(withheld) < 0.13
    assert withheld == [is_withheld(other, one) for one, other in pairs]


def test_a_picture_that_fills_the_canvas_is_unchanged() -> None:
    red = disc((200, 0, 0))
    np.testing.assert_array_equal(on_canvas(red), on_ground(red[None])[0])


def test_a_placed_picture_keeps_its_colours_and_lies_where_it_should() -> None:
    placed = on_canvas(disc((200, 0, 0)), Placement(32, 16, 48), (0, 0, 255))
    assert tuple(placed[48, 16]) == (200, 0, 0)
    assert tuple(placed[10, 50]) == (0, 0, 255)
    rows, columns = np.nonzero(placed[..., 0] > 100)
    assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 15.5), abs=0.6)
    # At the edge the ground shines through; nothing else does.
    assert placed[..., 1].max() == 0


def test_a_scene_has_the_first_left_of_or_above_the_second() -> None:
    red, green = disc((200, 0, 0)), disc((0, 200, 0))
    assert tuple(scene(red, green, "left of")[32, 16]) == (200, 0, 0)
    assert tuple(scene(red, green, "left of")[32, 48]) == (0, 200, 0)
    assert tuple(scene(red, green, "above")[16, 32]) == (200, 0, 0)


def test_changing_the_hue_keeps_the_outline_and_greys() -> None:
    red = disc((200, 0, 0))
    turned = turn_hue(red, 1 / 3)
    assert turned[32, 32, 1] > 190
    assert turned[32, 32, 0] < 10
    np.testing.assert_array_equal(turned[..., 3], red[..., 3])
    np.testing.assert_array_equal(turn_hue(disc((90, 90, 90)), 0.4), disc((90, 90, 90)))


def picture_set() -> PictureSet:
    names = ("red heart", "cat", "pizza")
    records = [Picture("noto", name, "", 3, True, "train", number, "") for number, name in enumerate(names)]
    return PictureSet(records, np.stack([disc((200, 60 * number, 0)) for number in range(3)]))


def test_augmentation_depends_on_the_seed_alone() -> None:
    pictures = EmojiPictures(picture_set())
    assert len(pictures) == 6
    first, again, other = (pictures.pixels([0, 3, 5] * 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (12, 3, 64, 64)
    assert first.min() >= -1
    assert first.max() <= 1
    assert first.equal(again)
    assert not first.equal(other)


def test_a_plain_shape_is_never_recoloured() -> None:
    pictures = EmojiPictures(picture_set())
    random = np.random.default_rng(0)
    hearts = np.stack([pictures._variant(0, random) for _ in range(100)])
    assert (hearts[:, 32, 32, :3] == (200, 0, 0)).all()
    cats = np.stack([pictures._variant(1, random) for _ in range(100)])
    assert not (cats[:, 32, 32, :3] == (200, 60, 0)).all()


def archive(folder: Path, members: dict[str, object]) -> Path:
    path = folder / "set.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            text = json.dumps(data).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return path


def test_drawings_are_found_by_code_points_or_by_label_through_aliases(tmp_path: Path) -> None:
    icons = {
        "width": 32,
        "height": 32,
        "icons": {"red-heart": {"body": "<path/>"}, "pointing-left": {"body": "<g/>", "width": 16}},
        "aliases": {"love": {"parent": "red-heart"}, "pointing-right": {"parent": "pointing-left", "hFlip": True}},
    }
    path = archive(tmp_path, {"icons.json": icons, "chars.json": {"2764": "love", "1f449": "pointing-right"}})
    labels = [Label("red heart", "2764-FE0F", 0), Label("pointing right", "1F449", 1), Label("cat", "1F408", 3)]
    package = Package("set", "1", "")
    for labelled_by in ("hexcode", "label"):
        style = Style("any", package, "MIT", "somebody", labelled_by)
        found = {label.name: drawing for label, drawing in DrawingSet(style, path).labelled(labels)}
        assert list(found) == ["red heart", "pointing right"]
        assert 'viewBox="0 0 32 32"><path/>' in found["red heart"].svg
        assert found["pointing right"].mirrored
        assert 'viewBox="0 0 16 32"' in found["pointing right"].svg


def test_an_archive_with_another_hash_is_refused(tmp_path: Path) -> None:
    package = Package("@scope/set", "1.0", "0" * 64)
    (tmp_path / "scope-set-1.0.tgz").write_bytes(b"something else")
    with pytest.raises(SourceError, match=r"scope-set-1\.0\.tgz has sha256 [0-9a-f]{64}, expected 0{64}"):
        fetch(package, tmp_path)


def test_without_data_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m recipes\.emoji\.build"):
        PictureSet.load(tmp_path)


def test_the_nearest_training_picture_is_the_picture_itself_where_it_is_one() -> None:
    random = np.random.default_rng(0)
    trained = random.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(nearest(trained[[3, 17]], trained), trained[[3, 17]])
    almost = trained[5].copy()
    almost[:8] = 0
    np.testing.assert_array_equal(nearest(almost[None], trained), trained[[5]])


def test_a_thumbnail_keeps_one_colour_to_the_bits_it_has() -> None:
    white, orange = (np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 255, 255), (255, 128, 0)))
    drawn = thumbnails(np.stack([white, orange]))
    np.testing.assert_array_equal(drawn[0], white)
    # 4 bits for green: within half of 255 / 15.
    assert np.abs(drawn[1].astype(int) - orange).max() <= 8
