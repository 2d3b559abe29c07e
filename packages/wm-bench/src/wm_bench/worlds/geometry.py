"""Ray intersections and distances of the analytic primitives, one batched operation per primitive type.

Rays are kept as three component tensors of shape (r,) and primitives as columns of shape (k, 1), so every
formula below works
on (k, r) arrays. World axes follow the camera convention: +Y points down, so "up" is -Y and the ground is y = 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FAR = 1.0e9
NEAR = 1.0e-3


class Rays(NamedTuple):
    """Ray origins and directions, each component (r,) (or a broadcastable scalar tensor)."""

    ox: Tensor
    oy: Tensor
    oz: Tensor
    dx: Tensor
    dy: Tensor
    dz: Tensor


def _inverse(values: Tensor) -> Tensor:
    """Reciprocal that never divides by zero (axis-parallel rays)."""
    return 1.0 / torch.where(values.abs() < 1e-7, torch.full_like(values, 1e-7), values)


def box_hits(boxes: Tensor, rays: Rays) -> Tensor:
    """Entry distance (k, r) of rays into yaw-rotated boxes, FAR where they miss or start inside.

    `boxes` is (k, 8): centre x y z, half sizes x y z, cosine and sine of the yaw.
    """
    cx, cy, cz, hx, hy, hz, cos, sin = boxes.unsqueeze(-1).unbind(1)
    rx, ry, rz = rays.ox - cx, rays.oy - cy, rays.oz - cz
    ix = _inverse(cos * rays.dx - sin * rays.dz)
    iz = _inverse(sin * rays.dx + cos * rays.dz)
    iy = _inverse(rays.dy)
    mx, my, mz = (sin * rz - cos * rx) * ix, -ry * iy, -(sin * rx + cos * rz) * iz
    wx, wy, wz = hx * ix.abs(), hy * iy.abs(), hz * iz.abs()
    enter = torch.maximum(torch.maximum(mx - wx, my - wy), mz - wz)
    leave = torch.minimum(torch.minimum(mx + wx, my + wy), mz + wz)
    return torch.where((enter <= leave) & (enter > NEAR), enter, FAR)


def ellipsoid_hits(ellipsoids: Tensor, rays: Rays) -> Tensor:
    """Entry distance (k, r) into axis-aligned ellipsoids given as (k, 6): centre, radii."""
    cx, cy, cz, ax, ay, az = ellipsoids.unsqueeze(-1).unbind(1)
    ix, iy, iz = 1.0 / ax, 1.0 / ay, 1.0 / az
    ux, uy, uz = (rays.ox - cx) * ix, (rays.oy - cy) * iy, (rays.oz - cz) * iz
    vx, vy, vz = rays.dx * ix, rays.dy * iy, rays.dz * iz
    vv = vx * vx + vy * vy + vz * vz
    uv = ux * vx + uy * vy + uz * vz
    # The closest approach form keeps float32 precision for large, distant hills.
    s = uv / vv
    px, py, pz = ux - s * vx, uy - s * vy, uz - s * vz
    inside = 1.0 - (px * px + py * py + pz * pz)
    t = -s - torch.sqrt(inside.clamp_min(0.0) / vv)
    return torch.where((inside > 0) & (t > NEAR), t, FAR)


def frustum_hits(frusta: Tensor, rays: Rays) -> Tensor:
    """Entry distance (k, r) into upright cones and cylinders given as (k, 6): base centre, radius at base, at
    top, height."""
    bx, by, bz, r0, r1, h = frusta.unsqueeze(-1).unbind(1)
    rx, rz = rays.ox - bx, rays.oz - bz
    up, dup = by - rays.oy, -rays.dy
    k = (r1 - r0) / h
    rr = r0 + k * up
    a = rays.dx * rays.dx + rays.dz * rays.dz - k * k * dup * dup
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    b = rx * rays.dx + rz * rays.dz - k * dup * rr
    c = rx * rx + rz * rz - rr * rr
    inside = b * b - a * c
    root = torch.sqrt(inside.clamp_min(0.0))
    real = inside > 0
    best = torch.full_like(root, FAR)
    for t in ((-b - root) / a, (-b + root) / a):
        y = up + t * dup
        good = real & (t > NEAR) & (y >= 0) & (y <= h)
        best = torch.where(good, torch.minimum(best, t), best)
    inv = _inverse(dup * torch.ones_like(root))
    for level, radius in ((h, r1), (torch.zeros_like(h), r0)):
        t = (level - up) * inv
        x, z = rx + t * rays.dx, rz + t * rays.dz
        good = (x * x + z * z <= radius * radius) & (t > NEAR)
        best = torch.where(good, torch.minimum(best, t), best)
    return best


def box_normals(boxes: Tensor, px: Tensor, py: Tensor, pz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outward normal (3, r), local point (3, r) and half sizes (3, r) for points on box surfaces; `boxes` is (r, 8)."""
    cx, cy, cz, hx, hy, hz, cos, sin = boxes.unbind(1)
    rx, ry, rz = px - cx, py - cy, pz - cz
    lx, lz = cos * rx - sin * rz, sin * rx + cos * rz
    qx, qy, qz = (lx / hx).abs(), (ry / hy).abs(), (lz / hz).abs()
    on_x = (qx >= qy) & (qx >= qz)
    on_y = ~on_x & (qy >= qz)
    axis = torch.where(on_x, 0, torch.where(on_y, 1, 2))
    nx = torch.where(on_x, torch.sign(lx), 0.0)
    ny = torch.where(on_y, torch.sign(ry), 0.0)
    nz = torch.where(axis == 2, torch.sign(lz), 0.0)
    normal = torch.stack((cos * nx + sin * nz, ny, cos * nz - sin * nx))
    return normal, lx, ry, lz, axis


def frustum_normals(frusta: Tensor, px: Tensor, py: Tensor, pz: Tensor) -> tuple[Tensor, Tensor]:
    """Outward normal (3, r) and height above the base (r,) for points on upright cones; `frusta` is (r, 6)."""
    bx, by, bz, r0, r1, h = frusta.unbind(1)
    rx, rz, y = px - bx, pz - bz, by - py
    k = (r1 - r0) / h
    length = torch.sqrt(rx * rx + rz * rz).clamp_min(1e-6)
    norm = torch.rsqrt(1.0 + k * k)
    cap_top = (y > h - 1e-3) & (length < r1 - 1e-3)
    cap_low = (y < 1e-3) & (length < r0 - 1e-3)
    cap = cap_top | cap_low
    nx = torch.where(cap, 0.0, rx / length * norm)
    nz = torch.where(cap, 0.0, rz / length * norm)
    ny = torch.where(cap_top, -1.0, torch.where(cap_low, 1.0, k * norm))
    return torch.stack((nx, ny, nz)), y


def box_distance(boxes: Tensor, points: Tensor) -> Tensor:
    """Exact signed distance (k, m) from points (m, 3) to yaw-rotated boxes."""
    cx, cy, cz, hx, hy, hz, cos, sin = boxes.unsqueeze(-1).unbind(1)
    rx, ry, rz = points[:, 0] - cx, points[:, 1] - cy, points[:, 2] - cz
    qx = (cos * rx - sin * rz).abs() - hx
    qy = ry.abs() - hy
    qz = (sin * rx + cos * rz).abs() - hz
    outside = torch.sqrt(qx.clamp_min(0) ** 2 + qy.clamp_min(0) ** 2 + qz.clamp_min(0) ** 2)
    return outside + torch.maximum(torch.maximum(qx, qy), qz).clamp_max(0)


def ellipsoid_distance(ellipsoids: Tensor, points: Tensor) -> Tensor:
    """Near-exact signed distance (k, m) to ellipsoids (exact for spheres, first order otherwise)."""
    centre, radii = ellipsoids[:, None, :3], ellipsoids[:, None, 3:]
    p = points[None] - centre
    k0 = (p / radii).norm(dim=-1)
    k1 = (p / radii**2).norm(dim=-1).clamp_min(1e-9)
    return torch.where(k0 > 1e-6, k0 * (k0 - 1.0) / k1, -radii.amin(dim=-1))


def frustum_distance(frusta: Tensor, points: Tensor) -> Tensor:
    """Signed distance (k, m) to upright cones and cylinders: exact for cylinders, a lower bound near cone rims."""
    bx, by, bz, r0, r1, h = frusta.unsqueeze(-1).unbind(1)
    radial = torch.sqrt((points[:, 0] - bx) ** 2 + (points[:, 2] - bz) ** 2)
    y = by - points[:, 1]
    k = (r1 - r0) / h
    side = (radial - (r0 + k * y.clamp_min(0).minimum(h))) * torch.rsqrt(1.0 + k * k)
    cap = (y - h / 2).abs() - h / 2
    outside = torch.sqrt(side.clamp_min(0) ** 2 + cap.clamp_min(0) ** 2)
    return outside + torch.maximum(side, cap).clamp_max(0)
