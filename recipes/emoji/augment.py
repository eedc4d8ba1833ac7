"""Augmentation: pictures moved, scaled, mirrored, recoloured, on grounds, two in one scene, and distorted.

Everything random comes from one generator, so that a seed always gives the same pictures.
Shapes: H W pixels, C channels (RGBA with straight alpha unless a name says otherwise).
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from chameleon_core.evaluation.embedded_requests import GROUNDS, is_withheld

from .pictures import SIDE, WHITE

RGBA = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture's place on the canvas: its side and its centre, in pixels."""

    side: float
    x: float
    y: float

    @classmethod
    def whole(cls) -> Placement:
        """Return the placement that fills the canvas."""
        return cls(SIDE, SIDE / 2, SIDE / 2)

    @classmethod
    def near_whole(cls, random: np.random.Generator) -> Placement:
        """Return a random placement of 70 to 100 % of the canvas, with nothing cut off."""
        side = SIDE * random.uniform(0.7, 1.0)
        return cls(side, *random.uniform(side / 2, SIDE - side / 2, size=2))


def place(canvas: Image.Image, picture_HWC: RGBA, placement: Placement) -> None:
    """Composite a picture onto an RGB canvas."""
    corner = placement.x - placement.side / 2, placement.y - placement.side / 2
    if placement == Placement.whole():
        picture = Image.fromarray(picture_HWC, "RGBA")
        canvas.paste(picture, (0, 0), picture)
        return
    # The transform keeps fractions of a pixel. Premultiplied, so that colours of invisible pixels don't bleed.
    scale = SIDE / placement.side
    picture = Image.fromarray(picture_HWC, "RGBA").convert("RGBa")
    if scale > 1.2:
        # An affine transform takes point samples: shrink by averaging first.
        side = round(placement.side)
        picture = picture.resize((side, side), Image.Resampling.BOX, reducing_gap=None)
        scale = side / placement.side
    matrix = (scale, 0.0, -corner[0] * scale, 0.0, scale, -corner[1] * scale)
    moved = picture.transform(canvas.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR).convert("RGBA")
    canvas.paste(moved, (0, 0), moved)


def distorted(
    picture_HWC: RGBA, random: np.random.Generator, ground: tuple[int, int, int] = WHITE
) -> npt.NDArray[np.uint8]:
    """Rotate, shear, stretch, move, scale, relight and sometimes blur a drawing: uint8 [64, 64, 3].

    What the name depends on stays, so that the model can recognise it in another artist's drawing.
    """
    cosine, sine = math.cos(turn := random.uniform(-0.25, 0.25)), math.sin(turn)
    size, stretch = random.uniform(0.65, 1.05), math.exp(random.uniform(-0.12, 0.12))
    forward_22 = (
        np.array([[cosine, -sine], [sine, cosine]])
        @ np.array([[1.0, random.uniform(-0.15, 0.15)], [0.0, 1.0]])
        @ np.diag([size * stretch, size / stretch])
    )
    # From the canvas back to the drawing, as Pillow wants it; some pixels may be cut off.
    back_22 = np.linalg.inv(forward_22)
    middle, room = SIDE / 2, max(0.0, 1 - size) * SIDE / 2 + 4
    offset_2 = middle - back_22 @ (middle + random.uniform(-room, room, size=2))
    # Sampled at twice the side, because an affine transform takes point samples.
    large = Image.fromarray(picture_HWC, "RGBA").convert("RGBa").resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    matrix = (*back_22[0], 2 * offset_2[0], *back_22[1], 2 * offset_2[1])
    large = large.transform(large.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    moved = large.resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGBA")
    canvas = Image.new("RGB", (SIDE, SIDE), ground)
    canvas.paste(relit(moved, random), (0, 0), moved)
    if random.random() < 0.35:
        canvas = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.0)))
    return np.asarray(canvas)


def redrawn(picture_HWC: RGBA, random: np.random.Generator) -> RGBA:
    """Imitate another artist: warp, recolour, shade, flatten, outline and partly hide a drawing.

    Takes and returns uint8 [64, 64, 4].
    """
    warped_HWC = turn_hue(warped(picture_HWC, random.uniform(0.0, 2.2), random), random.uniform(-0.07, 0.07))
    rgb_HWC = (warped_HWC[..., :3].astype(np.float32) / 255) ** random.uniform(0.6, 1.6)
    if random.random() < 0.4:
        turn, line = random.uniform(0.0, 2 * math.pi), np.linspace(-1.0, 1.0, SIDE)
        rgb_HWC *= 1 + 0.25 * (math.cos(turn) * line[None, :, None] + math.sin(turn) * line[:, None, None])
    if random.random() < 0.25:
        levels = int(random.integers(3, 6))
        rgb_HWC = np.round(rgb_HWC * levels) / levels
    alpha_HW = warped_HWC[..., 3].copy()
    if random.random() < 0.3:
        width = 3 if random.random() < 0.6 else 5
        inner = Image.fromarray(alpha_HW).filter(ImageFilter.MinFilter(width))
        inner_HW1 = np.asarray(inner)[..., None].astype(np.float32) / 255
        rgb_HWC *= inner_HW1 + random.uniform(0.2, 0.6) * (1 - inner_HW1)
    if random.random() < 0.25:
        height, width = random.integers(8, 22, size=2)
        top, left = random.integers(0, SIDE - height), random.integers(0, SIDE - width)
        alpha_HW[top : top + height, left : left + width] = 0
    rgb_HWC = (255 * rgb_HWC).clip(0, 255)
    return np.concatenate([rgb_HWC.astype(np.uint8), alpha_HW[..., None]], axis=2)


def warped(picture_HWC: RGBA, pixels: float, random: np.random.Generator) -> RGBA:
    """Warp a drawing smoothly by about ``pixels``: uint8 [64, 64, 4], as returned."""
    coarse_2hw = random.normal(scale=pixels, size=(2, 5, 5)).astype(np.float32)
    shift_2HW = [
        np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for each in coarse_2hw
    ]
    # Bilinear and premultiplied, so that colours of invisible pixels don't bleed.
    y_HW, x_HW = np.clip(np.indices((SIDE, SIDE)) + np.stack(shift_2HW), 0, SIDE - 1.001)
    top_HW, left_HW = y_HW.astype(int), x_HW.astype(int)
    down_HW1, right_HW1 = (y_HW - top_HW)[..., None], (x_HW - left_HW)[..., None]
    flat_HWC = np.asarray(Image.fromarray(picture_HWC, "RGBA").convert("RGBa")).astype(np.float32)
    upper_HWC = flat_HWC[top_HW, left_HW] * (1 - right_HW1) + flat_HWC[top_HW, left_HW + 1] * right_HW1
    lower_HWC = flat_HWC[top_HW + 1, left_HW] * (1 - right_HW1) + flat_HWC[top_HW + 1, left_HW + 1] * right_HW1
    moved_HWC = (upper_HWC * (1 - down_HW1) + lower_HWC * down_HW1).round().astype(np.uint8)
    return np.asarray(Image.frombytes("RGBa", (SIDE, SIDE), moved_HWC.tobytes()).convert("RGBA"))


def relit(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change a picture's hue, saturation, contrast and brightness a little."""
    hsv_HWC = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32)
    hsv_HWC[..., 0] = (hsv_HWC[..., 0] + random.integers(-9, 10)) % 256
    hsv_HWC[..., 1] = np.minimum(hsv_HWC[..., 1] * random.uniform(0.6, 1.3), 255)
    rgb_HWC = np.asarray(Image.fromarray(hsv_HWC.astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
    rgb_HWC = (rgb_HWC - 127.5) * random.uniform(0.7, 1.25) + 127.5 + 255 * random.uniform(-0.1, 0.1)
    return Image.fromarray(rgb_HWC.clip(0, 255).astype(np.uint8))


def mirror(picture_HWC: RGBA) -> RGBA:
    """Mirror a picture horizontally."""
    return np.ascontiguousarray(picture_HWC[:, ::-1])


def turn_hue(picture_HWC: RGBA, turn: float) -> RGBA:
    """Rotate every hue by a fraction of the colour circle; greys stay."""
    hsv_HWC = np.asarray(Image.fromarray(picture_HWC[..., :3], "RGB").convert("HSV")).copy()
    hsv_HWC[..., 0] = (hsv_HWC[..., 0].astype(np.int16) + round(turn * 256)) % 256
    rgb_HWC = np.asarray(Image.fromarray(hsv_HWC, "HSV").convert("RGB"))
    return np.concatenate([rgb_HWC, picture_HWC[..., 3:]], axis=2)


def on_canvas(
    picture_HWC: RGBA, placement: Placement | None = None, ground: tuple[int, int, int] = WHITE
) -> npt.NDArray[np.uint8]:
    """Composite one picture onto a ground: uint8 [64, 64, 3]."""
    canvas = Image.new("RGB", (SIDE, SIDE), ground)
    place(canvas, picture_HWC, placement or Placement.whole())
    return np.asarray(canvas)


Arrangement = Literal["left of", "above"]
ARRANGEMENTS: tuple[Arrangement, ...] = get_args(Arrangement)


def scene(
    first_HWC: RGBA,
    second_HWC: RGBA,
    arrangement: Arrangement,
    ground: tuple[int, int, int] = WHITE,
) -> npt.NDArray[np.uint8]:
    """Composite two pictures at half size, the first left of or above the second: uint8 [64, 64, 3]."""
    canvas = Image.new("RGB", (SIDE, SIDE), ground)
    near, far, middle = SIDE / 4, 3 * SIDE / 4, SIDE / 2
    first, second = ((near, middle), (far, middle)) if arrangement == "left of" else ((middle, near), (middle, far))
    place(canvas, first_HWC, Placement(SIDE / 2, *first))
    place(canvas, second_HWC, Placement(SIDE / 2, *second))
    return np.asarray(canvas)


def any_ground(random: np.random.Generator) -> tuple[int, int, int]:
    """Return a random colour of any hue and saturation."""
    red, green, blue = colorsys.hsv_to_rgb(random.random(), random.uniform(0.0, 0.8), random.uniform(0.2, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def allowed_ground(name: str, random: np.random.Generator) -> tuple[int, int, int]:
    """Return a random ground that a prompt can name and that isn't withheld together with ``name``."""
    colours = [colour for colour in GROUNDS if colour != "white" and not is_withheld(name, f"{colour} ground")]
    return GROUNDS[str(random.choice(colours))]
