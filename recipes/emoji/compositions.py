"""Which pictures the transformer learns from: planned by name, rendered, and encoded once.

The image tokenizer is too slow for the training loop, so each planned picture goes through it once; its codes are kept
under its key, in a store that belongs to one image tokenizer (its fingerprint).

Shapes: N pictures, H W pixels, C channels (RGBA with straight alpha), K codes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track

from chameleon_core.training import TokenDataset, TokenDatasetWriter, TokenDocument
from chameleon_vq import ImageTokenizer

from .augment import (
    ARRANGEMENTS,
    GROUNDS,
    RGBA,
    Arrangement,
    Placement,
    mirror,
    on_canvas,
    redrawn,
    scene,
    seen_otherwise,
    turn_hue,
)
from .pictures import Picture, PictureSet
from .prompts import Composition
from .splits import COLOURS, SHAPES, WITHHELD_SHAPES, scene_is_withheld
from .things import COMPOSED, THINGS

HUES = {"red": 0.0, "orange": 0.08, "yellow": 0.14, "green": 0.33, "blue": 0.58, "purple": 0.77}
"""Fractions of the circle that the colour words name."""

NAMED_STYLE = "noto-v1"
"""The set that is named in fine-tuning and never drawn."""

# Mirrored, these would be something else.
_HANDED = ("left", "right", "moon", "clock", "thirty", "quarter", "letter", "input", "calendar", "music")
ENCODED_AT_ONCE = 32
SHARD_PICTURES = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSize:
    """How many pictures are made of each drawing, and how many scenes of all."""

    variants: int = 6
    """As it is, and moved, sized and mirrored."""
    grounds: int = 4
    recoloured: int = 2
    scenes: int = 6_000
    shape_variants: int = 16
    """Of each plain heart, circle and square: there are few, and colour and shape are to be told apart by them."""
    views: int = 32
    """Seen otherwise, to be named and not to be drawn."""
    redrawn: int = 24
    """Views that fine-tuning adds, as if by another hand."""


def is_shape(name: str) -> bool:
    """Whether this is a plain heart, circle or square of the seven colours."""
    return any(name == f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def learned(pictures: PictureSet) -> PictureSet:
    """The drawings that the transformer learns from: of everyday things and plain shapes."""
    return pictures.where(lambda picture: picture.core and picture.split == "train" and is_taught(picture.name))


def only_named(pictures: PictureSet) -> PictureSet:
    """The drawings that fine-tuning names besides and never draws: the same things by a fourth hand."""
    return pictures.where(
        lambda picture: (
            not picture.core
            and picture.split == "train"
            and picture.style == NAMED_STYLE
            and is_taught(picture.name)
            and not is_shape(picture.name)
        )
    )


def is_taught(name: str) -> bool:
    """Whether the transformer learns this name."""
    return name in THINGS or is_shape(name)


def plan(pictures: PictureSet, size: PlanSize | None = None, *, seed: int = 0) -> list[Composition]:
    """What is made of these drawings; never a withheld scene or ground, and no plain shape is recoloured.

    The drawings themselves must be those of ``learned``. Raises ``ValueError`` for a withheld one.
    """
    size = size or PlanSize()
    random = np.random.default_rng(seed)
    planned = []
    for record, rgba_HWC in zip(pictures.records, pictures.rgba_NHWC, strict=True):
        if record.split != "train":
            raise ValueError(f"{record.style} {record.name} is {record.split}: not to be learned from.")
        single = Composition(record.style, record.name, record.group)
        variants = size.shape_variants if is_shape(record.name) else size.variants
        planned += [replace(single, variant=variant) for variant in range(variants)]
        # A shape's light is its colour, which is asked for.
        planned += [replace(single, view=1 + view) for view in range(0 if is_shape(record.name) else size.views)]
        planned += [
            replace(single, ground=colour, variant=1 + number)
            for number, colour in enumerate(_some(grounds_for(record.name), size.grounds, random))
        ]
        planned += [
            replace(single, colour=colour, variant=1 + number)
            for number, colour in enumerate(_some(colours_for(record, rgba_HWC), size.recoloured, random))
        ]
    return planned + _scenes(pictures.records, size.scenes, random)


def grounds_for(name: str) -> list[str]:
    """The coloured grounds that a thing may be learned on."""
    return [colour for colour in GROUNDS if colour != "white" and not scene_is_withheld(name, f"{colour} ground")]


def colours_for(record: Picture, rgba_HWC: RGBA) -> list[str]:
    """The colours that a drawing may be given: none for what has one in its name, for shapes, and for many colours."""
    words = record.name.split()
    if {*COLOURS, *SHAPES, "black", "white"}.intersection(words) or dominant_hue(rgba_HWC) is None:
        return []
    return list(HUES)


def dominant_hue(rgba_HWC: RGBA) -> float | None:
    """The hue of most of a drawing, as a fraction of the circle; None where there is none."""
    hsv_HWC = np.asarray(Image.fromarray(np.ascontiguousarray(rgba_HWC[..., :3]), "RGB").convert("HSV")).astype(float)
    visible_HW = rgba_HWC[..., 3] > 128
    strength_HW = np.where(visible_HW, hsv_HWC[..., 1] * hsv_HWC[..., 2] / 255**2, 0.0)
    if strength_HW.sum() < 0.3 * visible_HW.sum() or not visible_HW.any():
        return None
    turned = (strength_HW * np.exp(2j * np.pi * hsv_HWC[..., 0] / 256)).sum() / strength_HW.sum()
    return float(np.angle(turned) / (2 * np.pi) % 1) if abs(turned) > 0.85 else None


def plan_requests(pictures: PictureSet) -> list[Composition]:
    """What fine-tuning has in place of the plan's colours, grounds and scenes: all colours, and scenes of a few things.

    Each is as it is, since a request names no place, and what is met often at one place is learned. The drawings are
    those of ``learned``.
    """
    coloured = [
        Composition(record.style, record.name, record.group, colour=colour)
        for record, rgba_HWC in zip(pictures.records, pictures.rgba_NHWC, strict=True)
        for colour in colours_for(record, rgba_HWC)
    ]
    records = [record for record in pictures.records if record.name in COMPOSED]
    grounds = [
        Composition(record.style, record.name, record.group, ground=colour)
        for record in records
        for colour in grounds_for(record.name)
    ]
    scenes = [
        Composition(first.style, first.name, arrangement=arrangement, other=second.name)
        for first, second in itertools.permutations(records, 2)
        for arrangement in ARRANGEMENTS
        if first.style == second.style and not scene_is_withheld(first.name, second.name)
    ]
    return coloured + grounds + scenes


def plan_redrawn(pictures: PictureSet, size: PlanSize | None = None) -> list[Composition]:
    """More views to be named: the drawings are those of ``learned`` or ``only_named``, and shapes have none."""
    views = (size or PlanSize()).redrawn
    return [
        Composition(record.style, record.name, record.group, view=1 + view, redrawn=True)
        for record in pictures.records
        for view in range(0 if is_shape(record.name) else views)
    ]


class Painter:
    """Renders compositions; the key of one decides its place, size and side."""

    def __init__(self, pictures: PictureSet) -> None:
        self._index = {(record.style, record.name): index for index, record in enumerate(pictures.records)}
        self._rgba_NHWC = pictures.rgba_NHWC

    def paint(self, shown: Composition) -> npt.NDArray[np.uint8]:
        """The picture of a composition: uint8 [64, 64, 3]. Raises ``KeyError`` for a drawing that isn't there."""
        digest = hashlib.sha256(shown.key.encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        first_HWC = self._drawing(shown.style, shown.name)
        ground = GROUNDS[shown.ground or "white"]
        if shown.arrangement is not None and shown.other is not None:
            return scene(first_HWC, self._drawing(shown.style, shown.other), shown.arrangement, ground)
        hue = None if shown.colour is None else dominant_hue(first_HWC)
        if shown.colour is not None and hue is not None:
            first_HWC = turn_hue(first_HWC, HUES[shown.colour] - hue)
        if shown.variant == shown.view == 0:
            return on_canvas(first_HWC, None, ground)
        if random.random() < 0.5 and not any(word in shown.name for word in _HANDED):
            first_HWC = mirror(first_HWC)
        if shown.redrawn:
            first_HWC = redrawn(first_HWC, random)
        if shown.view:
            return seen_otherwise(first_HWC, random, ground)
        return on_canvas(first_HWC, Placement.near_whole(random), ground)

    def _drawing(self, style: str, name: str) -> RGBA:
        return np.asarray(self._rgba_NHWC[self._index[style, name]])


def encode(
    folder: Path, planned: Sequence[Composition], painter: Painter, image_tokenizer: ImageTokenizer
) -> TokenDataset:
    """The codes of planned pictures, each under its key; what is there is not made again."""
    writer = TokenDatasetWriter(
        folder,
        tokenizer_hash=image_tokenizer.fingerprint,
        vocab_size=image_tokenizer.num_codes,
        shard_size=SHARD_PICTURES * image_tokenizer.tokens_per_image,
    )
    with writer:
        missing = list({shown.key: shown for shown in planned if shown.key not in writer}.values())
        starts = range(0, len(missing), ENCODED_AT_ONCE)
        for start in track(starts, "encoding pictures", disable=not missing):
            part = missing[start : start + ENCODED_AT_ONCE]
            codes_NK = image_tokenizer.encode([painter.paint(shown) for shown in part], batch_size=ENCODED_AT_ONCE)
            for shown, codes_K in zip(part, codes_NK.numpy(), strict=True):
                writer.add(TokenDocument(shown.key, codes_K))
    return TokenDataset(folder, tokenizer_hash=image_tokenizer.fingerprint)


def _scenes(records: Sequence[Picture], count: int, random: np.random.Generator) -> list[Composition]:
    of_style: defaultdict[str, list[Picture]] = defaultdict(list)
    for record in records:
        of_style[record.style].append(record)
    styles = sorted(style for style, drawings in of_style.items() if len(drawings) > 1)
    planned: dict[str, Composition] = {}
    # Small sets may not have that many pairs.
    for _ in range(4 * count if styles else 0):
        if len(planned) >= count:
            break
        drawings = of_style[styles[int(random.integers(len(styles)))]]
        first, second = (drawings[int(index)] for index in random.choice(len(drawings), 2, replace=False))
        arrangement: Arrangement = "left of" if random.random() < 0.7 else "above"
        if first.name != second.name and not scene_is_withheld(first.name, second.name):
            shown = Composition(first.style, first.name, arrangement=arrangement, other=second.name)
            planned[shown.key] = shown
    return list(planned.values())


def _some(choices: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [choices[int(index)] for index in random.permutation(len(choices))[:count]]


def leaks(shown: Composition) -> bool:
    """Whether a composition is one that training must never show."""
    if WITHHELD_SHAPES.intersection((shown.name, shown.other, shown.subject)):
        return True
    if shown.other is not None and scene_is_withheld(shown.name, shown.other):
        return True
    return shown.ground is not None and scene_is_withheld(shown.name, f"{shown.ground} ground")
