"""New camera paths around a captured scene, and whether its points would fill their pictures.

For rendering more clips from a reconstruction (point cloud or Gaussian splats): ten splines near the capture's own
cameras and thirty paths of eight families, kept near the cameras, smoothed, and tested before anything is rendered.
`splats.py` reads .ply scenes, `backends/gsplat_renderer.py` draws them. Reference: annotate.md 2.7, paper Data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from camera_control.families import dolly, orbit, spiral
from camera_control.geometry import invert_rigid
from camera_control.trajectory import Trajectory
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation, RotationSpline

from pose_annotation.types import Array

FAMILIES = ("orbit", "spiral", "dolly", "fly_through", "random_walk", "crane", "pendulum", "compound")
SPLINES, OTHERS = 10, 30
TILES, MOST_EMPTY, LEAST_VISIBLE, LEAST_PASSED = 32, 0.65, 200, 0.70


@dataclass(frozen=True, eq=False)
class Candidate:
    """A path by the name of its family."""

    family: str
    path: Trajectory


class Coverage(NamedTuple):
    """Result of the test before rendering: shares over every tenth frame.

    `passed` when at least 70 % of the samples see enough points and leave at most 65 % of 32 x 32 tiles empty.
    """

    passed: bool
    good_share: float
    visible: Array  # (n,) points inside the picture
    empty_tiles: Array  # (n,) share of tiles without a point


def candidate_paths(capture: Trajectory, frames: int = 961, seed: int = 0) -> list[Candidate]:
    """Forty paths of `frames` frames around a capture, the same for the same seed.

    Lengths follow the median distance of the capture's cameras from their middle; every position stays within half of
    that of some captured camera. Raises ValueError for a capture without a lens or with fewer than four cameras.
    """
    if capture.intrinsics is None or capture.image_size is None or len(capture) < 4:
        raise ValueError(
            f"a capture of {len(capture)} cameras; allowed: four or more, with intrinsics and image size; "
            "example: transforms.json"
        )
    if frames < 9:
        raise ValueError(f"frames is {frames}; allowed: 9 or more; example: 961")
    centres = capture.c2w[:, :3, 3]
    reach = float(np.median(np.linalg.norm(centres - centres.mean(0), axis=1)))
    if reach < 1e-9:
        raise ValueError("all cameras of the capture are at one place; allowed: a capture that moves")
    tree, rng, found = cKDTree(centres), np.random.default_rng(seed), []
    for number in range(SPLINES + OTHERS):
        family = "spline" if number < SPLINES else FAMILIES[(number - SPLINES) % len(FAMILIES)]
        if family == "spline":
            c2w = _spline(capture, frames, rng)
        else:
            anchor = capture.c2w[int(rng.integers(len(capture)))]
            c2w = anchor @ _motion(family, frames, reach, rng)
        # Smoothing moves positions again, so they are held to the zone after it too.
        c2w = _near(_smooth(_near(c2w, tree, 0.5 * reach)), tree, 0.5 * reach)
        lens = np.median(capture.intrinsics, axis=0)
        found.append(Candidate(family, Trajectory(c2w, lens, capture.fps, capture.image_size)))
    return found


def _spline(capture: Trajectory, frames: int, rng: np.random.Generator) -> Array:
    """Through a few of the capture's cameras in their order."""
    count = min(len(capture), int(rng.integers(4, 8)))
    picks = np.sort(rng.choice(len(capture), count, replace=False))
    knots, times = np.linspace(0, 1, count), np.linspace(0, 1, frames)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, 3] = CubicSpline(knots, capture.c2w[picks, :3, 3])(times)
    c2w[:, :3, :3] = RotationSpline(knots, Rotation.from_matrix(capture.c2w[picks, :3, :3]))(times).as_matrix()
    return c2w


def _motion(family: str, frames: int, reach: float, rng: np.random.Generator) -> Array:
    """A path from the identity, of lengths around `reach`."""
    s, side = np.linspace(0, 1, frames), float(rng.choice([-1.0, 1.0]))
    size = reach * float(rng.uniform(0.3, 0.8))
    if family == "orbit":
        return orbit(2 * size, side * float(rng.uniform(20, 60)), frames).c2w
    if family == "spiral":
        return spiral(2 * size, size, side * float(rng.uniform(30, 90)), 0.3 * size, frames).c2w
    if family == "dolly":
        return dolly(side * size, frames).c2w
    if family == "compound":
        half = frames // 2
        first, second = (_motion(str(rng.choice(FAMILIES[:3])), n, 0.6 * reach, rng) for n in (half, frames - half + 1))
        return np.concatenate([first, first[-1] @ second[1:]])
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    yaw, pitch = np.zeros(frames), np.zeros(frames)
    if family == "fly_through":
        c2w[:, :3, 3] = np.stack([0.2 * side * size * np.sin(2 * np.pi * s), 0 * s, size * s], 1)
        yaw = side * 15 * np.sin(2 * np.pi * s)
    elif family == "random_walk":
        steps = gaussian_filter1d(rng.normal(0, 1, (frames, 5)), max(frames / 12, 1), axis=0)
        walk = np.cumsum(steps, 0) - steps[0]
        walk /= max(float(np.abs(walk[:, :3]).max()), 1e-9)
        c2w[:, :3, 3] = size * walk[:, :3] * np.array([1.0, 0.3, 1.0])
        yaw, pitch = 20 * np.clip(walk[:, 3], -1, 1), 6 * np.clip(walk[:, 4], -1, 1)
    elif family == "crane":
        c2w[:, 1, 3], pitch = -side * 0.6 * size * s, -side * 12 * s
    else:  # pendulum
        swing = np.sin(2 * np.pi * s * float(rng.uniform(1, 2)))
        c2w[:, 0, 3], yaw = 0.6 * size * swing, -side * 10 * swing
    c2w[:, :3, :3] = Rotation.from_euler("yx", np.stack([yaw, pitch], 1), degrees=True).as_matrix()
    return c2w


def _near(c2w: Array, tree: cKDTree, radius: float) -> Array:
    """Pull positions to within `radius` of the nearest captured camera."""
    distance, nearest = tree.query(c2w[:, :3, 3])
    anchor = np.asarray(tree.data)[nearest]
    pull = np.minimum(1.0, radius / np.maximum(distance, 1e-12))[:, None]
    out = c2w.copy()
    out[:, :3, 3] = anchor + pull * (c2w[:, :3, 3] - anchor)
    return out


def _smooth(c2w: Array) -> Array:
    """Gaussian smoothing over a two-hundredth of the length, of positions and rotations."""
    sigma = len(c2w) / 200.0
    out = c2w.copy()
    out[:, :3, 3] = gaussian_filter1d(c2w[:, :3, 3], sigma, axis=0, mode="nearest")
    mean = gaussian_filter1d(c2w[:, :3, :3], sigma, axis=0, mode="nearest")
    u, _, vt = np.linalg.svd(mean)
    flip = np.ones((len(c2w), 3))
    flip[:, 2] = np.linalg.det(u @ vt)
    out[:, :3, :3] = (u * flip[:, None, :]) @ vt
    return out


def coverage(points: Array, path: Trajectory, *, every: int = 10, most_points: int = 200_000) -> Coverage:
    """Test every tenth frame of a path against the points (p, 3) of a scene, such as the centres of its splats.

    Raises ValueError for a path without a lens.
    """
    if path.intrinsics is None or path.image_size is None:
        raise ValueError(
            "the path has no lens; allowed: intrinsics and image size; example: Trajectory.with_intrinsics"
        )
    used = points[:: max(1, -(-len(points) // most_points))]
    height, width = path.image_size
    w2c = invert_rigid(path.c2w[::every])
    visible, empty = np.zeros(len(w2c)), np.ones(len(w2c))
    for i, (pose, lens) in enumerate(zip(w2c, path.intrinsics[::every], strict=True)):
        y = used @ pose[:3, :3].T + pose[:3, 3]
        ahead = y[y[:, 2] > 1e-6]
        uv = lens[:2] * ahead[:, :2] / ahead[:, 2:] + lens[2:]
        inside = uv[(uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)]
        tile = (inside * TILES / np.array([width, height])).astype(np.int64)
        visible[i] = len(inside)
        empty[i] = 1.0 - len(np.unique(tile[:, 1] * TILES + tile[:, 0])) / TILES**2
    good = (visible >= LEAST_VISIBLE) & (empty <= MOST_EMPTY)
    return Coverage(bool(good.mean() >= LEAST_PASSED), float(good.mean()), visible, empty)


def covered_paths(capture: Trajectory, points: Array, frames: int = 961, seed: int = 0) -> list[Candidate]:
    """The candidates that pass the coverage test, with poses relative to their first frame."""
    candidates = candidate_paths(capture, frames, seed)
    return [replace(c, path=c.path.relative()) for c in candidates if coverage(points, c.path).passed]
