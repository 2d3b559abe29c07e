"""Carrying a frame to another camera with exact depth: what a consistent video would show there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

Array = NDArray[np.float64]
_DEPTH_SLACK = 0.02


class Camera(NamedTuple):
    """A pose (4, 4) camera-to-world, a lens (4,) px and the exact z-depth (H, W) seen from there."""

    c2w: Array
    intrinsics: Array
    depth: NDArray[np.float32]


def warp(source: NDArray[np.uint8], there: Camera, here: Camera) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """What `here` would see if it showed the surfaces that `there` shows: picture (H, W, 3) and mask (H, W).

    Every pixel of `here` goes to its surface point and from there into the source picture. The mask leaves out sky,
    points outside the source picture and points hidden from it (2 % of depth plus 2 cm of slack).
    """
    height, width = here.depth.shape
    v, u = np.mgrid[0:height, 0:width] + 0.5
    depth = here.depth.astype(np.float64)
    solid = np.isfinite(depth)
    z = np.where(solid, depth, 1.0)
    fx, fy, cx, cy = here.intrinsics
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones_like(z)], axis=-1)
    moved = points @ (np.linalg.inv(there.c2w) @ here.c2w).T
    ahead = moved[..., 2] > 1e-3
    far = np.where(ahead, moved[..., 2], 1.0)
    fx, fy, cx, cy = there.intrinsics
    x, y = moved[..., 0] / far * fx + cx, moved[..., 1] / far * fy + cy
    rows, columns = source.shape[:2]
    inside = (x >= 0.5) & (x <= columns - 0.5) & (y >= 0.5) & (y <= rows - 0.5)
    at = np.stack([np.where(inside, y - 0.5, 0.0), np.where(inside, x - 0.5, 0.0)])
    seen = there.depth[np.round(at[0]).astype(int), np.round(at[1]).astype(int)].astype(np.float64)
    open_view = np.abs(np.where(np.isfinite(seen), seen, 1e9) - far) <= _DEPTH_SLACK * far + 0.02
    picture = np.stack(
        [map_coordinates(source[..., c].astype(np.float64), at, order=1, mode="nearest") for c in range(3)], axis=-1
    )
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), solid & ahead & inside & open_view
