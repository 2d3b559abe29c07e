"""PSNR and SSIM exactly as the released benchmark computes them. Reference: benchmark specification 3.4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

IDENTICAL_DB = 100.0
_C1, _C2, _WINDOW = 6.5025, 58.5225, 11


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of two pictures (H, W, 3) in dB, joint over channels; 100 for equal ones.

    With a mask (H, W) only its pixels count; an empty mask gives NaN.
    """
    difference = a.astype(np.float64) - b.astype(np.float64)
    if mask is not None:
        difference = difference[mask]
        if not difference.size:
            return float("nan")
    error = float(np.mean(difference * difference))
    return IDENTICAL_DB if error < 1e-10 else float(10.0 * np.log10(255.0**2 / error))


def ssim_map(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity (H, W), mean over channels: uniform 11x11 window, reflected edges, biased variances."""
    total = np.zeros(a.shape[:2])
    for channel in range(3):
        x, y = a[..., channel].astype(np.float64), b[..., channel].astype(np.float64)
        mx, my = (uniform_filter(v, _WINDOW, mode="reflect") for v in (x, y))
        xx, yy, xy = (uniform_filter(v, _WINDOW, mode="reflect") for v in (x * x, y * y, x * y))
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        total += ((2 * mx * my + _C1) * (2 * cov + _C2)) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return total / 3.0


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> float:
    """Mean structural similarity of two pictures (H, W, 3), in [-1, 1]; over a mask's pixels where one is given."""
    values = ssim_map(a, b)
    if mask is not None:
        values = values[mask]
        if not values.size:
            return float("nan")
    return float(values.mean())
