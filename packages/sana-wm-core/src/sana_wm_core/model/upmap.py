"""Absolute direction of each viewing ray: which way is up in the picture, and its latitude.

Only models without the Pluecker path read this map. Reference: architecture 5.9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_DELTA = 0.1


def absolute_ray_map(camera_conditions: Tensor, height: int, width: int) -> Tensor:
    """Three channels per latent cell: (up_x, up_y, latitude) of its ray in world space.

    Args:
        camera_conditions: (b, t, 20), float32: camera-to-world pose, then fx, fy, cx, cy in latent units.
        height: Latent rows.
        width: Latent columns.

    Returns:
        (b, 3, t, height, width); up is a unit vector in the picture plane, latitude in radians.
    """
    with torch.autocast(camera_conditions.device.type, enabled=False):
        b, t, _ = camera_conditions.shape
        rotation = camera_conditions[..., :16].reshape(b, t, 4, 4)[..., :3, :3]
        fx, fy, cx, cy = (camera_conditions[..., 16 + i, None, None] for i in range(4))
        x = torch.arange(width, device=cx.device, dtype=cx.dtype).expand(b, t, height, width)
        y = torch.arange(height, device=cx.device, dtype=cx.dtype)[:, None].expand(b, t, height, width)
        ray = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=-1)
        world = _unit(torch.einsum("btij,btyxj->btyxi", rotation, ray))
        latitude = torch.atan2(-world[..., 1], world[..., [0, 2]].square().sum(-1).sqrt())

        axis = _unit(torch.linalg.cross(world, world.new_tensor([0.0, -1.0, 0.0]).expand_as(world)))
        # The last term is not Rodrigues' (which would vanish); the published weights were trained with it.
        last = axis.square() * world.sum(-1, keepdim=True) * (1 - math.cos(_DELTA))
        tilted = world * math.cos(_DELTA) + torch.linalg.cross(axis, world) * math.sin(_DELTA) + last
        seen = torch.einsum("btji,btyxj->btyxi", rotation, tilted)
        moved = torch.stack([seen[..., 0] / seen[..., 2] * fx + cx - x, seen[..., 1] / seen[..., 2] * fy + cy - y], -1)
        return torch.cat([_unit(moved), latitude[..., None]], dim=-1).nan_to_num(0.0).permute(0, 4, 1, 2, 3)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_min(1e-8)
