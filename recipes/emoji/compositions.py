"""The transformer's training pictures: planned by name, rendered, and encoded once.

The image tokenizer is too slow for the training loop, so each planned picture is encoded once; its codes are stored
under its key, in a store for one image tokenizer (identified by its fingerprint).

Shapes: B pictures, N codes of a picture, H W pixels, C channels (RGBA with straight alpha).
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

from chameleon_core.evaluation.embedded_requests import COLOURS, COMPOSED, GROUNDS, SHAPES, is_withheld
from chameleon_core.training import TokenDataset, TokenDatasetWriter, TokenDocument
from chameleon_vq import ImageTokenizer

from .augment import ARRANGEMENTS, RGBA, Arrangement, Placement, distorted, mirror, on_canvas, redrawn, scene, turn_hue
from .pictures import Picture, PictureSet
from .prompts import Composition
from .splits import WITHHELD_SHAPES
from .things import THINGS

HUES = {"red": 0.0, "orange": 0.08, "yellow": 0.14, "green": 0.33, "blue": 0.58, "purple": 0.77}
"""The hues of the colour words, as fractions of the colour circle."""

NAMED_STYLE = "noto-v1"
"""The style that is only named, in fine-tuning, and never drawn."""

# Mirroring would change the meaning of these.
_HANDED = ("left", "right", "moon", "clock", "thirty", "quarter", "letter", "input", "calendar", "music")
ENCODED_AT_ONCE = 32
SHARD_PICTURES = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSize:
    """How many pictures are made of each drawing, and how many scenes of all."""

    variants: int = 6
    """Unchanged, and moved, scaled and mirrored."""
    grounds: int = 4
    recoloured: int = 2
    scenes: int = 6_000
    shape_variants: int = 16
    """Variants of each plain heart, circle and square: they are few, and teach colour and shape separately."""
    views: int = 32
    """Distorted pictures, which are only named, never drawn."""
    redrawn: int = 24
    """Views that fine-tuning adds, which imitate another artist."""


def is_shape(name: str) -> bool:
    """Return whether this is a plain heart, circle or square in one of the seven colours."""
    return any(name == f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def learned(pictures: PictureSet) -> PictureSet:
    """Return the drawings that the transformer learns to draw: everyday things and plain shapes."""
    return pictures.where(lambda picture: picture.core and picture.split == "train" and is_taught(picture.name))


def only_named(pictures: PictureSet) -> PictureSet:
    """Return the drawings that fine-tuning only names: the same things by a fourth artist."""
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
    """Return whether the transformer learns this name."""
    return name in THINGS or is_shape(name)


def plan(pictures: PictureSet, size: PlanSize | None = None, *, seed: int = 0) -> list[Composition]:
    """Plan the pictures made of these drawings, without withheld scenes or grounds; no plain shape is recoloured.

    The drawings must be those of ``learned``. Raises ``ValueError`` for a withheld one.
    """
    size = size or PlanSize()
    random = np.random.default_rng(seed)
    planned = []
    for record, rgba_HWC in zip(pictures.records, pictures.rgba_BHWC, strict=True):
        if record.split != "train":
            raise ValueError(
                f"{record.style} {record.name} is {record.split} and must not be learned. Plan only training pictures."
            )
        single = Composition(record.style, record.name, record.group)
        variants = size.shape_variants if is_shape(record.name) else size.variants
        planned += [replace(single, variant=variant) for variant in range(variants)]
        # Relighting a shape would change its colour, which is part of its name.
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
    """Return the coloured grounds on which a thing isn't withheld."""
    return [colour for colour in GROUNDS if colour != "white" and not is_withheld(name, f"{colour} ground")]


def colours_for(record: Picture, rgba_HWC: RGBA) -> list[str]:
    """Return the colours for recolouring: none for names with a colour, shapes, and drawings of many colours."""
    words = record.name.split()
    if {*COLOURS, *SHAPES, "black", "white"}.intersection(words) or dominant_hue(rgba_HWC) is None:
        return []
    return list(HUES)


def dominant_hue(rgba_HWC: RGBA) -> float | None:
    """Return the hue of most of a drawing, as a fraction of the colour circle; None if there is none."""
    hsv_HWC = np.asarray(Image.fromarray(np.ascontiguousarray(rgba_HWC[..., :3]), "RGB").convert("HSV")).astype(float)
    visible_HW = rgba_HWC[..., 3] > 128
    strength_HW = np.where(visible_HW, hsv_HWC[..., 1] * hsv_HWC[..., 2] / 255**2, 0.0)
    if strength_HW.sum() < 0.3 * visible_HW.sum() or not visible_HW.any():
        return None
    mean = (strength_HW * np.exp(2j * np.pi * hsv_HWC[..., 0] / 256)).sum() / strength_HW.sum()
    return float(np.angle(mean) / (2 * np.pi) % 1) if abs(mean) > 0.85 else None


def plan_requests(pictures: PictureSet) -> list[Composition]:
    """Plan fine-tuning's own colours, grounds and scenes: all colours, and scenes of a few things.

    Each is unmoved, because a request names no place, and pictures that are often at the same place are learned. The
    drawings must be those of ``learned``.
    """
    coloured = [
        Composition(record.style, record.name, record.group, colour=colour)
        for record, rgba_HWC in zip(pictures.records, pictures.rgba_BHWC, strict=True)
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
        if first.style == second.style and not is_withheld(first.name, second.name)
    ]
    return coloured + grounds + scenes


def plan_redrawn(pictures: PictureSet, size: PlanSize | None = None) -> list[Composition]:
    """Plan more views to name, of drawings of ``learned`` or ``only_named``; shapes have none."""
    views = (size or PlanSize()).redrawn
    return [
        Composition(record.style, record.name, record.group, view=1 + view, redrawn=True)
        for record in pictures.records
        for view in range(0 if is_shape(record.name) else views)
    ]


class Painter:
    """Renders compositions; the key of each seeds its random place, size and direction."""

    def __init__(self, pictures: PictureSet) -> None:
        self._index = {(record.style, record.name): index for index, record in enumerate(pictures.records)}
        self._rgba_BHWC = pictures.rgba_BHWC

    def paint(self, shown: Composition) -> npt.NDArray[np.uint8]:
        """Render a composition: uint8 [64, 64, 3]. Raises ``KeyError`` for a missing drawing."""
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
            return distorted(first_HWC, random, ground)
        return on_canvas(first_HWC, Placement.near_whole(random), ground)

    def _drawing(self, style: str, name: str) -> RGBA:
        return np.asarray(self._rgba_BHWC[self._index[style, name]])


def encode(
    folder: Path, planned: Sequence[Composition], painter: Painter, image_tokenizer: ImageTokenizer
) -> TokenDataset:
    """Encode planned pictures that aren't encoded yet, and return the store of codes by key."""
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
            codes_BN = image_tokenizer.encode([painter.paint(shown) for shown in part], batch_size=ENCODED_AT_ONCE)
            for shown, codes_N in zip(part, codes_BN.numpy(), strict=True):
                writer.add(TokenDocument(shown.key, codes_N))
    return TokenDataset(folder, tokenizer_hash=image_tokenizer.fingerprint)


def _scenes(records: Sequence[Picture], count: int, random: np.random.Generator) -> list[Composition]:
    of_style: defaultdict[str, list[Picture]] = defaultdict(list)
    for record in records:
        of_style[record.style].append(record)
    styles = sorted(style for style, drawings in of_style.items() if len(drawings) > 1)
    planned: dict[str, Composition] = {}
    # Small sets may have fewer pairs.
    for _ in range(4 * count if styles else 0):
        if len(planned) >= count:
            break
        drawings = of_style[styles[int(random.integers(len(styles)))]]
        first, second = (drawings[int(index)] for index in random.choice(len(drawings), 2, replace=False))
        arrangement: Arrangement = "left of" if random.random() < 0.7 else "above"
        if first.name != second.name and not is_withheld(first.name, second.name):
            shown = Composition(first.style, first.name, arrangement=arrangement, other=second.name)
            planned[shown.key] = shown
    return list(planned.values())


def _some(choices: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [choices[int(index)] for index in random.permutation(len(choices))[:count]]


def leaks(shown: Composition) -> bool:
    """Return whether training must never show a composition."""
    if WITHHELD_SHAPES.intersection((shown.name, shown.other, shown.subject)):
        return True
    if shown.other is not None and is_withheld(shown.name, shown.other):
        return True
    return shown.ground is not None and is_withheld(shown.name, f"{shown.ground} ground")
