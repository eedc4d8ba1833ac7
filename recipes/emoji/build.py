"""Fetch the emoji sets, render, label and split them: ``python -m recipes.emoji.build``.

Writes into the data folder, each file only when it is complete:

- ``sources/``: the npm archives, verified by their SHA-256;
- ``rendered/STYLE.npy``: uint8 [B, 64, 64, 4], RGBA with straight alpha, in the order of the labels;
- ``pictures.npy``: all of them, uint8 [B, 64, 64, 4], and ``manifest.json``: what each is and its split.

Existing files are kept; delete one to make it again. The same packages give the same files.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image
from rich.progress import track

from chameleon_core.evaluation.embedded_requests import COLOURS, SHAPES

from .pictures import DATA, MANIFEST, PICTURES, SIDE, Picture, PictureSet, on_ground, replacing
from .sources import LABELS, STYLES, Drawing, DrawingSet, Label, fetch, read_labels
from .splits import WITHHELD_SHAPES, near_copies, share, withhold_one_style

TRAINED_STYLES = ("noto", "twemoji", "fluent")
UNSEEN_STYLE = "emojione"
CORE_GROUPS = range(3, 8)
SHAPE_NAMES = frozenset(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.build", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    build(parser.parse_args().data)


def build(folder: Path) -> PictureSet:
    """Make the data set in ``folder`` and return it."""
    labels = read_labels(fetch(LABELS, folder / "sources"))
    drawn: list[tuple[str, Label]] = []
    arrays = []
    for style in STYLES:
        drawings = list(DrawingSet(style, fetch(style.package, folder / "sources")).labelled(labels))
        drawn += [(style.name, label) for label, _ in drawings]
        arrays.append(_rendered([drawing for _, drawing in drawings], folder / "rendered" / f"{style.name}.npy"))
    pictures_BHWC = np.concatenate(arrays)
    records = split(drawn, near_copies(on_ground(pictures_BHWC)))
    with replacing(folder / PICTURES) as temporary, temporary.open("wb") as file:
        np.save(file, pictures_BHWC)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(manifest(records), encoding="utf-8")
    return PictureSet.load(folder)


def split(drawn: list[tuple[str, Label]], clusters: list[int]) -> list[Picture]:
    """Return the split of each picture, given its style, its label and its cluster of near copies.

    - ``unseen-artist``: all of one style;
    - ``withheld-shape``: some pairs of colour and shape, in every style;
    - ``withheld-style``: one style of a tenth of the core's emoji that all trained styles have;
    - ``withheld-emoji``: a tenth of the other emoji, in every style (only the tokenizer learns the others);
    - ``near-copy``: near copies of withheld pictures, which are not used;
    - ``train``: the rest.
    """
    names = [label.name for _, label in drawn]
    is_core = [label.group in CORE_GROUPS or label.name in SHAPE_NAMES for _, label in drawn]
    styles_of: defaultdict[str, set[str]] = defaultdict(set)
    for style, label in drawn:
        styles_of[label.name].add(style)
    splits = ["train"] * len(drawn)
    free = []
    for index, (style, label) in enumerate(drawn):
        everywhere = styles_of[label.name].issuperset(TRAINED_STYLES)
        if style == UNSEEN_STYLE:
            splits[index] = "unseen-artist"
        elif label.name in WITHHELD_SHAPES:
            splits[index] = "withheld-shape"
        elif not is_core[index] and share("emoji", label.name) < 0.1:
            splits[index] = "withheld-emoji"
        elif is_core[index] and everywhere and style in TRAINED_STYLES and label.name not in SHAPE_NAMES:
            free.append(index)
    # A near copy of a picture that is withheld for another reason can't be the withheld style of a known emoji.
    taken = {clusters[index] for index, name in enumerate(splits) if name.startswith("withheld")}
    free = [index for index in free if clusters[index] not in taken]
    known = [
        name if style in TRAINED_STYLES else f"{style} {name}" for (style, _), name in zip(drawn, names, strict=True)
    ]
    for index in withhold_one_style(known, clusters, free, fraction=0.1):
        if splits[index] == "train":
            chosen = is_core[index] and drawn[index][0] in TRAINED_STYLES
            splits[index] = "withheld-style" if chosen else "near-copy"
    withheld = {clusters[index] for index, name in enumerate(splits) if name.startswith("withheld")}
    for index, name in enumerate(splits):
        if name == "train" and clusters[index] in withheld:
            splits[index] = "near-copy"
    licences = {style.name: style.licence for style in STYLES}
    return [
        Picture(
            style=style,
            name=label.name,
            hexcode=label.hexcode,
            group=label.group,
            core=is_core[index] and style in TRAINED_STYLES,
            split=splits[index],
            cluster=clusters[index],
            licence=licences[style],
        )
        for index, (style, label) in enumerate(drawn)
    ]


def manifest(records: list[Picture]) -> str:
    """Return the manifest's text: the sources, and a line per picture."""
    sources = {
        style.name: {
            "package": f"{style.package.name}@{style.package.version}",
            "sha256": style.package.sha256,
            "licence": style.licence,
            "artist": style.artist,
        }
        for style in STYLES
    }
    lines = ",\n".join("    " + json.dumps(record.to_dict(), ensure_ascii=False) for record in records)
    return f'{{\n  "sources": {json.dumps(sources)},\n  "pictures": [\n{lines}\n  ]\n}}\n'


def _rendered(drawings: list[Drawing], path: Path) -> npt.NDArray[np.uint8]:
    if path.exists():
        pictures_BHWC = np.load(path)
        if pictures_BHWC.shape == (len(drawings), SIDE, SIDE, 4):
            return pictures_BHWC
    pictures_BHWC = np.stack([_render(drawing) for drawing in track(drawings, f"rendering {path.stem}")])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, pictures_BHWC)
    return pictures_BHWC


def _render(drawing: Drawing) -> npt.NDArray[np.uint8]:
    png = bytes(resvg_py.svg_to_bytes(svg_string=drawing.svg, width=SIDE, height=SIDE, skip_system_fonts=True))
    with Image.open(io.BytesIO(png)) as image:
        rgba = image.convert("RGBA")
    if rgba.size != (SIDE, SIDE):
        # Centre a drawing that isn't square.
        square = Image.new("RGBA", (SIDE, SIDE))
        rgba.thumbnail((SIDE, SIDE))
        square.paste(rgba, ((SIDE - rgba.width) // 2, (SIDE - rgba.height) // 2))
        rgba = square
    picture_HWC = np.asarray(rgba)
    if not picture_HWC[..., 3].any():
        raise ValueError(f"A drawing was rendered as an empty picture: {drawing.svg[:200]}")
    return picture_HWC[:, ::-1] if drawing.mirrored else picture_HWC


if __name__ == "__main__":
    main()
