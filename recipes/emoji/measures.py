"""Measures of drawings that need no model: nearest pictures, ink, colour and overlap.

Shapes: B pictures, J training pictures, F pixel values of a picture, H W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
INK = 48
"""A pixel is drawn if some channel is darker than white by more than this many of 255 levels."""


def nearest_indices(pictures_BHWC: Bytes, trained_JHWC: Bytes) -> npt.NDArray[np.int64]:
    """Return for each picture the index of the training picture with the least mean squared difference."""
    trained_JF = trained_JHWC.reshape(len(trained_JHWC), -1).astype(np.float32)
    norms_J = np.einsum("jf,jf->j", trained_JF, trained_JF)
    pictures_BF = pictures_BHWC.reshape(len(pictures_BHWC), -1).astype(np.float32)
    return (norms_J - 2 * pictures_BF @ trained_JF.T).argmin(axis=1)


def psnr_of(first_HWC: Bytes, second_HWC: Bytes) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean((first_HWC.astype(np.float64) - second_HWC) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ink(picture_HWC: Bytes) -> Mask:
    """Return where something is drawn on white: bool [H, W]."""
    return picture_HWC.min(axis=2) < 255 - INK


def median_colour(picture_HWC: Bytes, where_HW: Mask) -> npt.NDArray[np.float64]:
    """Return the median of each channel over a part of a picture; white if the part is empty."""
    if not where_HW.any():
        return np.full(3, 255.0)
    return np.median(picture_HWC[where_HW].astype(np.float64), axis=0)


def overlap(first_HW: Mask, second_HW: Mask) -> float:
    """Return the intersection over union; 0 if both are empty."""
    union = np.count_nonzero(first_HW | second_HW)
    return np.count_nonzero(first_HW & second_HW) / union if union else 0.0
