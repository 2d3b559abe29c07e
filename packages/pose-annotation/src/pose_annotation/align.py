"""Lay one path onto another: Umeyama's similarity, also without the worst fifth, mean rotation, errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pose_annotation.rotations import angle_deg
from pose_annotation.types import Array


class Similarity(NamedTuple):
    """y = scale * rotation x + translation."""

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Map points (n, 3)."""
        return self.scale * points @ self.rotation.T + self.translation


def umeyama(x: Array, y: Array) -> Similarity:
    """The similarity that takes points x (n, 3) nearest to y (n, 3); never a mirror image.

    Raises ValueError for fewer than 3 points, shapes that differ and points that all coincide. Reference:
    annotate.md 2.5.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 3 or len(x) < 3:
        raise ValueError(
            f"points have shapes {x.shape} and {y.shape}; allowed: the same (n, 3), n >= 3; example: (60, 3)"
        )
    mean_x, mean_y = x.mean(0), y.mean(0)
    variance = float(np.mean(np.sum((x - mean_x) ** 2, axis=1)))
    if variance < 1e-18:
        raise ValueError("all points coincide, so that no scale follows from them; allowed: a path that moves")
    u, d, vt = np.linalg.svd((y - mean_y).T @ (x - mean_x) / len(x))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = float((d * sign).sum() / variance)
    return Similarity(scale, rotation, mean_y - scale * rotation @ mean_x)


def umeyama_inliers(x: Array, y: Array, keep: float = 0.8, rounds: int = 1) -> Similarity:
    """Umeyama, then again on the `keep` share with the smallest residuals. Reference: paper, data annotation.

    More `rounds` repeat the choice; gross outliers need a few.
    """
    fit = umeyama(x, y)
    for _ in range(rounds):
        residual = np.linalg.norm(fit.apply(x) - y, axis=1)
        chosen = residual <= np.quantile(residual, keep)
        if chosen.sum() < 3:
            break
        fit = umeyama(x[chosen], y[chosen])
    return fit


def sample_indices(frames: int, count: int) -> Array:
    """`count` frame numbers spread over 0 .. frames - 1, rounded to the nearest, ends included."""
    return np.round(np.linspace(0, frames - 1, count)).astype(np.int64)


class PathErrors(NamedTuple):
    """How far an estimated path is from the truth; lengths in the truth's units, angles in degrees."""

    ate: float  # centres after a similarity
    metric_ate: float  # centres after a rigid motion
    rotation_deg: float  # mean, after averaging the rotation between the worlds
    step: float  # relative translation error over one frame, root mean square
    step_deg: float  # relative rotation error over one frame, root mean square
    scale: float  # factor that brings the estimate to the truth's length


def compare_paths(estimate: Array, truth: Array) -> PathErrors:
    """Errors of camera-to-world poses (f, 4, 4) against the true ones. Raises ValueError when the lengths differ."""
    if estimate.shape != truth.shape:
        raise ValueError(
            f"paths have shapes {estimate.shape} and {truth.shape}; allowed: the same; example: (60, 4, 4)"
        )
    x, y = estimate[:, :3, 3], truth[:, :3, 3]
    moves = np.ptp(x, axis=0).max() > 1e-9
    fit = umeyama(x, y) if moves else Similarity(1.0, np.eye(3), y.mean(0) - x.mean(0))
    ate = float(np.sqrt(np.mean(np.sum((fit.apply(x) - y) ** 2, axis=1))))
    rigid = fit.rotation @ (x - x.mean(0)).T
    metric = float(np.sqrt(np.mean(np.sum((rigid.T + y.mean(0) - y) ** 2, axis=1))))
    world = average_rotation(truth[:, :3, :3] @ np.swapaxes(estimate[:, :3, :3], 1, 2))
    turned = world @ estimate[:, :3, :3]
    scaled = estimate.copy()
    scaled[:, :3, 3] *= fit.scale
    a, b = (np.linalg.inv(p[:-1]) @ p[1:] for p in (scaled, truth))
    step = float(np.sqrt(np.mean(np.sum((a[:, :3, 3] - b[:, :3, 3]) ** 2, axis=1))))
    step_deg = float(np.sqrt(np.mean(angle_deg(a[:, :3, :3], b[:, :3, :3]) ** 2)))
    return PathErrors(ate, metric, float(angle_deg(turned, truth[:, :3, :3]).mean()), step, step_deg, fit.scale)


def average_rotation(rotations: Array) -> Array:
    """The rotation (3, 3) nearest to all of (n, 3, 3) in the chordal sense."""
    u, _, vt = np.linalg.svd(rotations.mean(0))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
