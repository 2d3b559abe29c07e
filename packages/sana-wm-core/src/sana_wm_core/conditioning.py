"""Camera input as users give it, to the tensors the transformer reads."""

from __future__ import annotations

import numpy as np
import torch
from camera_control import rays
from torch import Tensor

MIN_FRAMES = 9


def snap_frames(wanted: int, available: int, stride: int = 8) -> int:
    """Choose a frame count of the form stride k + 1, nearest to the wanted one (ties go up), within the trajectory.

    The result may exceed the wanted count when the trajectory is long enough: 165 of 169 poses become 169.

    Raises:
        ValueError: Fewer than 9 frames come out, the shortest clip the codecs can make.
    """
    count = min(wanted, available)
    below = count - (count - 1) % stride
    above = below if below == count else below + stride
    nearest = below if count - below < above - count else above
    snapped = nearest if nearest <= available else below
    if count < MIN_FRAMES or snapped < MIN_FRAMES:
        raise ValueError(
            f"a clip needs at least {MIN_FRAMES} frames (1 + 8k), such as 65; got {wanted} frames and {available} poses"
        )
    return snapped


def frame_intrinsics(intrinsics: np.ndarray | list[float], frames: int) -> np.ndarray:
    """Bring intrinsics of any accepted form to one row fx, fy, cx, cy per frame.

    Args:
        intrinsics: (4,), (3, 3), (n, 4) or (n, 3, 3) in pixels. Longer than the clip: cut; shorter: resampled
            linearly over the clip, number by number.
        frames: Frames of the clip.

    Returns:
        (frames, 4) float32.

    Raises:
        ValueError: Another shape, or numbers that are no intrinsics.
    """
    given = np.asarray(intrinsics, dtype=np.float32)
    if given.shape[-2:] == (3, 3) and given.ndim in (2, 3):
        rows = np.stack([given[..., 0, 0], given[..., 1, 1], given[..., 0, 2], given[..., 1, 2]], axis=-1)
    else:
        rows = given
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise ValueError(f"the intrinsics must be (4,), (3, 3), (F, 4) or (F, 3, 3) in pixels; got {given.shape}")
    if not np.isfinite(rows).all() or (rows[:, :2] <= 0).any():
        raise ValueError("the intrinsics hold NaN, infinite or non-positive focal lengths; e.g. 800, 800, 640, 352")
    if len(rows) == 1:
        return np.repeat(rows, frames, axis=0)
    if len(rows) >= frames:
        return rows[:frames].copy()
    at, have = np.linspace(0, 1, frames), np.linspace(0, 1, len(rows))
    return np.stack([np.interp(at, have, column) for column in rows.T], axis=-1).astype(np.float32)


def check_view(intrinsics: np.ndarray, size: tuple[int, int]) -> None:
    """Refuse lenses the model was never trained with.

    Args:
        intrinsics: (f, 4) in pixels of a picture of this size.
        size: Width and height, pixels.

    Raises:
        ValueError: A field of view outside 25 to 120 degrees, on either axis.
    """
    for name, focal, extent in (("horizontal", intrinsics[:, 0], size[0]), ("vertical", intrinsics[:, 1], size[1])):
        fov_deg = np.degrees(2 * np.arctan(extent / (2 * focal.astype(np.float64))))
        if not (fov_deg.min() > 25 and fov_deg.max() < 120):
            bad = fov_deg.min() if fov_deg.min() <= 25 else fov_deg.max()
            raise ValueError(
                f"the {name} field of view must be between 25 and 120 degrees; got {bad:.1f} "
                f"(focal length {focal.min():.1f} px on {extent} px); check --intrinsics"
            )


def check_poses(c2w: np.ndarray) -> np.ndarray:
    """Return poses (f, 4, 4) as float32, or refuse what is no camera path.

    Raises:
        ValueError: Wrong shape, NaN, a matrix whose rotation is not orthonormal or is left-handed, a wrong last row.
    """
    poses = np.asarray(c2w)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not np.issubdtype(poses.dtype, np.number):
        raise ValueError(f"the camera path must be numbers of shape (F, 4, 4); got {poses.dtype} {poses.shape}")
    poses = poses.astype(np.float64)
    bad = ~np.isfinite(poses).all(axis=(1, 2))
    if bad.any():
        raise ValueError(f"pose {int(bad.argmax())} of the camera path holds NaN or infinite numbers")
    rotation = poses[:, :3, :3]
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    if error.max(initial=0.0) > 1e-3:
        raise ValueError(
            f"the rotation of pose {int(error.argmax())} is not orthonormal (off by {error.max():.2g}, allowed 0.001)"
        )
    left = np.linalg.det(rotation) < 0
    if left.any():
        raise ValueError(
            f"pose {int(left.argmax())} is left-handed (determinant -1); the axes must be +X right, +Y down, +Z forward"
        )
    if np.abs(poses[:, 3] - [0, 0, 0, 1]).max(initial=0.0) > 1e-4:
        raise ValueError("the last row of every pose must be 0 0 0 1: camera-to-world matrices, not their transpose")
    return poses.astype(np.float32)


def camera_tensors(
    c2w: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], latent_size: tuple[int, int], stride: int
) -> dict[str, Tensor]:
    """Camera keyword tensors of the transformer, batch 1, float32.

    Args:
        c2w: (f, 4, 4) poses; made relative to the first here.
        intrinsics: (f, 4) in pixels of the cropped picture.
        size: Height and width of the picture, pixels.
        latent_size: Rows and columns of the latent grid.
        stride: Frames per latent frame.

    Returns:
        camera_conditions (1, t, 20) and chunk_plucker (1, 6 stride, t, y, x).
    """
    relative = rays.relative_to_first(c2w)
    pack = {"image_size": size, "latent_size": latent_size, "stride": stride}
    arrays = {
        "camera_conditions": rays.camera_conditions(relative, intrinsics, **pack),
        "chunk_plucker": rays.chunk_plucker(relative, intrinsics, **pack),
    }
    return {name: torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32)[None] for name, a in arrays.items()}
