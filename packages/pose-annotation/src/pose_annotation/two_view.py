"""First geometry: a pair of views, points from rays, a pose from points, a turn from rays; OpenCV does the voting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pose_annotation.opencv import cv2
from pose_annotation.types import Array, Ints

_RANSAC_ROUNDS = 500


class Pair(NamedTuple):
    """Relative pose of two views: x2 = rotation x1 + translation (unit length), and how well it is determined.

    `score` is inliers times (1.2 - share that a homography explains too); a plane or a pure turn scores low.
    """

    rotation: Array
    translation: Array
    inliers: int
    homography_share: float
    score: float


def rays(xy: Array, intrinsics: Array) -> Array:
    """Normalised image points (m, 2) of pixels (m, 2) under intrinsics (m, 4) or (4,)."""
    return (xy - intrinsics[..., 2:]) / intrinsics[..., :2]


def relative_pose(a: Array, b: Array, intrinsics: Array, threshold_px: float = 1.0) -> Pair | None:
    """Essential matrix between pixels a and b (k, 2) seen through one lens (4,); None when there is no such pose."""
    if len(a) < 20:
        return None
    focal = float(np.sqrt(intrinsics[0] * intrinsics[1]))
    na, nb = rays(a, intrinsics), rays(b, intrinsics)
    eye = np.eye(3)
    essential, mask = cv2.findEssentialMat(
        na, nb, eye, method=cv2.RANSAC, prob=0.9999, threshold=threshold_px / focal, maxIters=_RANSAC_ROUNDS
    )
    if essential is None or essential.shape != (3, 3):
        return None
    count, rotation, translation, mask = cv2.recoverPose(essential, na, nb, eye, mask=mask)
    # Half of what is tracked must agree: fewer is chance, or a world that moves.
    if count < max(15, 0.4 * len(a)):
        return None
    _, plane = cv2.findHomography(a, b, cv2.RANSAC, 2.0 * threshold_px, maxIters=_RANSAC_ROUNDS)
    share = float(plane.mean()) if plane is not None else 0.0
    return Pair(rotation, translation.ravel(), int(count), share, count * (1.2 - share))


def triangulate(
    rotation: Array, translation: Array, normalised: Array, frame: Ints, point: Ints, count: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Points (count, 3) nearest to their rays in the linear sense, and which are in front of all their cameras.

    rotation (n, 3, 3) and translation (n, 3) are world-to-camera; `normalised` (m, 2) are image points.
    """
    camera = np.concatenate([rotation, translation[..., None]], -1)[frame]
    rows = normalised[..., None] * camera[:, 2:3] - camera[:, :2]
    gram = np.einsum("mri,mrj->mij", rows, rows).reshape(-1, 16)
    sums = sparse.csr_matrix((np.ones(len(point)), (point, np.arange(len(point)))), shape=(count, len(point)))
    _, vectors = np.linalg.eigh((sums @ gram).reshape(count, 4, 4))
    homogeneous = vectors[:, :, 0]
    w = homogeneous[:, 3]
    finite = np.abs(w) > 1e-9
    world = homogeneous[:, :3] / np.where(finite, w, 1.0)[:, None]
    depth = np.einsum("mj,mj->m", rotation[frame, 2], world[point]) + translation[frame, 2]
    bad = sums @ ((depth < 1e-3) | ~finite[point]).astype(float)
    views = sums @ np.ones(len(point))
    return world, finite & (bad == 0) & (views >= 2)


def widest_angle_deg(world: Array, centres: Array, frame: Ints, point: Ints) -> Array:
    """(p,) angle in degrees between the first ray to a point and the ray farthest from it."""
    ray = world[point] - centres[frame]
    ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)
    first = np.zeros((len(world), 3))
    # Written backwards, so that the earliest observation stays.
    first[point[::-1]] = ray[::-1]
    chord = np.linalg.norm(ray - first[point], axis=1)
    widest = np.zeros(len(world))
    np.maximum.at(widest, point, chord)
    return np.degrees(2.0 * np.arcsin(np.clip(widest / 2.0, 0.0, 1.0)))


def resect(
    world: Array, xy: Array, intrinsics: Array, threshold_px: float = 4.0
) -> tuple[Array, Array, NDArray[np.bool_]] | None:
    """World-to-camera rotation, translation and inliers (k,) from points (k, 3) seen at pixels (k, 2); None if none."""
    if len(world) < 6:
        return None
    normalised = rays(xy, intrinsics)
    focal = float(np.sqrt(intrinsics[0] * intrinsics[1]))
    ok, turn, translation, inliers = cv2.solvePnPRansac(
        world, normalised, np.eye(3), np.zeros(4), flags=cv2.SOLVEPNP_SQPNP,
        reprojectionError=threshold_px / focal, iterationsCount=300, confidence=0.9999,
    )  # fmt: skip
    if not ok or inliers is None or len(inliers) < 6:
        return None
    mask = np.zeros(len(world), dtype=bool)
    mask[inliers.ravel()] = True
    return cv2.Rodrigues(turn)[0], translation.ravel(), mask


def turn_between(a: Array, b: Array, rounds: int = 5) -> Array:
    """Rotation (3, 3) that takes rays a (k, 3) to rays b (k, 3), by least squares with outliers weighed down."""
    weight = np.ones(len(a))
    rotation = np.eye(3)
    for _ in range(rounds):
        u, _, vt = np.linalg.svd((b * weight[:, None]).T @ a)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        error = np.linalg.norm(b - a @ rotation.T, axis=1)
        scale = max(1.5 * float(np.median(error)), 1e-9)
        weight = np.minimum(1.0, scale / np.maximum(error, 1e-12))
    return rotation
