"""How far the camera of a video strayed from the camera it was asked to be: alignment, errors, sampling by time."""

from __future__ import annotations

from wm_bench.poses.errors import PoseErrors, pose_errors, relative_pose_errors, rotation_angle_deg
from wm_bench.poses.protocols import PROTOCOLS, Alignment, align, relative_pair
from wm_bench.poses.sampling import nearest_frames, truth_at
from wm_bench.poses.score import PoseScore, score_poses

__all__ = [
    "PROTOCOLS",
    "Alignment",
    "PoseErrors",
    "PoseScore",
    "align",
    "nearest_frames",
    "pose_errors",
    "relative_pair",
    "relative_pose_errors",
    "rotation_angle_deg",
    "score_poses",
    "truth_at",
]
