"""Comparing by time, so that the same motion at 16, 24 or 30 frames per second scores the same."""

from __future__ import annotations

import numpy as np
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray

EVERY_S = 0.25
"""The released script takes every fourth frame at 16 fps; this is the same in seconds."""


def nearest_frames(times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the frame whose time is nearest to each wanted time; ties go to the earlier frame.

    `times_s` must increase. Reference: benchmark specification 6.2.
    """
    right = np.clip(np.searchsorted(times_s, wanted_s), 1, max(len(times_s) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times_s) - 1)
    # A billionth of a second keeps ties stable against rounding of pts.
    return np.where(wanted_s - times_s[left] <= times_s[right] - wanted_s + 1e-9, left, right)


def sample_times(times_s: NDArray[np.float64], duration_s: float, every_s: float = EVERY_S) -> NDArray[np.int64]:
    """Frames of a video nearest to 0, every_s, 2 every_s, ... within both the video and `duration_s`; each once."""
    end = min(float(times_s[-1]), duration_s)
    wanted = np.arange(int(np.floor(end / every_s + 1e-6)) + 1, dtype=np.float64) * every_s
    return np.unique(nearest_frames(times_s, wanted))


def truth_at(truth: Trajectory, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """True poses (n, 4, 4) at the instants the frames really show, not at their index.

    Instants after the last pose (by at most one pose interval) take the last pose.
    """
    last = float(truth.times_s[-1])
    if times_s.max() > last + 1.0 / truth.fps + 1e-9:
        raise ValueError(f"a frame at {times_s.max():g} s lies after the path's end; allowed: 0 to {last:g} s")
    return truth.at(np.minimum(times_s, last))[0]
