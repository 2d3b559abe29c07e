"""The camera tensors a world model reads: 20 numbers per latent frame, and 48 channels of Pluecker rays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camera_control.geometry import relative_to_first

__all__ = ["camera_conditions", "chunk_plucker", "latent_intrinsics", "plucker_rays", "relative_to_first"]


def latent_intrinsics(
    intrinsics_px: NDArray[Any], image_size: tuple[int, int], latent_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Scale (f, 4) pixel intrinsics of an image (height, width) to its latent grid; no half-pixel shift."""
    scale_y, scale_x = latent_size[0] / image_size[0], latent_size[1] / image_size[1]
    scale = np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
    return np.asarray(intrinsics_px, dtype=np.float32) * scale


def plucker_rays(
    c2w: NDArray[np.float32], intrinsics: NDArray[np.float32], grid_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Rays through every grid cell as unit direction d and moment m = origin x d, shape (f, y, x, 6).

    Cells are integer coordinates (no + 0.5) and `intrinsics` (f, 4) are in grid units.
    """
    rows, columns = grid_size
    fx, fy, cx, cy = (intrinsics[:, i, None] for i in range(4))
    ray_cam = np.empty((len(c2w), rows, columns, 3), dtype=np.float32)
    ray_cam[..., 0] = ((np.arange(columns, dtype=np.float32) - cx) / fx)[:, None, :]
    ray_cam[..., 1] = ((np.arange(rows, dtype=np.float32) - cy) / fy)[:, :, None]
    ray_cam[..., 2] = 1.0
    world_from_camera = np.swapaxes(c2w[:, None, :3, :3], -1, -2)
    direction = ray_cam @ world_from_camera
    direction /= np.sqrt(np.square(direction).sum(-1, keepdims=True))
    moment = np.cross(np.broadcast_to(c2w[:, None, None, :3, 3], direction.shape), direction)
    return np.concatenate([direction, moment], axis=-1)


def camera_conditions(
    c2w: NDArray[Any],
    intrinsics_px: NDArray[Any],
    image_size: tuple[int, int],
    latent_size: tuple[int, int],
    stride: int = 8,
) -> NDArray[np.float32]:
    """One camera row per latent frame: 16 pose numbers (row-major), then fx, fy, cx, cy in latent units.

    Args:
        c2w: (f, 4, 4) camera-to-world, any world frame; made relative to the first here.
        intrinsics_px: (f, 4) fx, fy, cx, cy in pixels of the image the model sees.
        image_size: (height, width) of that image.
        latent_size: (rows, columns) of the latent grid.
        stride: Raw frames per latent frame.

    Returns:
        (t, 20) float32, t = (f - 1) // stride + 1, taken at raw frames 0, stride, 2 stride, ...

    Reference: inference specification 2.5, architecture 5.1.
    """
    poses, focal = _relative(c2w, intrinsics_px, image_size, latent_size)
    return np.concatenate([poses[::stride].reshape(-1, 16), focal[::stride]], axis=-1)


def chunk_plucker(
    c2w: NDArray[Any],
    intrinsics_px: NDArray[Any],
    image_size: tuple[int, int],
    latent_size: tuple[int, int],
    stride: int = 8,
) -> NDArray[np.float32]:
    """The Pluecker rays of all raw frames behind each latent frame, stacked as channels: (6 stride, t, y, x).

    Arguments are those of `camera_conditions`. Latent frame i >= 1 holds raw frames stride (i - 1) + 1 .. stride i;
    latent frame 0 looks ahead and holds raw frames 0 .. stride - 1. A window that runs over the end repeats the last
    frame. Channel 6 k + 0..2 is the direction and 6 k + 3..5 the moment of raw frame k of the window.

    Reference: inference specification 2.5, architecture 5.1.
    """
    poses, focal = _relative(c2w, intrinsics_px, image_size, latent_size)
    starts = np.maximum(np.arange(0, len(poses), stride) - (stride - 1), 0)
    window = np.minimum(starts[:, None] + np.arange(stride), len(poses) - 1)
    rays = plucker_rays(poses, focal, latent_size)[window]
    latent_frames, rows, columns = len(starts), *latent_size
    # (t, k, y, x, 6) -> (k, 6, t, y, x)
    packed = rays.transpose(1, 4, 0, 2, 3).reshape(6 * stride, latent_frames, rows, columns)
    return np.ascontiguousarray(packed)


def _relative(
    c2w: NDArray[Any], intrinsics_px: NDArray[Any], image_size: tuple[int, int], latent_size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if np.shape(c2w)[1:] != (4, 4) or np.shape(intrinsics_px) != (len(c2w), 4):
        raise ValueError(
            f"c2w has shape {np.shape(c2w)} and intrinsics {np.shape(intrinsics_px)}; allowed: (F, 4, 4) and (F, 4); "
            "example: (81, 4, 4) and (81, 4)"
        )
    poses = relative_to_first(np.asarray(c2w, dtype=np.float32))
    return poses, latent_intrinsics(intrinsics_px, image_size, latent_size)
