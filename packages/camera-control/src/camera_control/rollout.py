"""From held controls to camera poses: the motion rules of every dialect, inertia included."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from camera_control.dialects import CONTROLS, Motion

_FRAME_S = 1.0 / 16.0  # the inertia clock; upstream fixes it whatever the video rate is
_TAU_HELD_S = 0.45
_TAU_RELEASED_S = 1.0


def roll_out(
    held: NDArray[np.bool_],
    translation_speed: float,
    rotation_speed_deg: float,
    motion: Motion,
) -> NDArray[np.float32]:
    """Drive a camera with held controls and return every pose it passes through.

    Args:
        held: (f, 8) booleans, one row a raw frame, columns as `CONTROLS`.
        translation_speed: World units per frame.
        rotation_speed_deg: Degrees per frame.
        motion: Inertia, pitch limit and coupling.

    Returns:
        (f + 1, 4, 4) camera-to-world poses, OpenCV axes, float32; the first is the identity.

    The camera turns first and then moves along its new heading, on the horizontal plane. Yaw is about the world
    vertical and pitch about the camera's own x axis, so the rotation is always Ry(sum of yaw) Rx(sum of pitch).
    Reference: inference specification 3.1 and 3.2.
    """
    assert held.ndim == 2 and held.shape[1] == len(CONTROLS), held.shape
    step_rad = math.radians(rotation_speed_deg)
    signs = held[:, 0::2].astype(np.float64) - held[:, 1::2]
    velocity = signs * np.array([translation_speed, translation_speed, step_rad, step_rad])
    velocity[:, 2] += motion.strafe_yaw * step_rad * signs[:, 1]
    if motion.smooth:
        velocity = _with_inertia(velocity, held)

    yaw = np.cumsum(velocity[:, 2])
    pitch = _limited_pitch(velocity[:, 3], motion)
    # |pitch| < 90 degrees, so the horizontal length of the forward axis is cos(pitch) > 0 and of the right axis 1.
    forward = np.stack([np.sin(yaw), np.zeros_like(yaw), np.cos(yaw)], axis=-1)
    right = np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], axis=-1)
    forward *= (np.cos(pitch) / (np.cos(pitch) + motion.heading_eps))[:, None]
    right /= 1.0 + motion.heading_eps

    c2w = np.tile(np.eye(4), (len(held) + 1, 1, 1))
    c2w[1:, :3, :3] = yaw_pitch_rotation(yaw, pitch)
    c2w[1:, :3, 3] = np.cumsum(forward * velocity[:, :1] + right * velocity[:, 1:2], axis=0)
    return (c2w + 0.0).astype(np.float32)  # + 0.0 turns -0 into 0, for stable files


def yaw_pitch_rotation(yaw_rad: NDArray[np.float64], pitch_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices Ry(yaw) Rx(pitch), shape (..., 3, 3); positive yaw turns right, positive pitch looks up."""
    cy, sy = np.cos(yaw_rad), np.sin(yaw_rad)
    cp, sp = np.cos(pitch_rad), np.sin(pitch_rad)
    rows = [[cy, sy * sp, sy * cp], [np.zeros_like(cy), cp, -sp], [-sy, cy * sp, cy * cp]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _with_inertia(target: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Follow target velocities: snap when a control is newly pressed, ease towards them otherwise."""
    before = np.vstack([np.zeros((1, held.shape[1]), dtype=bool), held[:-1]])
    pressed = (held & ~before).any(axis=1)
    tau_s = np.where(np.abs(target) > 1e-12, _TAU_HELD_S, _TAU_RELEASED_S)
    rate = np.where(pressed[:, None], 1.0, 1.0 - np.exp(-_FRAME_S / tau_s))
    velocity = np.empty_like(target)
    current = np.zeros(target.shape[1])
    for frame in range(len(target)):
        current = target[frame] if pressed[frame] else current + rate[frame] * (target[frame] - current)
        velocity[frame] = current
    return velocity


def _limited_pitch(steps_rad: NDArray[np.float64], motion: Motion) -> NDArray[np.float64]:
    limit_rad = math.radians(motion.pitch_limit_deg)
    pitch = np.empty_like(steps_rad)
    current = 0.0
    for frame, step in enumerate(steps_rad):
        wanted = current + step
        if motion.pitch_rule == "clamp":
            current = min(max(wanted, -limit_rad), limit_rad)
        elif -limit_rad <= wanted <= limit_rad:
            current = wanted
        pitch[frame] = current
    return pitch
