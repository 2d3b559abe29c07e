"""Per-frame measures that need no weights, and what becomes of them over a minute.

Their names start with "proxy." because none of them is VBench's imaging quality and none may pass for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PROXIES = ("proxy.sharpness", "proxy.contrast", "proxy.saturation", "proxy.blockiness")
WINDOW_S = 10.0
_LUMA = np.array([0.299, 0.587, 0.114])


def frame_proxies(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Four numbers of a picture (H, W, 3), in the order of PROXIES.

    Sharpness: variance of the 4-neighbour Laplacian of luma. Contrast: standard deviation of luma. Saturation: mean
    of max - min over channels. Blockiness: mean step across 8-pixel borders over mean step elsewhere (1: none).
    """
    luma = frame.astype(np.float64) @ _LUMA
    inner = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    saturation = (frame.max(axis=2).astype(np.float64) - frame.min(axis=2)).mean()
    return np.array([(around - 4.0 * inner).var(), luma.std(), saturation, _blockiness(luma)])


def _blockiness(luma: NDArray[np.float64]) -> float:
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=1 - axis)
        at_border = np.arange(len(steps)) % 8 == 7
        if at_border.any() and not at_border.all():
            ratios.append((steps[at_border].mean() + 1e-6) / (steps[~at_border].mean() + 1e-6))
    return float(np.mean(ratios)) if ratios else 1.0


def window_means(values: NDArray[np.float64], times_s: NDArray[np.float64], duration_s: float) -> list[float]:
    """Means over whole windows of 10 s, in order; one window when the clip is shorter.

    Windows are in seconds whatever the frame rate; a rest shorter than a window is left out, as upstream leaves it.
    """
    count = max(1, int((duration_s + 1e-6) // WINDOW_S))
    ends = [WINDOW_S * (w + 1) for w in range(count)]
    if count == 1:
        ends = [max(WINDOW_S, duration_s + 1.0)]
    means = []
    for w, end in enumerate(ends):
        inside = (times_s >= WINDOW_S * w) & (times_s < end)
        means.append(float(values[inside].mean()) if inside.any() else float("nan"))
    return means


def drift(windows: list[float]) -> float:
    """First window minus last: positive means worse for measures where more is better; NaN for a single window."""
    return windows[0] - windows[-1] if len(windows) > 1 else float("nan")


class Flicker:
    """VBench's temporal flickering, exactly and without weights: feed it every frame in order."""

    def __init__(self) -> None:
        self._before: NDArray[np.int16] | None = None
        self._total = 0.0
        self._count = 0

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Take the next frame (H, W, 3)."""
        now = frame.astype(np.int16)
        if self._before is not None:
            self._total += float(np.abs(now - self._before).mean())
            self._count += 1
        self._before = now

    @property
    def value(self) -> float:
        """(255 - mean absolute difference of consecutive frames) / 255, in [0, 1]; NaN before two frames."""
        return (255.0 - self._total / self._count) / 255.0 if self._count else float("nan")
