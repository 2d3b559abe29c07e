"""Poses that the submission itself wrote beside its videos: for tests, renders and upper bounds."""

from __future__ import annotations

import numpy as np
from camera_control.formats import load_trajectory
from camera_control.geometry import require_rotations

from wm_bench.estimators import PoseEstimate, PoseRequest


class Oracle:
    """Reads ID_poses.npz (c2w, one pose a video frame) beside the video."""

    id = "oracle"
    version = "1"
    weights_sha256 = "none"

    def __init__(self, options: str = "") -> None:
        if options:
            raise ValueError(f"oracle takes no options, got {options!r}; example: --estimator oracle")

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """The stored poses of the sampled frames."""
        stem = request.video.stem.removesuffix("_generated")
        path = request.video.with_name(f"{stem}_poses.npz")
        if not path.is_file():
            raise ValueError(f"no {path.name} beside the video")
        c2w = load_trajectory(path).c2w
        require_rotations(c2w)
        if len(c2w) <= int(request.indices[-1]):
            raise ValueError(f"{path.name} has {len(c2w)} poses for frame {int(request.indices[-1])}")
        return PoseEstimate(c2w[request.indices], np.ones(len(request.indices), dtype=bool))
