"""Measures of drawings that need no model: nearest pictures, ink, colour, overlap.

Shapes: N pictures, M training pictures, F pixel values of a picture, H W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
INK = 48
"""By how many levels of 255 in some channel a pixel differs from white where something is drawn."""


def nearest_indices(pictures_NHWC: Bytes, trained_MHWC: Bytes) -> npt.NDArray[np.int64]:
    """For each picture, which training picture has the least mean square difference."""
    trained_MF = trained_MHWC.reshape(len(trained_MHWC), -1).astype(np.float32)
    norms_M = np.einsum("mf,mf->m", trained_MF, trained_MF)
    pictures_NF = pictures_NHWC.reshape(len(pictures_NHWC), -1).astype(np.float32)
    return (norms_M - 2 * pictures_NF @ trained_MF.T).argmin(axis=1)


def psnr_of(first_HWC: Bytes, second_HWC: Bytes) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean((first_HWC.astype(np.float64) - second_HWC) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ink(picture_HWC: Bytes) -> Mask:
    """Where something is drawn on white: bool [H, W]."""
    return picture_HWC.min(axis=2) < 255 - INK


def median_colour(picture_HWC: Bytes, where_HW: Mask) -> npt.NDArray[np.float64]:
    """The median of each channel over a part of a picture; white where the part is empty."""
    if not where_HW.any():
        return np.full(3, 255.0)
    return np.median(picture_HWC[where_HW].astype(np.float64), axis=0)


def overlap(first_HW: Mask, second_HW: Mask) -> float:
    """Intersection over union; 0 where both are empty."""
    union = np.count_nonzero(first_HW | second_HW)
    return np.count_nonzero(first_HW & second_HW) / union if union else 0.0
