"""Points followed from frame to frame, for scenes too smooth for feature descriptors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wm_bench.estimators import Unavailable

_WINDOW_PX = 15
_COARSEST_PX = 24
_ROUND_TRIP_PX = 0.3
_QUALITY = 0.002


class Tracked(NamedTuple):
    """Points of one frame: positions (m, 2) px with (0.5, 0.5) in the middle of the first pixel, track numbers (m,)."""

    points: NDArray[np.float32]
    tracks: NDArray[np.int64]


def follow_points(frames: NDArray[np.uint8], most: int) -> list[Tracked]:
    """Follow up to `most` corners through frames (n, H, W, 3) and start new ones where old ones are lost.

    A point is kept while following it back leads to where it came from, to 0.3 px.
    """
    try:
        import cv2
    except ImportError:
        raise Unavailable("OpenCV is not installed; pip install 'wm-bench[poses]'") from None
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    short = min(grey[0].shape)
    levels = max(0, int(np.log2(short / _COARSEST_PX)))
    apart = max(3.0, 0.7 * float(np.sqrt(grey[0].size / most)))
    points, tracks = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    born = 0
    out = []
    for i, now in enumerate(grey):
        if i and len(points):
            points, kept = _follow(cv2, grey[i - 1], now, points, levels)
            tracks = tracks[kept]
        new = _corners(cv2, now, points, most - len(points), apart)
        points = np.concatenate([points, new])
        tracks = np.concatenate([tracks, np.arange(born, born + len(new))])
        born += len(new)
        # OpenCV counts from the middle of the first pixel; everything else here from its corner.
        out.append(Tracked(points + np.float32(0.5), tracks))
    return out


def _follow(
    cv2: Any, before: NDArray[np.uint8], now: NDArray[np.uint8], points: NDArray[np.float32], levels: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    how = {
        "winSize": (_WINDOW_PX, _WINDOW_PX),
        "maxLevel": levels,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 0.003),
        "minEigThreshold": 1e-5,
    }
    there, ok, _ = cv2.calcOpticalFlowPyrLK(before, now, points[:, None], None, **how)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **how)
    off = np.linalg.norm(back[:, 0] - points, axis=1)
    there = there[:, 0]
    height, width = now.shape
    inside = (there >= 1).all(1) & (there[:, 0] <= width - 2) & (there[:, 1] <= height - 2)
    kept = (ok[:, 0] == 1) & (ok_back[:, 0] == 1) & (off < _ROUND_TRIP_PX) & inside
    return there[kept], kept


def _corners(
    cv2: Any, frame: NDArray[np.uint8], taken: NDArray[np.float32], most: int, apart: float
) -> NDArray[np.float32]:
    if most < 1:
        return np.zeros((0, 2), np.float32)
    free = np.full(frame.shape, 255, np.uint8)
    for x, y in taken:
        cv2.circle(free, (round(float(x)), round(float(y))), round(apart), 0, -1)
    found = cv2.goodFeaturesToTrack(frame, most, _QUALITY, apart, mask=free, blockSize=5)
    return np.zeros((0, 2), np.float32) if found is None else found[:, 0].astype(np.float32)
