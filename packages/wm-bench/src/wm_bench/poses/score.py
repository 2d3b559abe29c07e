"""One number set per clip and protocol: means, curves, windows, slope and end point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wm_bench.poses.errors import PoseErrors, pose_errors, relative_pose_errors, slope_per_minute
from wm_bench.poses.protocols import align, relative_pair

Array = NDArray[np.float64]
WINDOW_S = 10.0


class PoseScore(NamedTuple):
    """Camera errors of one clip under one protocol; RotErr in degrees, TransErr in the truth's units."""

    protocol: str
    rot_err_deg: float
    trans_err: float
    cam_mc: float
    scale: float
    flags: tuple[str, ...]
    relative_rot_deg: float  # over one second
    relative_trans: float
    rot_slope_deg_per_min: float
    end_trans: float
    windows_rot_deg: tuple[float, ...]  # means over 10 s windows
    errors: PoseErrors  # per sampled frame


def score_poses(protocol: str, estimate: Array, truth: Array, times_s: Array, *, drop_first: bool = False) -> PoseScore:
    """Score estimated poses (n, 4, 4) against the true poses at the same instants `times_s` (n,).

    `drop_first` leaves out the first sampled pose of both, as the released script does for refined methods; it is an
    explicit choice here and the same for every method. Raises ValueError for shapes that do not fit and for NaN.
    """
    ours, true = relative_pair(estimate, truth, drop_first)
    times = np.asarray(times_s, np.float64)[1 if drop_first else 0 :]
    alignment = align(protocol, ours, true)
    errors = pose_errors(alignment.c2w, true)
    step_s = float(np.median(np.diff(times)))
    delta = max(1, round(1.0 / step_s))
    turn, move = relative_pose_errors(alignment.c2w, true, delta) if len(true) > delta else (np.zeros(0), np.zeros(0))
    count = max(1, int((times[-1] + step_s) // WINDOW_S))
    inside = [(times >= WINDOW_S * w) & (times < WINDOW_S * (w + 1)) for w in range(count)]
    return PoseScore(
        protocol,
        float(errors.rotation_deg.mean()),
        float(errors.translation.mean()),
        float(errors.cam_mc.mean()),
        alignment.scale,
        alignment.flags,
        float(turn.mean()) if len(turn) else float("nan"),
        float(move.mean()) if len(move) else float("nan"),
        slope_per_minute(errors.rotation_deg, times),
        float(errors.translation[-1]),
        tuple(float(errors.rotation_deg[mask].mean()) for mask in inside if mask.any()),
        errors,
    )
