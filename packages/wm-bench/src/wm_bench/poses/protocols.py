"""Laying an estimated camera path onto the true one: three published ways, and none.

Both paths are camera-to-world (n, 4, 4) with OpenCV axes, relative to their first kept pose. Written S, g for the
rotations and centres of the truth and R, c for those of the estimate. Reference: benchmark specification 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from camera_control import relative_to_first
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Variance across a path over variance along it, below which a rotation about it rests on the estimate's noise (5 %).
_STRAIGHT = 2.5e-3
# Gap between the singular values that decide the sign of a best rotation, relative to the largest.
_AMBIGUOUS = 1e-6
_STILL = 1e-12


class Alignment(NamedTuple):
    """The estimate laid onto the truth, and what is doubtful about it.

    flags: "reflected" - the best orthogonal matrix was a mirror image and was replaced by the best rotation;
        "ambiguous" - several rotations are equally good; "straight" - positions on a line leave the rotation about it
        open; "still" - one of the paths does not move, so that the scale is open.
    """

    c2w: Array  # (n, 4, 4)
    rotation: Array  # (3, 3), determinant +1
    scale: float
    flags: tuple[str, ...]


def relative_pair(estimate: Array, truth: Array, drop_first: bool = False) -> tuple[Array, Array]:
    """Both paths relative to their own first kept pose, in float64.

    Raises ValueError when the lengths differ, fewer than two poses are left or a number is not finite.
    """
    if estimate.shape != truth.shape or estimate.ndim != 3 or estimate.shape[1:] != (4, 4):
        raise ValueError(
            f"poses have shapes {estimate.shape} and {truth.shape}; allowed: the same (n, 4, 4); example: (241, 4, 4)"
        )
    start = 1 if drop_first else 0
    if len(estimate) - start < 2:
        raise ValueError(f"{len(estimate) - start} poses to compare; allowed: at least 2; example: 241")
    pair = []
    for name, poses in (("estimated", estimate), ("true", truth)):
        poses = np.asarray(poses[start:], dtype=np.float64)
        bad = ~np.isfinite(poses).all(axis=(1, 2))
        if bad.any():
            raise ValueError(f"{name} pose {int(bad.argmax())} holds NaN or infinity; allowed: finite numbers")
        pair.append(relative_to_first(poses))
    return pair[0], pair[1]


def align(protocol: str, estimate: Array, truth: Array) -> Alignment:
    """Lay `estimate` onto `truth` by a named protocol; both relative to their first pose.

    "code-v1": the released script's: rotations first, then scale and shift in camera coordinates, with the
    determinant fixed. "paper-sim3": the paper's: Umeyama similarity on camera centres. "first-frame": scale only, by
    least squares on centres. "none": nothing, for metric estimates.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; allowed: {', '.join(PROTOCOLS)}; example: 'paper-sim3'")
    return PROTOCOLS[protocol](np.asarray(estimate, np.float64), np.asarray(truth, np.float64))


def _code_v1(estimate: Array, truth: Array) -> Alignment:
    r, c, s_, g = estimate[:, :3, :3], estimate[:, :3, 3], truth[:, :3, :3], truth[:, :3, 3]
    q, flags = _best_rotation(np.mean(s_ @ r.transpose(0, 2, 1), axis=0))
    # The true centre as seen through the estimated rotation: this is where rotation error leaks into the scale.
    b = (r @ s_.transpose(0, 2, 1) @ g[..., None])[..., 0]
    c0, b0 = c - c.mean(0), b - b.mean(0)
    spread = float(np.mean(np.sum(c0 * c0, axis=1)))
    scale = float(np.mean(np.sum(c0 * b0, axis=1))) / max(spread, 1e-9)
    if spread < _STILL or _spread(g) < _STILL:
        flags = (*flags, "still")
    return _apply(estimate, q, scale, (scale * c0 + b.mean(0)) @ q.T, flags)


def _paper_sim3(estimate: Array, truth: Array) -> Alignment:
    c, g = estimate[:, :3, 3], truth[:, :3, 3]
    c0, g0 = c - c.mean(0), g - g.mean(0)
    covariance = g0.T @ c0 / len(c)
    q, flags = _best_rotation(covariance)
    spread = _spread(c)
    if spread < _STILL or _spread(g) < _STILL:
        # Positions say nothing; the identity is the only choice that needs no data.
        return _apply(estimate, np.eye(3), 1.0, c0 + g.mean(0), ("still",))
    if any(_is_straight(points) for points in (c0, g0)):
        flags = (*flags, "straight")
    scale = float(np.trace(q.T @ covariance)) / spread
    return _apply(estimate, q, scale, scale * c0 @ q.T + g.mean(0), flags)


def _first_frame(estimate: Array, truth: Array) -> Alignment:
    c, g = estimate[:, :3, 3], truth[:, :3, 3]
    square = float(np.sum(c * c))
    if square < _STILL or float(np.sum(g * g)) < _STILL:
        return _apply(estimate, np.eye(3), 1.0, c, ("still",))
    scale = float(np.sum(c * g)) / square
    return _apply(estimate, np.eye(3), scale, scale * c, ())


def _none(estimate: Array, truth: Array) -> Alignment:
    return _apply(estimate, np.eye(3), 1.0, estimate[:, :3, 3], ())


PROTOCOLS: dict[str, Callable[[Array, Array], Alignment]] = {
    "code-v1": _code_v1,
    "paper-sim3": _paper_sim3,
    "first-frame": _first_frame,
    "none": _none,
}


def _best_rotation(matrix: Array) -> tuple[Array, tuple[str, ...]]:
    """The rotation nearest to a 3x3 matrix, determinant +1, and flags."""
    u, sigma, vt = np.linalg.svd(matrix)
    sign = float(np.sign(np.linalg.det(u) * np.linalg.det(vt))) or 1.0
    flags: list[str] = []
    if sign < 0 and sigma[2] > _AMBIGUOUS * max(sigma[0], 1e-300):
        flags.append("reflected")
    if sigma[1] + sign * sigma[2] <= _AMBIGUOUS * max(sigma[0], 1e-300):
        flags.append("ambiguous")
    return u @ np.diag([1.0, 1.0, sign]) @ vt, tuple(flags)


def _is_straight(centred: Array) -> bool:
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    return bool(variance[1] < _STRAIGHT * variance[0])


def _spread(points: Array) -> float:
    return float(np.mean(np.sum((points - points.mean(0)) ** 2, axis=1)))


def _apply(estimate: Array, rotation: Array, scale: float, centres: Array, flags: tuple[str, ...]) -> Alignment:
    aligned = np.tile(np.eye(4), (len(estimate), 1, 1))
    aligned[:, :3, :3] = rotation @ estimate[:, :3, :3]
    aligned[:, :3, 3] = centres
    return Alignment(aligned, rotation, scale, flags)
