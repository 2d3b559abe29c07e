"""The UCPE transform: attention features are carried into the frame of each token's own camera ray.

Every token has a viewing ray. Its ray frame has z along the ray, x across it and across the camera's down axis, and
y completing the pair; `P` maps world points into that frame. Half of a head vector is read as points of four numbers
and moved by a matrix built from `P`; the other half is rotated by position. Queries use P^T, keys and values P^-1,
outputs P, so that only relative cameras P_i P_j^-1 reach the attention. Reference: architecture 5.2 to 5.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_NORM = 1e-6


def ray_matrices(
    camera_conditions: Tensor, height: int, width: int, patch: tuple[int, int] = (1, 1)
) -> tuple[Tensor, Tensor]:
    """World-to-ray matrices P of every token, and their inverses.

    Args:
        camera_conditions: (b, t, 20): 16 numbers of a camera-to-world pose, then fx, fy, cx, cy in latent units.
        height: Token rows.
        width: Token columns.
        patch: Latent cells per token, (rows, columns).

    Returns:
        P and P^-1, each (b, t * height * width, 4, 4), frame-major, in the dtype given. A ray whose direction is not
        a number gets the identity.
    """
    if camera_conditions.ndim != 3 or camera_conditions.shape[-1] != 20:
        raise ValueError(
            f"camera_conditions has shape {tuple(camera_conditions.shape)}; allowed: (b, t, 20); "
            "example: camera_control.rays.camera_conditions(...)[None]"
        )
    batch, frames, _ = camera_conditions.shape
    pose = camera_conditions[..., :16].reshape(batch, frames, 4, 4)
    fx, fy, cx, cy = (camera_conditions[..., 16 + i, None] for i in range(4))
    device, dtype = camera_conditions.device, camera_conditions.dtype

    x_btw = (torch.arange(width, device=device, dtype=dtype) - cx / patch[1]) / (fx / patch[1])
    y_bth = (torch.arange(height, device=device, dtype=dtype) - cy / patch[0]) / (fy / patch[0])
    x = x_btw[:, :, None, :].expand(batch, frames, height, width)
    y = y_bth[:, :, :, None].expand(batch, frames, height, width)
    ray_cam = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(2, 3)

    rotation, position = pose[..., :3, :3], pose[..., :3, 3]
    ray_world = ray_cam @ rotation.transpose(-1, -2)
    down = rotation[:, :, None, :, 1].expand_as(ray_world)
    z_axis = _unit(ray_world)
    x_axis = _unit(torch.linalg.cross(down, z_axis))
    y_axis = _unit(torch.linalg.cross(z_axis, x_axis))
    ray_from_world = torch.stack([x_axis, y_axis, z_axis], dim=-2)
    offset = -(ray_from_world @ position[:, :, None, :, None])

    matrix = _rigid(ray_from_world, offset)
    unknown = torch.isnan(ray_world).any(-1)[..., None, None]
    matrix = torch.where(unknown, torch.eye(4, device=device, dtype=dtype), matrix).flatten(1, 2)
    return matrix, invert_ray_matrices(matrix)


def invert_ray_matrices(matrix: Tensor) -> Tensor:
    """Closed-form inverse of rigid (..., 4, 4) matrices; differentiable, dtype kept."""
    rotation_t = matrix[..., :3, :3].transpose(-1, -2)
    return _rigid(rotation_t, -(rotation_t @ matrix[..., :3, 3:]))


def encode(x_bnhd: Tensor, matrix_bn44: Tensor, cos_nf: Tensor | None, sin_nf: Tensor | None) -> Tensor:
    """Carry head vectors into their ray frames.

    Args:
        x_bnhd: (b, n, h, d) features, d a multiple of 8.
        matrix_bn44: (b, n, 4, 4); P^T for queries, P^-1 for keys and values.
        cos_nf: (n, d / 4) cosines of the rotary angles of the second half, adjacent pairs; None skips the rotation.
        sin_nf: (n, d / 4) sines.
    """
    return _transform(x_bnhd, matrix_bn44, cos_nf, sin_nf)


def decode(x_bnhd: Tensor, matrix_bn44: Tensor, cos_nf: Tensor | None, sin_nf: Tensor | None) -> Tensor:
    """Carry attention outputs back out of the ray frames: matrix P, and the rotation run backwards.

    Arguments are those of `encode`; `decode(encode(x, M), M^-1)` gives x.
    """
    return _transform(x_bnhd, matrix_bn44, cos_nf, None if sin_nf is None else -sin_nf)


def _transform(x_bnhd: Tensor, matrix_bn44: Tensor, cos_nf: Tensor | None, sin_nf: Tensor | None) -> Tensor:
    head_width = x_bnhd.shape[-1]
    assert head_width % 8 == 0, f"head width {head_width} is not a multiple of 8"
    points, rotary = x_bnhd.split(head_width // 2, dim=-1)
    # (b, n, h * d/8, 4) @ (b, n, 4, 4)^T: one small batched product for all heads of a token
    groups = points.reshape(*x_bnhd.shape[:2], -1, 4)
    moved = (groups @ matrix_bn44.transpose(-1, -2)).reshape(points.shape)
    if cos_nf is not None and sin_nf is not None:
        rotary = _rotate_pairs(rotary, cos_nf, sin_nf)
    return torch.cat([moved, rotary], dim=-1)


def _rotate_pairs(x_bnhe: Tensor, cos_nf: Tensor, sin_nf: Tensor) -> Tensor:
    work = torch.promote_types(x_bnhe.dtype, torch.float32)
    x = x_bnhe.to(work)
    # Complex views need neighbours side by side at an even place in memory.
    if x.stride(-1) != 1 or any(place % 2 for place in (x.storage_offset(), *x.stride()[:-1])):
        x = x.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turns = torch.complex(cos_nf.to(work), sin_nf.to(work))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x_bnhe.dtype)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_min(_MIN_NORM)


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    top = torch.cat([rotation, translation], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1.0
    return torch.cat([top, bottom], dim=-2)
