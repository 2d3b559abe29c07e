"""Small rotations: exponential and logarithm of SO(3), cross-product matrices, interpolation of poses."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from pose_annotation.types import Array


def skew(vectors: Array) -> Array:
    """Cross-product matrices (..., 3, 3) of vectors (..., 3): skew(a) @ b = a x b."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)


def exp_rotation(omega: Array) -> Array:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3) in radians."""
    angle = np.linalg.norm(omega, axis=-1)[..., None, None]
    k = skew(omega)
    small = angle < 1e-6
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1.0 - angle**2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    return np.eye(3) + a * k + b * (k @ k)


def log_rotation(rotation: Array) -> Array:
    """Axis-angle vectors (n, 3) in radians of rotation matrices (n, 3, 3)."""
    return Rotation.from_matrix(rotation).as_rotvec()


def interpolate_poses(known: Array, rotation: Array, translation: Array, wanted: Array) -> tuple[Array, Array]:
    """World-to-camera rotations and translations at `wanted` times between `known` ones; the ends are held.

    Rotations turn evenly on the shortest arc, camera centres move on straight lines.
    """
    inside = np.clip(wanted, known[0], known[-1])
    centres = -np.einsum("nji,nj->ni", rotation, translation)
    if len(known) == 1:
        turn = np.repeat(rotation, len(wanted), 0)
        at = np.repeat(centres, len(wanted), 0)
    else:
        turn = Slerp(known, Rotation.from_matrix(rotation))(inside).as_matrix()
        at = np.stack([np.interp(inside, known, column) for column in centres.T], -1)
    return turn, -np.einsum("nij,nj->ni", turn, at)


def angle_deg(first: Array, second: Array) -> Array:
    """Angles (n,) in degrees between rotations (n, 3, 3); exact for tiny angles."""
    chord = np.linalg.norm(first - second, axis=(-2, -1)) / (2.0 * np.sqrt(2.0))
    return np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))
