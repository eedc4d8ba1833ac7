"""Pictures drawn anew in part: which codes stay, by a mask in pixels or by chance.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..errors import GenerationError
from ..layout import TokenLayout
from ..picture_grammars import Grid
from ..protocols import ImageTokenizerLike
from .parts import sized
from .prompts import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

Mask: TypeAlias = "PILImage | NDArray[np.bool_] | NDArray[np.uint8]"
"""Which pixels are drawn anew: a PIL image that isn't black there, or an array [H, W] that isn't 0 there."""

# In shares of the way from black to white. Resizing leaves less than that of a white pixel that is far away.
_FAINT = 0.02


def read_codes(picture: Picture, image_tokenizer: ImageTokenizerLike, layout: TokenLayout) -> tuple[list[int], Grid]:
    """Return the codes of a picture and the grid that they are in."""
    pictures = layout.pictures
    if not pictures.has_sizes:
        return image_tokenizer.encode([picture])[0].tolist(), pictures.grids[0]
    several = sized(image_tokenizer)
    grid = pictures.fit(*several.picture_size(picture))
    return several.encode([picture], size=pictures.pixels(grid))[0].tolist(), grid


def keep_outside(
    mask: Mask, picture: Picture, codes: list[int], grid: Grid, image_tokenizer: ImageTokenizerLike, layout: TokenLayout
) -> tuple[int | None, ...]:
    """Return the codes of a picture, None at each position that has a masked pixel.

    The mask is resized and cropped as the picture is. Raises ``GenerationError`` where it has another size or no pixel.
    """
    white_HW = _white(mask)
    several = sized(image_tokenizer)
    size = several.picture_size(picture)
    if white_HW.shape != size:
        raise GenerationError(
            f"the mask has {white_HW.shape[0]}×{white_HW.shape[1]} pixels and the picture {size[0]}×{size[1]} "
            "(height × width). Give the mask the picture's size."
        )
    grey_HWC = np.repeat((white_HW * np.uint8(255))[..., None], 3, axis=2)
    levels = (grey_HWC, np.zeros_like(grey_HWC), np.full_like(grey_HWC, 255))
    at_size = layout.pictures.pixels(grid) if layout.pictures.has_sizes else None
    mask_CHW, black_CHW, white_CHW = several.pixels(levels, size=at_size)
    is_masked_HW = ((mask_CHW - black_CHW) / (white_CHW - black_CHW)).amax(dim=0) > _FAINT
    open_hw = _any_in_cells(is_masked_HW, grid)
    if not open_hw.any():
        raise GenerationError("the mask leaves every position of the picture as it is. Mask what is to be drawn anew.")
    return _kept(codes, ~open_hw.flatten())


def keep_some(codes: list[int], grid: Grid, strength: float, seed: int | None) -> tuple[int | None, ...]:
    """Return the codes of a picture, None at the share ``strength`` of the positions, drawn by ``seed``."""
    if not 0 < strength <= 1:
        raise GenerationError(f"strength is the share of the picture that is drawn anew, in (0, 1]; got {strength}.")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    count = grid.height * grid.width
    order = torch.randperm(count, generator=generator)
    is_kept = torch.ones(count, dtype=torch.bool)
    is_kept[order[: max(round(strength * count), 1)]] = False
    return _kept(codes, is_kept)


def _white(mask: Any) -> NDArray[np.bool_]:
    array = np.asarray(mask.convert("L") if hasattr(mask, "convert") else mask)
    if array.ndim != 2 or array.dtype not in (np.bool_, np.uint8):
        raise GenerationError(
            f"the mask is {array.dtype} {list(array.shape)}; expected a PIL image, or bool or uint8 [height, width]."
        )
    return array.astype(np.bool_)


def _any_in_cells(is_masked_HW: Tensor, grid: Grid) -> Tensor:
    cell = (is_masked_HW.shape[0] // grid.height, is_masked_HW.shape[1] // grid.width)
    return max_pool2d(is_masked_HW.float()[None, None], cell)[0, 0].bool()


def _kept(codes: list[int], is_kept: Tensor) -> tuple[int | None, ...]:
    each = len(codes) // len(is_kept)
    return tuple(code if is_kept[place // each] else None for place, code in enumerate(codes))
