"""Colour of traced rays: surface coordinates, patterns, sun, ambient light, contact shadows, water and haze.

Each step concerns some of the rays. The plain path gathers those; the dense path, made for a GPU, evaluates every step
for every ray and selects.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wm_bench.worlds import textures
from wm_bench.worlds.geometry import Rays, box_normals, frustum_normals
from wm_bench.worlds.world import World, sunlight

Step = Callable[..., tuple[Tensor, ...]]


def _update(
    mask: Tensor, old: tuple[Tensor, ...], step: Step, inputs: tuple[Tensor, ...], dense: bool
) -> tuple[Tensor, ...]:
    """`old` values (..., r) with those under the mask replaced by `step(*inputs)` of the same rays.

    The plain path writes into `old`, so callers pass tensors of their own.
    """
    if dense:
        new = step(*inputs)
        return tuple(torch.where(mask, n, o) for n, o in zip(new, old, strict=True))
    index = mask.nonzero()[:, 0]
    if len(index):
        new = step(*(v.index_select(-1, index) for v in inputs))
        for n, o in zip(new, old, strict=True):
            o.index_copy_(-1, index, n)
    return old


def _contact(world: World, px: Tensor, py: Tensor, pz: Tensor, which: Tensor, dense: bool) -> Tensor:
    """Soft darkening (r,) where objects meet the ground and in the corners of a room."""
    ground = world.firsts[3]
    ao = torch.where(which >= ground, 1.0, 1 - 0.30 * torch.exp(-(-py).clamp_min(0) * 2.5))
    if world.room is not None:
        cx, cy, cz, hx, hy, hz = world.room.unbind()
        a, b, c = hx - (px - cx).abs(), hy - (py - cy).abs(), hz - (pz - cz).abs()
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        middle, last = torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)
        room = (1 - 0.38 * torch.exp(-middle * 2.2)) * (1 - 0.15 * torch.exp(-last * 2.2))
        ao = torch.where(which > ground, room, ao)

    def shadow(x: Tensor, z: Tensor, before: Tensor) -> tuple[Tensor]:
        cx, cy, cz, hx, hy, hz, c, s = world.boxes.unsqueeze(-1).unbind(1)
        rx, rz = x - cx, z - cz
        qx = ((c * rx - s * rz).abs() - hx).clamp_min(0)
        qz = ((s * rx + c * rz).abs() - hz).clamp_min(0)
        # Only boxes that stand on the ground (within 0.35 m) darken it.
        floating = torch.where(cy + hy > -0.35, 0.0, 9.0)
        near = (torch.sqrt(qx * qx + qz * qz) + floating).amin(0)
        bx, by, bz, r0 = world.frusta[:, :4].unsqueeze(-1).unbind(1)
        gap = (torch.sqrt((x - bx) ** 2 + (z - bz) ** 2) - r0).clamp_min(0) - 2 * by.clamp_max(0)
        near = torch.minimum(near, gap.amin(0)).clamp_max(9.0)
        return (before * (1 - 0.42 * torch.exp(-near * 2.8)),)

    flat = (which == ground) | (which == ground + 1)
    return _update(flat, (ao,), shadow, (px, pz, ao), dense)[0]


def _surface(
    world: World, which: Tensor, p: tuple[Tensor, Tensor, Tensor], fw: Tensor, d: Tensor, dense: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal (3, r), albedo (3, r) and pattern (r,) at hits."""
    px, py, pz = p
    _, ellipsoids, frusta, ground = world.firsts
    zero = torch.zeros_like(px)
    state = (torch.stack((zero, zero - 1, zero)), px.clone(), pz.clone(), torch.stack((zero, zero, zero)))

    def on_box(i: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        table = world.boxes[i.clamp(0, len(world.boxes) - 1)]
        n, lx, ly, lz, axis = box_normals(table, x, y, z)
        u = torch.where(axis == 0, lz, lx)
        v = torch.where(axis == 1, lz, table[:, 4] - ly)
        return n, u, v, torch.stack((lx / table[:, 3], lz / table[:, 5], (axis == 1).float()))

    def on_ellipsoid(i: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        table = world.ellipsoids[(i - ellipsoids).clamp(0, len(world.ellipsoids) - 1)]
        n = (torch.stack((x, y, z)) - table[:, :3].T) / (table[:, 3:].T ** 2)
        n = n * torch.rsqrt((n * n).sum(0).clamp_min(1e-18))
        return n, x + 0.7 * y, z - 0.7 * y, torch.zeros_like(n)

    def on_frustum(i: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        table = world.frusta[(i - frusta).clamp(0, len(world.frusta) - 1)]
        n, v = frustum_normals(table, x, y, z)
        u = torch.atan2(x - table[:, 0], z - table[:, 2]) * torch.maximum(table[:, 3], table[:, 4])
        return n, u, v, torch.zeros_like(n)

    inputs = (which, px, py, pz)
    state = _update(which < ellipsoids, state, on_box, inputs, dense)  # type: ignore[assignment]
    state = _update((which >= ellipsoids) & (which < frusta), state, on_ellipsoid, inputs, dense)  # type: ignore[assignment]
    state = _update((which >= frusta) & (which < ground), state, on_frustum, inputs, dense)  # type: ignore[assignment]
    normal, u, v, local = state
    if world.room is not None:
        cx, _, cz, hx, _, hz = world.room.unbind()
        wall = which == ground + 3
        on_x = wall & ((px - cx).abs() / hx > (pz - cz).abs() / hz)
        on_z = wall & ~on_x
        nx = torch.where(on_x, -torch.sign(px - cx), torch.where(wall, zero, normal[0]))
        ny = torch.where(wall, zero, torch.where(which == ground + 2, zero + 1, normal[1]))
        nz = torch.where(on_z, -torch.sign(pz - cz), torch.where(wall, zero, normal[2]))
        normal = torch.stack((nx, ny, nz))
        u = torch.where(on_x, pz, torch.where(on_z, px, u))
        v = torch.where(wall, -py, v)
    fw = fw / (normal * d).sum(0).abs().clamp_min(0.12)
    which = which.clamp_min(0)
    kind = world.materials[:, 0].to(torch.int32)[which]
    colour = world.materials[:, 1:4].T.index_select(1, which)
    for pattern in range(textures.FOLIAGE + 1) if dense else world.patterns:
        if pattern == textures.GLOW:
            continue

        def paint(i: Tensor, a: Tensor, b: Tensor, f: Tensor, at: Tensor, pattern: int = pattern) -> tuple[Tensor]:
            m = world.materials[:, 1:].T.index_select(1, i)
            return (textures.albedo(pattern, m, a, b, at[2] > 0.5, f, at[:2]),)

        (colour,) = _update(kind == pattern, (colour,), paint, (which, u, v, fw, local), dense)
    return normal, colour, kind


def _lit(
    world: World, rays: Rays, t: Tensor, which: Tensor, d: Tensor, length: Tensor, pixel: Tensor, chunk: int | None
) -> Tensor:
    """Linear colour (3, r) of rays that hit something."""
    dense = chunk is None
    px, py, pz = rays.ox + t * rays.dx, rays.oy + t * rays.dy, rays.oz + t * rays.dz
    normal, colour, kind = _surface(world, which, (px, py, pz), length * pixel, d, dense)
    sun = world.sun
    lambert = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]

    def visible_sun(x: Tensor, y: Tensor, z: Tensor, n: Tensor, f: Tensor) -> tuple[Tensor]:
        return (sunlight(world, x, y, z, n, f, chunk),)

    inputs = (px, py, pz, normal, length * pixel)
    (visible,) = _update(lambert > 0.01, (torch.zeros_like(t),), visible_sun, inputs, dense)
    ao = _contact(world, px, py, pz, which, dense)
    hemi = 0.5 - 0.5 * normal[1]
    ambient = (world.down + (world.up - world.down) * hemi) * (ao * (1 + 0.08 * normal[0]))
    light = ambient + world.sun_colour * (lambert.clamp_min(0) * visible)
    colour = colour * (light + world.materials[:, 10][which.clamp_min(0)])

    def water(x: Tensor, z: Tensor, way: Tensor, c: Tensor, seen: Tensor) -> tuple[Tensor]:
        bend = 0.02 * (textures.noise(x * 0.9, z * 0.9) - 0.5)
        mirror = textures.sky_colour(world.sky, sun, way[0] + bend, -way[1].abs() - bend.abs(), way[2])
        fresnel = 0.12 + 0.75 * (1 - way[1].abs()).clamp(0, 1) ** 4
        return (c * (1 - fresnel) + mirror * fresnel * (0.6 + 0.4 * seen),)

    (colour,) = _update(kind == textures.WATER, (colour,), water, (px, pz, d, colour, visible), dense)
    clear = torch.exp(-((length * world.fog) ** 1.5))
    toward = d[0] * sun[0] + d[1].clamp(-1.0, -0.02) * sun[1] + d[2] * sun[2]
    haze = world.sky[3:6, None] * 0.92 + world.sky[6:9, None] * (0.15 * toward.clamp_min(0) ** 4)
    return haze + (colour - haze) * clear


def shade(world: World, rays: Rays, t: Tensor, which: Tensor, pixel: Tensor, chunk: int | None) -> Tensor:
    """Linear colour (3, r) of traced rays; `pixel` is the angle of a pixel, `chunk` None selects the dense path."""
    norm = torch.rsqrt(rays.dx**2 + rays.dy**2 + rays.dz**2)
    d = torch.stack((rays.dx * norm, rays.dy * norm, rays.dz * norm))

    def sky(way: Tensor) -> tuple[Tensor]:
        return (textures.sky_colour(world.sky, world.sun, way[0], way[1], way[2]),)

    def hit(dx: Tensor, dy: Tensor, dz: Tensor, far: Tensor, index: Tensor, way: Tensor, inv: Tensor) -> tuple[Tensor]:
        part = Rays(rays.ox, rays.oy, rays.oz, dx, dy, dz)
        return (_lit(world, part, far, index, way, far / inv, pixel, chunk),)

    dense = chunk is None
    inputs = (rays.dx, rays.dy, rays.dz, t.clamp_max(1e5), which, d, norm)
    (out,) = _update(which >= 0, (torch.zeros_like(d),), hit, inputs, dense)
    return _update(which < 0, (out,), sky, (d,), dense)[0]
