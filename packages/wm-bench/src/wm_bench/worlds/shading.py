"""Colour of traced rays: surface coordinates, patterns, sun, ambient light, contact shadows, water and haze."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_bench.worlds import textures
from wm_bench.worlds.geometry import Rays, box_normals, frustum_normals
from wm_bench.worlds.world import World, sunlight


def _contact(world: World, px: Tensor, py: Tensor, pz: Tensor, which: Tensor, ny: Tensor) -> Tensor:
    """Soft darkening (r,) where objects meet the ground and in the corners of a room."""
    height = -py
    ao = torch.where(which >= world.ground, 1.0, 1 - 0.30 * torch.exp(-height.clamp_min(0) * 2.5))
    if world.scene.room is not None:
        cx, cy, cz, hx, hy, hz = world.scene.room
        gaps = torch.stack((hx - (px - cx).abs(), hy - (py - cy).abs(), hz - (pz - cz).abs())).sort(0).values
        room = (1 - 0.38 * torch.exp(-gaps[1] * 2.2)) * (1 - 0.15 * torch.exp(-gaps[2] * 2.2))
        ao = torch.where(which > world.ground, room, ao)
    flat = ((which == world.ground) | (which == world.ground + 1)).nonzero()[:, 0]
    if len(flat):
        x, z = px[flat], pz[flat]
        near = torch.full_like(x, 9.0)
        low = world.boxes[:, 1] + world.boxes[:, 4] > -0.35
        if bool(low.any()):
            cx, _, cz, hx, _, hz, c, s = world.boxes[low].unsqueeze(-1).unbind(1)
            rx, rz = x - cx, z - cz
            qx = ((c * rx - s * rz).abs() - hx).clamp_min(0)
            qz = ((s * rx + c * rz).abs() - hz).clamp_min(0)
            near = torch.minimum(near, torch.sqrt(qx * qx + qz * qz).amin(0))
        if len(world.frusta):
            bx, by, bz, r0 = world.frusta[:, :4].unsqueeze(-1).unbind(1)
            gap = (torch.sqrt((x - bx) ** 2 + (z - bz) ** 2) - r0).clamp_min(0) - 2 * by.clamp_max(0)
            near = torch.minimum(near, gap.amin(0))
        ao = ao.index_put((flat,), ao[flat] * (1 - 0.42 * torch.exp(-near * 2.8)))
    return ao


def _surface(world: World, which: Tensor, p: tuple[Tensor, Tensor, Tensor], fw: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normal (3, r), albedo (3, r) and emission (r,) at hits."""
    px, py, pz = p
    nb, ne, _ = world.counts
    r = len(px)
    normal = torch.zeros(3, r, device=px.device)
    normal[1] = -1.0
    u, v = px.clone(), pz.clone()
    flat = torch.zeros(r, dtype=torch.bool, device=px.device)
    local = torch.zeros(2, r, device=px.device)
    sel = (which < nb).nonzero()[:, 0]
    if len(sel):
        table = world.boxes[which[sel]]
        n, lx, ly, lz, axis = box_normals(table, px[sel], py[sel], pz[sel])
        normal[:, sel] = n
        side = torch.where(axis == 0, lz, lx)
        u[sel] = torch.where(axis == 1, lx, side + table[:, 0] * 0.0)
        v[sel] = torch.where(axis == 1, lz, table[:, 4] - ly)
        flat[sel] = axis == 1
        local[0, sel] = lx / table[:, 3]
        local[1, sel] = lz / table[:, 5]
    sel = ((which >= nb) & (which < nb + ne)).nonzero()[:, 0]
    if len(sel):
        table = world.ellipsoids[which[sel] - nb]
        q = torch.stack((px[sel], py[sel], pz[sel])) - table[:, :3].T
        n = q / (table[:, 3:].T ** 2)
        normal[:, sel] = n * torch.rsqrt((n * n).sum(0).clamp_min(1e-18))
        u[sel] = px[sel] + 0.7 * py[sel]
        v[sel] = pz[sel] - 0.7 * py[sel]
    sel = ((which >= nb + ne) & (which < world.ground)).nonzero()[:, 0]
    if len(sel):
        table = world.frusta[which[sel] - nb - ne]
        n, y = frustum_normals(table, px[sel], py[sel], pz[sel])
        normal[:, sel] = n
        u[sel] = torch.atan2(px[sel] - table[:, 0], pz[sel] - table[:, 2]) * torch.maximum(table[:, 3], table[:, 4])
        v[sel] = y
    if world.scene.room is not None:
        cx, cy, cz, hx, hy, hz = world.scene.room
        ceiling = which == world.ground + 2
        normal[1] = torch.where(ceiling, 1.0, normal[1])
        wall = which == world.ground + 3
        on_x = (px - cx).abs() / hx > (pz - cz).abs() / hz
        zero = torch.zeros_like(px)
        normal[0] = torch.where(wall, torch.where(on_x, -torch.sign(px - cx), zero), normal[0])
        normal[2] = torch.where(wall, torch.where(on_x, zero, -torch.sign(pz - cz)), normal[2])
        normal[1] = torch.where(wall, zero, normal[1])
        u = torch.where(wall, torch.where(on_x, pz, px), u)
        v = torch.where(wall, -py, v)
    facing = (normal * d).sum(0).abs().clamp_min(0.12)
    fw = fw / facing
    rows = world.materials[which].T
    colour = rows[1:4].clone()
    kind = rows[0].to(torch.int32)
    for pattern in world.patterns:
        if pattern == textures.GLOW:
            continue
        sel = (kind == pattern).nonzero()[:, 0]
        if len(sel):
            colour[:, sel] = textures.albedo(pattern, rows[1:, sel], u[sel], v[sel], flat[sel], fw[sel], local[:, sel])
    return normal, colour, rows[10]


def shade(world: World, rays: Rays, t: Tensor, which: Tensor, pixel: float, chunk: int) -> Tensor:
    """Linear colour (3, r) of traced rays."""
    norm = torch.rsqrt(rays.dx**2 + rays.dy**2 + rays.dz**2)
    d = torch.stack((rays.dx * norm, rays.dy * norm, rays.dz * norm))
    out = torch.empty_like(d)
    sky = (which < 0).nonzero()[:, 0]
    if len(sky):
        out[:, sky] = textures.sky_colour(world.sky, world.sun, *d[:, sky])
    hit = (which >= 0).nonzero()[:, 0]
    if not len(hit):
        return out
    th, wh, dh = t[hit], which[hit], d[:, hit]
    ox, oy, oz = (o if o.ndim == 0 else o[hit] for o in rays[:3])
    px, py, pz = ox + th * rays.dx[hit], oy + th * rays.dy[hit], oz + th * rays.dz[hit]
    length = th / norm[hit]
    normal, colour, emit = _surface(world, wh, (px, py, pz), length * pixel, dh)
    sun = world.sun
    lambert = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    lit = (lambert > 0.01).nonzero()[:, 0]
    visible = torch.zeros_like(lambert)
    if len(lit):
        visible[lit] = sunlight(world, (px[lit], py[lit], pz[lit]), normal[:, lit], length[lit] * pixel, chunk)
    ao = _contact(world, px, py, pz, wh, normal[1])
    hemi = 0.5 - 0.5 * normal[1]
    ambient = (world.down + (world.up - world.down) * hemi) * (ao * (1 + 0.08 * normal[0]))
    light = ambient + world.sun_colour * (lambert.clamp_min(0) * visible)
    colour = colour * (light + emit)
    water = world.materials[wh, 0] == textures.WATER
    if bool(water.any()):
        w = water.nonzero()[:, 0]
        bend = 0.02 * (textures.noise(px[w] * 0.9, pz[w] * 0.9) - 0.5)
        mirror = textures.sky_colour(world.sky, sun, dh[0, w] + bend, -dh[1, w].abs() - bend.abs(), dh[2, w])
        fresnel = 0.12 + 0.75 * (1 - dh[1, w].abs()).clamp(0, 1) ** 4
        colour[:, w] = colour[:, w] * (1 - fresnel) + mirror * fresnel * (0.6 + 0.4 * visible[w])
    if world.scene.light.fog > 0:
        clear = torch.exp(-((length * world.scene.light.fog) ** 1.5))
        flat_d = torch.stack((dh[0], dh[1].clamp(-1.0, -0.02), dh[2]))
        haze = world.sky[3:6, None] * 0.92 + world.sky[6:9, None] * (
            0.15 * (flat_d * sun[:, None]).sum(0).clamp_min(0) ** 4
        )
        colour = haze + (colour - haze) * clear
    out[:, hit] = colour
    return out
