"""Ready-made camera motions from a few parameters: orbit, spiral, dolly, fly-through.

Every path starts at the identity, looking along +Z, so that it can be laid onto any first picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camera_control.geometry import intrinsics_from_fov, invert_rigid
from camera_control.rollout import yaw_pitch_rotation
from camera_control.trajectory import DEFAULT_FPS, Trajectory

_SIZE = (704, 1280)


def orbit(
    radius: float = 3.0,
    angle_deg: float = 60.0,
    frames: int = 81,
    *,
    ease: bool = True,
    fov_deg: float = 70.0,
    image_size: tuple[int, int] = _SIZE,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """Circle around the point `radius` ahead, always facing it.

    A positive angle moves the camera to its left and turns it right. Radius in world units, > 0.
    """
    return spiral(radius, radius, angle_deg, 0.0, frames, ease=ease, fov_deg=fov_deg, image_size=image_size, fps=fps)


def spiral(
    radius: float = 4.0,
    end_radius: float = 2.0,
    angle_deg: float = 180.0,
    rise: float = 1.0,
    frames: int = 161,
    *,
    ease: bool = True,
    fov_deg: float = 70.0,
    image_size: tuple[int, int] = _SIZE,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """Circle around the point `radius` ahead while closing in to `end_radius` and climbing by `rise`.

    The camera keeps facing the point. Lengths in world units; radii > 0; a negative rise sinks.
    """
    if not (radius > 0 and end_radius > 0):
        raise ValueError(f"radius is {radius} and end_radius {end_radius}; allowed: > 0; example: radius=3")
    progress = _progress(frames, ease)
    yaw = np.radians(angle_deg) * progress
    reach = radius + (end_radius - radius) * progress
    climb = rise * progress
    centre = np.array([0.0, 0.0, radius])
    position = centre + np.stack([-np.sin(yaw) * reach, -climb, -np.cos(yaw) * reach], axis=-1)
    # +Y is down: a camera above the centre looks down, which is negative pitch.
    rotation = yaw_pitch_rotation(yaw, -np.arctan2(climb, reach))
    return _trajectory(rotation, position, fov_deg, image_size, fps)


def dolly(
    distance: float = 2.0,
    frames: int = 81,
    *,
    subject_distance: float | None = None,
    ease: bool = True,
    fov_deg: float = 70.0,
    image_size: tuple[int, int] = _SIZE,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """Move straight along the viewing axis, forward for a positive distance.

    With `subject_distance` (world units, from the start) the lens zooms so that a subject there keeps its size.
    """
    progress = _progress(frames, ease)
    position = np.zeros((frames, 3))
    position[:, 2] = distance * progress
    path = _trajectory(np.tile(np.eye(3), (frames, 1, 1)), position, fov_deg, image_size, fps)
    if subject_distance is None:
        return path
    if not (subject_distance > 0 and subject_distance > distance):
        raise ValueError(
            f"subject_distance is {subject_distance}; allowed: > 0 and beyond the {distance} moved; example: 5"
        )
    assert path.intrinsics is not None
    intrinsics = path.intrinsics.copy()
    intrinsics[:, :2] *= 1.0 - position[:, 2:] / subject_distance
    return path.with_intrinsics(intrinsics, image_size)


def fly_through(
    waypoints: ArrayLike = ((0, 0, 0), (0.6, -0.3, 3), (-0.6, -0.1, 6), (0, 0, 9)),
    frames: int = 161,
    *,
    ease: bool = True,
    fov_deg: float = 70.0,
    image_size: tuple[int, int] = _SIZE,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """Fly a smooth curve through points at even speed, looking where it goes, horizon level.

    `waypoints` is (k, 3), k >= 2, world units with +Y down. The path is then laid so that it starts at the identity.
    """
    from scipy.interpolate import CubicSpline

    points = np.array(waypoints, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2 or not np.isfinite(points).all():
        raise ValueError(f"waypoints have shape {points.shape}; allowed: (k, 3), k >= 2, finite; example: 0,0,0 0,0,5")
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    if gaps.min() < 1e-9:
        raise ValueError(f"waypoints {int(gaps.argmin())} and the next are equal; allowed: distinct points in a row")
    knots = np.concatenate([[0.0], np.cumsum(gaps)])
    curve = CubicSpline(knots, points, bc_type="natural") if len(points) > 2 else None

    def place(at: NDArray[np.float64], order: int = 0) -> NDArray[np.float64]:
        if curve is not None:
            return curve(at, order)
        slope = (points[1] - points[0]) / knots[-1]
        return points[0] + at[:, None] * slope if order == 0 else np.tile(slope, (len(at), 1))

    fine = np.linspace(0.0, knots[-1], 64 * len(points) + 1)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(place(fine), axis=0), axis=-1))])
    at = np.interp(_progress(frames, ease) * arc[-1], arc, fine)
    ahead = place(at, 1)
    yaw = np.unwrap(np.arctan2(ahead[:, 0], ahead[:, 2]))
    pitch = np.arctan2(-ahead[:, 1], np.linalg.norm(ahead[:, [0, 2]], axis=-1))
    return _trajectory(yaw_pitch_rotation(yaw, pitch), place(at), fov_deg, image_size, fps)


FAMILIES: Mapping[str, Callable[..., Trajectory]] = MappingProxyType(
    {"orbit": orbit, "spiral": spiral, "dolly": dolly, "fly-through": fly_through}
)


def _progress(frames: int, ease: bool) -> NDArray[np.float64]:
    if frames < 1:
        raise ValueError(f"frames is {frames}; allowed: a whole number from 1; example: frames=81")
    linear = np.linspace(0.0, 1.0, frames)
    return linear * linear * (3.0 - 2.0 * linear) if ease else linear


def _trajectory(
    rotation: NDArray[np.float64],
    position: NDArray[np.float64],
    fov_deg: float,
    image_size: tuple[int, int],
    fps: float,
) -> Trajectory:
    c2w = np.tile(np.eye(4), (len(rotation), 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = rotation, position
    relative = invert_rigid(c2w[:1]) @ c2w
    relative[0] = np.eye(4)
    return Trajectory(relative, intrinsics_from_fov(fov_deg, image_size), fps, image_size)
