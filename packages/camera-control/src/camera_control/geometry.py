"""Rigid transforms and intrinsics: inverse, relative pose, shapes, crop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def invert_rigid(pose: NDArray[Any]) -> NDArray[Any]:
    """Invert rigid 4x4 transforms (..., 4, 4) by transposing the rotation; the dtype is kept."""
    inverse = np.zeros_like(pose)
    rotation_t = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -(rotation_t @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def relative_to_first(c2w: NDArray[Any]) -> NDArray[Any]:
    """Express camera-to-world poses (f, 4, 4) in the first camera's frame; pose 0 becomes the exact identity.

    No scale is applied: translations stay in the units they came in. Reference: inference specification 2.4.
    """
    first_from_world = invert_rigid(c2w[:1])
    relative = first_from_world @ c2w
    relative[0] = np.eye(4, dtype=c2w.dtype)
    return relative


def intrinsics_to_vec4(intrinsics: NDArray[Any], frames: int) -> NDArray[np.float64]:
    """Bring any accepted intrinsics to (frames, 4) = fx, fy, cx, cy in pixels.

    Accepted: (4,), (3, 3), (n, 4), (n, 3, 3). One camera is repeated; n > frames is cut; 1 < n < frames is resampled
    linearly over the clip, entry by entry. Raises ValueError for other shapes and for values that are not finite.
    Reference: inference specification 2.2.
    """
    values = np.asarray(intrinsics, dtype=np.float64)
    if values.shape == (4,):
        values = values[None]
    elif values.ndim in (2, 3) and values.shape[-2:] == (3, 3):
        matrix = values.reshape(-1, 3, 3)
        values = np.stack([matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 2], matrix[:, 1, 2]], axis=-1)
    elif values.ndim != 2 or values.shape[1] != 4:
        raise ValueError(
            f"intrinsics have shape {values.shape}; allowed: (4,), (3, 3), (F, 4), (F, 3, 3) in pixels; "
            "example: [600, 600, 640, 352]"
        )
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"intrinsics are empty or not finite; allowed: {frames} or 1 cameras of finite numbers")
    if len(values) == 1:
        return np.repeat(values, frames, axis=0)
    if len(values) >= frames:
        return values[:frames].copy()
    source, wanted = np.linspace(0.0, 1.0, len(values)), np.linspace(0.0, 1.0, frames)
    return np.stack([np.interp(wanted, source, column) for column in values.T], axis=-1)


def fov_deg(intrinsics_px: NDArray[Any], image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Horizontal and vertical field of view in degrees, (..., 2), for (..., 4) intrinsics and (height, width)."""
    height, width = image_size
    focal = np.asarray(intrinsics_px, dtype=np.float64)[..., :2]
    return np.degrees(2.0 * np.arctan(np.array([width, height]) / (2.0 * focal)))


def intrinsics_from_fov(fov_x_deg: float, image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Square-pixel intrinsics (fx, fy, cx, cy) with the horizontal field of view asked for and a centred axis."""
    if not 0.0 < fov_x_deg < 180.0:
        raise ValueError(f"field of view is {fov_x_deg} degrees; allowed: between 0 and 180; example: 70")
    height, width = image_size
    focal = width / (2.0 * np.tan(np.radians(fov_x_deg) / 2.0))
    return np.array([focal, focal, width / 2.0, height / 2.0])


def crop_plan(source_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Resized (height, width) and crop offset (top, left) that fill `target_size` without distortion.

    Rounding is Python's round-half-even. Reference: inference specification 2.1.
    """
    (src_h, src_w), (dst_h, dst_w) = source_size, target_size
    if min(src_h, src_w, dst_h, dst_w) <= 0:
        raise ValueError(f"image size {source_size} or {target_size} has a side <= 0; example: (704, 1280)")
    scale = max(dst_h / src_h, dst_w / src_w)
    height, width = max(dst_h, round(src_h * scale)), max(dst_w, round(src_w * scale))
    return (height, width), ((height - dst_h) // 2, (width - dst_w) // 2)


def crop_intrinsics(
    intrinsics_px: NDArray[Any], source_size: tuple[int, int], target_size: tuple[int, int]
) -> NDArray[Any]:
    """Follow an image through resize and centre crop: (..., 4) intrinsics of the source become those of the target.

    Reference: inference specification 2.2.
    """
    (height, width), (top, left) = crop_plan(source_size, target_size)
    scale = np.array([width / source_size[1], height / source_size[0]])
    out = np.array(intrinsics_px, dtype=np.result_type(intrinsics_px, np.float32))
    out[..., :2] *= scale
    out[..., 2:] = out[..., 2:] * scale - np.array([left, top])
    return out


def snap_num_frames(frames: int, stride: int = 8, upper_bound: int | None = None) -> int:
    """Nearest count of the form stride * k + 1, ties upward, not above `upper_bound`, at least 1.

    Reference: inference specification 2.6.
    """
    if frames < 1:
        return 1
    rest = (frames - 1) % stride
    low = frames - rest
    if rest == 0 or (rest < stride - rest) or (upper_bound is not None and low + stride > upper_bound):
        return low
    return low + stride


def require_rotations(c2w: NDArray[Any], tolerance: float = 1e-3) -> None:
    """Raise ValueError unless every pose (f, 4, 4) holds a right-handed orthonormal rotation.

    `tolerance` bounds the largest entry of |R^T R - I|; float32 files stay below 1e-6.
    """
    rotation = np.asarray(c2w, dtype=np.float64)[:, :3, :3]
    error = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max(axis=(-2, -1))
    if not error.max() <= tolerance:
        frame = int(np.nanargmax(error))
        raise ValueError(
            f"rotation of frame {frame} is not orthonormal: |R^T R - I| = {error[frame]:.3g}; "
            f"allowed: up to {tolerance:g}; example: the identity"
        )
    determinant = np.linalg.det(rotation)
    if determinant.min() < 0:
        frame = int(determinant.argmin())
        raise ValueError(
            f"rotation of frame {frame} is left-handed: determinant {determinant[frame]:.3f}; allowed: +1; "
            "example: x right, y down, z forward"
        )
