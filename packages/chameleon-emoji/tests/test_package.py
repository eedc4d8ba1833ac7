"""The contents of the package: pictures, weights and licences, which are found without other packages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import chameleon_emoji
from chameleon_emoji import MODEL, SIDE, figures, pictures

LARGEST_PACKAGE = 25 * 10**6
STYLES = {"noto", "twemoji", "fluent"}


def test_importing_the_package_loads_nothing() -> None:
    code = "import chameleon_emoji, sys; assert not {'torch', 'chameleon_vq', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chameleon_emoji.__version__ == project["version"]


def test_the_package_is_small() -> None:
    files = (each for each in MODEL.parent.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    assert sum(each.stat().st_size for each in files) < LARGEST_PACKAGE


def test_the_weights_are_those_of_a_whole_model() -> None:
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    index = json.loads((MODEL / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32"
    assert {"model.embed_tokens.weight", "model.vqmodel.quantize.embedding.weight"} <= index["weight_map"].keys()
    assert all((MODEL / shard).is_file() for shard in index["weight_map"].values())


def test_every_picture_is_there_in_three_styles_but_for_what_a_style_lacks() -> None:
    found = pictures()
    assert len({(picture.style, picture.name) for picture in found}) == len(found)
    assert {picture.style for picture in found} == STYLES
    styles_of = Counter(picture.name for picture in found)
    assert min(styles_of.values()) >= 2
    assert {picture.name for picture in found if picture.split == "withheld-shape"} == {
        "green heart",
        "blue square",
        "purple circle",
    }
    withheld = [picture for picture in found if picture.split == "withheld-style"]
    assert len(withheld) == 41
    learned = {picture.name for picture in found if picture.split == "train"}
    assert {picture.name for picture in withheld} <= learned


def test_a_thing_has_its_group_in_every_style_and_a_plain_shape_has_none() -> None:
    groups = {each.name: {other.group for other in pictures() if other.name == each.name} for each in pictures()}
    assert all(len(found) == 1 for found in groups.values())
    assert (groups["fox"], groups["lemon"], groups["rocket"]) == (
        {"animals and nature"},
        {"food and drink"},
        {"travel and places"},
    )
    shapes = {name for name, found in groups.items() if found == {None}}
    assert {name.split()[-1] for name in shapes} == {"heart", "circle", "square"}
    assert len(shapes) == 21


def test_pictures_are_small_and_mostly_on_white() -> None:
    chosen = pictures()[::50]
    for picture in chosen:
        assert (picture.image.size, picture.image.mode) == ((SIDE, SIDE), "RGB")
    corners = [picture.image.getpixel((0, 0)) == (255, 255, 255) for picture in chosen]
    assert sum(corners) > 0.8 * len(corners)


def test_figures_are_shares_of_trials_under_their_names() -> None:
    found = figures()
    assert {name: figure.name for name, figure in found.items()} == {name: name for name in found}
    assert all(0 <= figure.value <= 1 and figure.count > 0 for figure in found.values())
    assert all((figure.baseline is None) == (not figure.against) for figure in found.values())
    exact = found["withheld style: exact name"]
    assert exact.count == len([picture for picture in pictures() if picture.split == "withheld-style"])


def test_every_picture_has_a_licence_that_is_in_the_distribution() -> None:
    assert {picture.licence for picture in pictures()} == {"Apache-2.0", "CC-BY-4.0", "MIT"}
    notice = (importlib.metadata.distribution("chameleon-emoji").read_text("licenses/NOTICE.md")) or ""
    if not notice:
        # An editable install lists no licence files.
        root = chameleon_emoji.MODEL.parents[2]
        assert (root / "NOTICE.md").is_file()
        notice = (root / "NOTICE.md").read_text(encoding="utf-8")
    for style in STYLES:
        assert f"| {style} |" in notice
