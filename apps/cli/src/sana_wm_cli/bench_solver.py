"""The solver of pose-annotation as an estimator of the benchmark; the two packages do not know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wm_bench.estimators import Estimator, PoseEstimate, PoseRequest

NAME = "pose-annotation"


class PoseAnnotation:
    """Tracked points and bundle adjustment with the lens that was asked for; no weights."""

    id = NAME
    weights_sha256 = "none"

    def __init__(self, options: str = "") -> None:
        from pose_annotation import __version__
        from pose_annotation.tracking import KltTracker

        if options:
            raise ValueError(f"{NAME} takes no options, got {options!r}; example: --estimator {NAME}")
        self._tracker = KltTracker()
        self.version = f"{__version__};klt={self._tracker.version};lens=fixed"

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """Poses of all frames. Raises ValueError when too little moves together."""
        from pose_annotation.solve import SolveConfig, solve_camera
        from wm_bench.estimators import PoseEstimate

        tracks = self._tracker.track(list(request.frames))
        fps = 1.0 / float(np.median(np.diff(request.times_s))) if len(request.times_s) > 1 else 16.0
        camera = solve_camera(tracks, fps, request.intrinsics, config=SolveConfig(level="fixed"))
        placed = np.asarray(np.isfinite(camera.c2w).all(axis=(1, 2)), dtype=np.bool_)
        c2w = np.where(placed[:, None, None], camera.c2w, np.eye(4))
        return PoseEstimate(np.asarray(c2w, dtype=np.float64), placed)


def register() -> None:
    """Make the estimator known by its name."""
    from wm_bench.estimators import register_estimator

    def make(options: str) -> Estimator:
        return PoseAnnotation(options)

    register_estimator(NAME, make)
