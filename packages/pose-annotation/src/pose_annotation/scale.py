"""Give a path its metres: from depths, a known distance, the camera's height above the ground, or a given path."""

from __future__ import annotations

import numpy as np
from camera_control.geometry import invert_rigid

from pose_annotation.align import umeyama_inliers
from pose_annotation.fuse import frame_scale, weighted_median
from pose_annotation.two_view import rays, triangulate, widest_angle_deg
from pose_annotation.types import Array, CameraTrack, Tracks


def require_maps(shape: tuple[int, ...], frames: int, size: tuple[int, int]) -> None:
    """Raise ValueError unless depth maps of this shape belong to `frames` pictures of (height, width) `size`."""
    if len(shape) != 3 or shape[0] != frames:
        raise ValueError(f"depth has shape {shape}; allowed: ({frames}, h, w), one map a frame")
    height, width = shape[1:]
    if abs(width / height * size[0] / size[1] - 1.0) > 0.05:
        raise ValueError(
            f"depth maps are {height}x{width}, the pictures {size[0]}x{size[1]}; allowed: the same shape up to scale"
        )


def sample_depth(depth: Array, tracks: Tracks, edge: float = 0.1) -> Array:
    """Depth (m,) at every tracked position, nan where invalid, and where depth jumps by more than `edge` (relative).

    `depth` (f, h, w) may have another resolution than the pictures. Raises ValueError for another number of frames.
    """
    require_maps(depth.shape, tracks.frames, tracks.size)
    height, width = depth.shape[1:]
    x = np.clip((tracks.xy[:, 0] * width / tracks.size[1]).astype(np.int64), 0, width - 1)
    y = np.clip((tracks.xy[:, 1] * height / tracks.size[0]).astype(np.int64), 0, height - 1)
    z = depth[tracks.frame, y, x].astype(np.float64)
    good = np.isfinite(z) & (z > 0)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        near = depth[tracks.frame, np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
        with np.errstate(invalid="ignore", divide="ignore"):
            good &= np.abs(near / z - 1.0) < edge
    return np.where(good, z, np.nan)


def scale_by_distance(camera: CameraTrack, first: int, second: int, metres: float) -> CameraTrack:
    """Metric path from the true distance between two camera positions.

    Raises ValueError for frames outside the clip, a distance <= 0, and positions too close together to tell.
    """
    n = len(camera)
    if not (0 <= first < n and 0 <= second < n and first != second):
        raise ValueError(
            f"frames are {first} and {second}; allowed: two of 0..{n - 1}; example: --known-distance 0 {n - 1} 2.5"
        )
    if not (np.isfinite(metres) and metres > 0):
        raise ValueError(f"distance is {metres}; allowed: metres > 0; example: --known-distance 0 {n - 1} 2.5")
    length = float(np.linalg.norm(camera.c2w[first, :3, 3] - camera.c2w[second, :3, 3]))
    whole = float(np.ptp(camera.c2w[:, :3, 3], axis=0).max())
    if length <= 1e-3 * whole or whole == 0:
        raise ValueError(f"the camera is at the same place in frames {first} and {second}; allowed: places apart")
    return camera.scaled(metres / length, metric=True)


def scale_by_height(camera: CameraTrack, metres: float, tilt_deg: float = 60.0) -> tuple[CameraTrack, float]:
    """Metric path from the camera's height above the ground, and the share of the points below that lie on it.

    The ground is the plane below the camera that carries most points and is within `tilt_deg` of level in the first
    camera, which may look down. Raises ValueError when no plane carries 30 points and a tenth of those below.
    """
    if not (np.isfinite(metres) and metres > 0):
        raise ValueError(f"camera height is {metres}; allowed: metres > 0; example: --camera-height 1.6")
    centres = camera.c2w[:, :3, 3]
    found = _ground(camera.points, np.median(centres, axis=0), tilt_deg) if len(camera.points) >= 30 else None
    if found is None:
        raise ValueError("no ground plane among the points of the clip; allowed: a clip that shows the ground")
    normal, offset, share = found
    return camera.scaled(metres / float(np.median(offset - centres @ normal)), metric=True), share


def _ground(points: Array, centre: Array, tilt_deg: float) -> tuple[Array, float, float] | None:
    """Normal (pointing down), offset and support of the best plane n.x = offset below `centre`; seeded voting."""
    rng = np.random.default_rng(0)
    spread = float(np.median(np.abs(points - np.median(points, axis=0)).sum(1)))
    near = 0.02 * spread
    best: tuple[int, Array, float] | None = None
    for _ in range(400):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        size = float(np.linalg.norm(normal))
        if size < 1e-12:
            continue
        normal = normal / size * (1.0 if normal[1] > 0 else -1.0)
        if normal[1] < np.cos(np.radians(tilt_deg)) or normal @ (a - centre) <= near:
            continue
        count = int((np.abs(points @ normal - normal @ a) < near).sum())
        if best is None or count > best[0]:
            best = (count, normal, float(normal @ a))
    if best is None:
        return None
    below = int(((points - centre) @ best[1] > 0).sum())
    if best[0] < max(30, 0.1 * below):
        return None
    on = points[np.abs(points @ best[1] - best[2]) < near]
    _, _, vt = np.linalg.svd(on - on.mean(0), full_matrices=False)
    normal = vt[2] * (1.0 if vt[2][1] > 0 else -1.0)
    return normal, float(normal @ on.mean(0)), best[0] / below


def scale_of_given_path(
    given: Array, metric: Array, scene_depth: float | None = None, depth_ratio: float | None = None
) -> float:
    """Metres per unit of a given path (f, 4, 4), by fitting its centres to a metric estimate (f, 4, 4).

    Umeyama from given to metric, refitted on the best 80 %. A path that spans less than a tenth of `scene_depth`
    (median, metres) cannot carry this; then `depth_ratio` (metric depth over depth along the given path) is used when
    there is one. A path that stands still has no length to scale: 1. Reference: annotate.md 2.5.
    """
    x, y = given[:, :3, 3], metric[:, :3, 3]
    if np.ptp(x, axis=0).max() < 1e-9:
        return 1.0
    span = float(np.linalg.norm(np.ptp(y, axis=0)))
    if depth_ratio is not None and scene_depth is not None and span < 0.1 * scene_depth:
        return float(depth_ratio)
    return umeyama_inliers(x, y).scale


def ratio_of_depths(given: CameraTrack, tracks: Tracks, z: Array, least_angle_deg: float = 0.5) -> float | None:
    """Metric depth `z` (m,) of the observations over their depth when triangulated along a given path; None if unclear.

    Points seen under less than `least_angle_deg` are left out; wider ones count more.
    """
    w2c = invert_rigid(given.c2w)
    turn, shift = w2c[:, :3, :3], w2c[:, :3, 3]
    normalised = rays(tracks.xy, given.intrinsics[tracks.frame])
    world, ok = triangulate(turn, shift, normalised, tracks.frame, tracks.track, tracks.count)
    angle = widest_angle_deg(world, given.c2w[:, :3, 3], tracks.frame, tracks.track)
    y = np.einsum("mj,mj->m", turn[tracks.frame, 2], world[tracks.track]) + shift[tracks.frame, 2]
    good = (ok & (angle > least_angle_deg))[tracks.track] & np.isfinite(z) & (y > 0)
    if good.sum() < 30:
        return None
    return weighted_median(z[good] / y[good], angle[tracks.track[good]] ** 2)


def frame_scales(given: Array, metric: Array) -> Array:
    """Metres per unit (f,) of given depths (f, h, w) against metric ones, by weighted medians; nan without overlap."""
    return np.array([frame_scale(g, m, "l1")[0] for g, m in zip(given, metric, strict=True)])


def scale_of_frames(scales: Array) -> float:
    """One scale of frames' scales (f,): those beyond two standard deviations dropped, then the median.

    Raises ValueError when none is finite. Reference: annotate.md 2.6.
    """
    scales = scales[np.isfinite(scales)]
    if not len(scales):
        raise ValueError("given and metric depth overlap nowhere; allowed: depth maps with common valid pixels")
    middle = float(np.median(scales))
    kept = scales[np.abs(scales - middle) <= 2.0 * scales.std() + 1e-12]
    return weighted_median(kept, np.ones(len(kept)))
