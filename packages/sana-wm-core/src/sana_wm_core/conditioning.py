"""Camera input as users give it, to the path of a clip and the tensors the transformer reads."""

from __future__ import annotations

import numpy as np
import torch
from camera_control import rays
from camera_control.checks import require_runnable
from camera_control.geometry import require_rotations, snap_num_frames
from camera_control.trajectory import Trajectory
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

MIN_FRAMES = 9


def plan_path(
    c2w: ArrayLike, intrinsics: ArrayLike, size: tuple[int, int], frames: int, fps: float, stride: int = 8
) -> Trajectory:
    """Check a camera path and cut it to the clip: the count of the form stride k + 1 nearest to the one asked for.

    Args:
        c2w: (F, 4, 4) camera-to-world poses, OpenCV axes.
        intrinsics: (4,), (3, 3), (n, 4) or (n, 3, 3) in pixels of the picture; one is repeated, too many are cut, too
            few are resampled over the clip.
        size: Height and width of the picture, pixels.
        frames: Frames asked for; ties snap upward if the path is long enough.
        fps: Frames per second.
        stride: Frames per latent frame.

    Raises:
        ValueError: A path no model can run: shape, NaN, rotations, fewer than 9 frames, field of view outside 25-120.

    Reference: SANA-WM (arXiv 2605.15178), inference; camera_control.checks for the limits.
    """
    if frames < MIN_FRAMES:
        raise ValueError(f"the clip needs at least {MIN_FRAMES} frames (1 + 8k), such as 65; got {frames}")
    whole = Trajectory(np.asarray(c2w), fps=fps)
    require_rotations(whole.c2w)
    count = snap_num_frames(min(frames, len(whole)), stride, upper_bound=len(whole))
    path = Trajectory(whole.c2w[:count], np.asarray(intrinsics), fps, size)
    require_runnable(path)
    return path


def camera_tensors(
    path: Trajectory, intrinsics: NDArray[np.floating], size: tuple[int, int], latent_size: tuple[int, int], stride: int
) -> dict[str, Tensor]:
    """Camera keyword tensors of the transformer, batch 1, float32.

    Args:
        path: Poses of the clip; made relative to the first here.
        intrinsics: (f, 4) in pixels of the cropped picture.
        size: Height and width of the cropped picture, pixels.
        latent_size: Rows and columns of the latent grid.
        stride: Frames per latent frame.

    Returns:
        camera_conditions (1, t, 20) and chunk_plucker (1, 6 stride, t, y, x).
    """
    poses, rows = path.c2w.astype(np.float32), np.asarray(intrinsics, dtype=np.float32)
    arrays = {
        "camera_conditions": rays.camera_conditions(poses, rows, size, latent_size, stride),
        "chunk_plucker": rays.chunk_plucker(poses, rows, size, latent_size, stride),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array))[None] for name, array in arrays.items()}
