"""Errors of aligned camera paths: RotErr, TransErr and CamMC per frame, and errors of relative motion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from camera_control.geometry import invert_rigid
from numpy.typing import NDArray

Array = NDArray[np.float64]


class PoseErrors(NamedTuple):
    """Per-frame errors (n,): geodesic angle in degrees, distance of centres, Frobenius norm of the [R|t] difference.

    Distances are in the truth's units (metres); the angle is in degrees, never in radians.
    """

    rotation_deg: Array
    translation: Array
    cam_mc: Array


def rotation_angle_deg(a: Array, b: Array) -> Array:
    """Angle in degrees (...,) between rotations (..., 3, 3), exact for tiny angles and for half turns."""
    chord = np.linalg.norm(a - b, axis=(-2, -1)) / (2.0 * np.sqrt(2.0))
    trace = np.sum(a * b, axis=(-2, -1))
    return np.degrees(2.0 * np.arctan2(chord, np.sqrt(np.clip(1.0 + trace, 0.0, None)) / 2.0))


def pose_errors(aligned: Array, truth: Array) -> PoseErrors:
    """Absolute errors of an aligned path (n, 4, 4) against the truth. Reference: bench specification 3.1, step F."""
    difference = aligned[:, :3] - truth[:, :3]
    return PoseErrors(
        rotation_angle_deg(aligned[:, :3, :3], truth[:, :3, :3]),
        np.linalg.norm(difference[:, :, 3], axis=1),
        np.linalg.norm(difference, axis=(1, 2)),
    )


def relative_pose_errors(aligned: Array, truth: Array, delta: int) -> tuple[Array, Array]:
    """Errors (n - delta,) of the motion over `delta` frames: degrees, and distance in the truth's units.

    All pairs, like evo's RPE with all_pairs; empty when the path is no longer than `delta`.
    """
    if delta < 1:
        raise ValueError(f"delta is {delta}; allowed: whole frames from 1; example: 16")
    moved = invert_rigid(aligned[:-delta]) @ aligned[delta:]
    wanted = invert_rigid(truth[:-delta]) @ truth[delta:]
    rest = invert_rigid(wanted) @ moved
    return rotation_angle_deg(rest[:, :3, :3], np.broadcast_to(np.eye(3), rest[:, :3, :3].shape)), np.linalg.norm(
        rest[:, :3, 3], axis=1
    )


def slope_per_minute(values: Array, times_s: Array) -> float:
    """Least-squares slope of a curve, per minute; NaN for fewer than two instants."""
    if len(values) < 2:
        return float("nan")
    t = times_s - times_s.mean()
    return float(60.0 * np.sum(t * (values - values.mean())) / np.sum(t * t))
