"""Pairs of frames at which the camera stands and looks almost the same, seconds apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_DISTANCE_M = 0.5
MAX_ANGLE_DEG = 20.0
MIN_GAP_S = 10.0
GRID = 4  # pairs lie on every fourth frame
APART = 2  # two pairs are the same one when both ends are within this many grid steps
MOST = 256


class RevisitPair(NamedTuple):
    """Two frames (indices at the reference rate, 16 fps) of one place; a lower quality_score is a closer match."""

    frame_a: int
    frame_b: int
    distance_m: float
    angle_diff_deg: float
    quality_score: float
    gap_s: float


def find_revisits(c2w: Array, fps: float) -> list[RevisitPair]:
    """Revisit pairs of a path (n, 4, 4), best first: nearer than 0.5 m and 20 degrees, at least 10 s apart.

    Frame 0 is in no pair. quality_score = distance / 0.5 + angle / 20, so 0 is exact and 2 the limit. Of pairs that
    lie within half a second of each other at both ends only the best is kept, and at most 256 in all.
    """
    frames = np.arange(GRID, len(c2w), GRID)
    position, rotation = c2w[frames, :3, 3], c2w[frames, :3, :3].reshape(len(frames), 9)
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
    angle = np.degrees(np.arccos(np.clip((rotation @ rotation.T - 1.0) / 2.0, -1.0, 1.0)))
    quality = distance / MAX_DISTANCE_M + angle / MAX_ANGLE_DEG
    gap = frames[None] - frames[:, None]
    allowed = (distance < MAX_DISTANCE_M) & (angle < MAX_ANGLE_DEG) & (gap >= round(MIN_GAP_S * fps))
    # Rounding makes ties real ties, which then go to the earliest pair on every machine.
    left = np.where(allowed, np.round(quality, 6), np.inf)
    found: list[RevisitPair] = []
    while len(found) < MOST:
        a, b = np.unravel_index(int(left.argmin()), left.shape)
        if not np.isfinite(left[a, b]):
            break
        found.append(
            RevisitPair(
                int(frames[a]),
                int(frames[b]),
                round(float(distance[a, b]), 6),
                round(float(angle[a, b]), 6),
                float(left[a, b]),
                round(float(frames[b] - frames[a]) / fps, 6),
            )
        )
        left[max(0, a - APART) : a + APART + 1, max(0, b - APART) : b + APART + 1] = np.inf
    return found


def read_pair(entry: dict[str, Any], fps: float) -> RevisitPair:
    """A stored pair from a trajectories file; a missing quality_score counts as 999, as upstream does."""
    a, b = int(entry["frame_a"]), int(entry["frame_b"])
    return RevisitPair(
        a,
        b,
        float(entry.get("distance_m", "nan")),
        float(entry.get("angle_diff_deg", "nan")),
        float(entry.get("quality_score", 999.0)),
        abs(b - a) / fps,
    )
