"""A stand-in for an image tokenizer: instant, exact in both directions, and made of numpy alone.

Shapes: B pictures, N codes of a picture, h w the grid of codes, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

PATCH = 4
"""The side, in pixels, of the patch that one code paints."""


class FakeImageTokenizer:
    """Codes from the colour at the centre of each cell of a grid, and pictures painted from codes.

    ``encode(decode(codes))`` returns the codes. It reads uint8 arrays [H, W, C] and whatever ``numpy.asarray`` makes
    one of, a PIL image for instance, and draws arrays. ``calls`` counts the calls of ``encode``.
    """

    def __init__(self, num_codes: int = 64, *, latent_size: tuple[int, int] = (2, 2)) -> None:
        self.num_codes = num_codes
        self.latent_size = latent_size
        self.tokens_per_image = latent_size[0] * latent_size[1]
        self.calls = 0

    def picture_size(self, image: Any) -> tuple[int, int]:
        """Return the height and width of a picture in pixels."""
        height, width = np.asarray(image).shape[:2]
        return height, width

    def encode(self, images: Sequence[Any], *, size: tuple[int, int] | None = None) -> npt.NDArray[np.int64]:
        """Return the codes [B, N] of pictures, of another grid where they are read at another ``size`` in pixels."""
        self.calls += 1
        grid = self.latent_size if size is None else (size[0] // PATCH, size[1] // PATCH)
        return np.stack([self._codes(np.asarray(image), grid) for image in images])

    def decode(
        self, codes: npt.ArrayLike, *, latent_size: tuple[int, int] | None = None
    ) -> list[npt.NDArray[np.uint8]]:
        """Return a picture [H, W, 3] for each row of codes [B, N], of another grid where one is given."""
        pictures = []
        for codes_hw in np.asarray(codes, dtype=np.int64).reshape(-1, *(latent_size or self.latent_size)):
            cells_hwC = np.stack([codes_hw % 256, codes_hw // 256, np.zeros_like(codes_hw)], axis=-1)
            pictures.append(cells_hwC.repeat(PATCH, axis=0).repeat(PATCH, axis=1).astype(np.uint8))
        return pictures

    def _codes(self, pixels_HWC: npt.NDArray[np.uint8], grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        rows, columns = (
            (np.arange(cells) * 2 + 1) * side // (2 * cells)
            for cells, side in zip(grid, pixels_HWC.shape[:2], strict=True)
        )
        cells_hwC = pixels_HWC[rows][:, columns].astype(np.int64)
        codes_N: npt.NDArray[np.int64] = (cells_hwC[..., 0] + 256 * cells_hwC[..., 1]).reshape(-1) % self.num_codes
        return codes_N
