"""Exact tracks of random points seen by a known camera, for tests."""

from __future__ import annotations

import numpy as np
from camera_control.geometry import invert_rigid
from pose_annotation.rotations import exp_rotation
from pose_annotation.types import Array, Tracks

SIZE = (192, 320)


def path(frames: int, kind: str = "fly") -> tuple[Array, Array]:
    """c2w (frames, 4, 4) with frame 0 at the identity, and intrinsics (frames, 4), of a motion by name."""
    s = np.linspace(0.0, 1.0, frames)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    omega, centre, f = np.zeros((frames, 3)), np.zeros((frames, 3)), np.full(frames, 240.0)
    if kind in ("fly", "zoom"):
        omega[:, 1], omega[:, 0] = 0.4 * np.sin(2.5 * s), 0.05 * np.sin(4 * s)
        centre = np.stack([0.6 * np.sin(3 * s), -0.2 * s, 2.0 * s], 1)
    if kind == "zoom":
        f = 220.0 + 110.0 * s
    if kind == "rot":
        omega[:, 1], omega[:, 0] = 0.7 * s, 0.1 * np.sin(3 * s)
    if kind == "side":
        centre[:, 0] = 1.0 * s
    c2w[:, :3, :3] = exp_rotation(omega)
    c2w[:, :3, 3] = centre
    return c2w, np.stack([f, f, np.full(frames, 160.0), np.full(frames, 96.0)], 1)


def tracks(
    c2w: Array, intrinsics: Array, points: int = 400, noise_px: float = 0.0, seed: int = 0, size: tuple[int, int] = SIZE
) -> tuple[Tracks, Array, Array]:
    """Tracks, the points (p, 3) and the depth of every observation (m,)."""
    rng = np.random.default_rng(seed)
    world = rng.uniform((-6, -3, 3), (6, 3, 10), (points, 3))
    w2c = invert_rigid(c2w)
    y = np.einsum("fij,pj->fpi", w2c[:, :3, :3], world) + w2c[:, None, :3, 3]
    uv = intrinsics[:, None, :2] * y[..., :2] / np.maximum(y[..., 2:], 1e-6) + intrinsics[:, None, 2:]
    height, width = size
    seen = (y[..., 2] > 0.3) & (uv > 1).all(-1) & (uv[..., 0] < width - 1) & (uv[..., 1] < height - 1)
    frame, point = np.nonzero(seen)
    xy = uv[seen] + rng.normal(0, 1, (len(frame), 2)) * noise_px
    return Tracks(frame, point, xy, len(c2w), size), world, y[..., 2][seen]
