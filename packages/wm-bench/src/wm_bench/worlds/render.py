"""The ray caster: colour and metric depth of a scene for a list of exact poses.

Pixel (i, j) covers rows [i, i + 1) and columns [j, j + 1); its ray goes through (j + 0.5, i + 0.5). One ray a pixel finds the
picture; only pixels on edges are traced three more times. Frames are cut into tiles that see few primitives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_bench.worlds import textures
from wm_bench.worlds.geometry import (
    FAR,
    Rays,
    box_hits,
    box_normals,
    ellipsoid_hits,
    frustum_hits,
    frustum_normals,
)
from wm_bench.worlds.scene import Scene

_EDGE = 0.05
_OFFSETS = ((-0.34, -0.18), (0.34, -0.18), (0.0, 0.36))


class Render(NamedTuple):
    """Colour uint8 (f, H, W, 3) and metric z-depth float32 (f, H, W), infinite where the sky is seen."""

    rgb: np.ndarray
    depth: np.ndarray


class _World:
    """Scene tensors on one device plus the culling spheres of its primitives."""

    def __init__(self, scene: Scene, device: torch.device) -> None:
        self.scene = scene
        self.boxes = scene.boxes.to(device)
        self.ellipsoids = scene.ellipsoids.to(device)
        self.frusta = scene.frusta.to(device)
        self.materials = scene.materials.to(device)
        self.counts = (len(self.boxes), len(self.ellipsoids), len(self.frusta))
        self.ground = sum(self.counts)
        mid = self.frusta[:, :3].clone()
        mid[:, 1] -= self.frusta[:, 5] / 2
        wide = torch.maximum(self.frusta[:, 3], self.frusta[:, 4])
        self.centres = torch.cat((self.boxes[:, :3], self.ellipsoids[:, :3], mid))
        self.radii = torch.cat(
            (
                self.boxes[:, 3:6].norm(dim=1),
                self.ellipsoids[:, 3:].amax(1),
                torch.sqrt(wide**2 + (self.frusta[:, 5] / 2) ** 2),
            )
        )
        light = scene.light
        self.sun = torch.tensor(light.sun, device=device)
        self.sky = torch.tensor(light.sky, device=device)
        self.sun_colour = torch.tensor(light.sun_colour, device=device)[:, None]
        self.up = torch.tensor(light.ambient_up, device=device)[:, None]
        self.down = torch.tensor(light.ambient_down, device=device)[:, None]
        self.windows = None if scene.windows is None else scene.windows.to(device)
        present = [int(x) for x in scene.materials[:, 0]]
        self.patterns = sorted(set(present))

    def subset(self, keep: np.ndarray) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Primitive tables of the kept rows and, per type, their global indices."""
        nb, ne, _ = self.counts
        index = np.nonzero(keep)[0]
        parts = (index[index < nb], index[(index >= nb) & (index < nb + ne)], index[index >= nb + ne])
        ids = tuple(torch.from_numpy(p).to(self.boxes.device) for p in parts)
        return self.boxes[ids[0]], self.ellipsoids[ids[1] - nb], self.frusta[ids[2] - nb - ne], ids  # type: ignore[return-value]


def _window_cover(world: _World, face: Tensor, u: Tensor, up: Tensor) -> Tensor:
    """Signed distance (r,) into the glass of the room's windows, negative on walls and glazing bars."""
    assert world.windows is not None
    best = torch.full_like(u, -1.0)
    for wall, cu, cv, hu, hv in world.windows.tolist():
        du, dv = (u - cu).abs(), (up - cv).abs()
        inside = torch.minimum(hu - du, hv - dv)
        bars = torch.minimum(du, dv) - 0.035
        best = torch.where(face == wall, torch.maximum(best, torch.minimum(inside, bars)), best)
    return best


def _room_exit(world: _World, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the room's shell, face index (0 +x, 1 -x, 2 +z, 3 -z, 4 floor, 5 ceiling) and depth into window glass."""
    assert world.scene.room is not None
    cx, cy, cz, hx, hy, hz = world.scene.room
    times = []
    for o, d, c, h in ((rays.ox, rays.dx, cx, hx), (rays.oy, rays.dy, cy, hy), (rays.oz, rays.dz, cz, hz)):
        safe = torch.where(d.abs() < 1e-7, torch.full_like(d, 1e-7), d)
        times.append((c + torch.sign(safe) * h - o) / safe)
    t = torch.minimum(torch.minimum(times[0], times[1]), times[2])
    on_x, on_y = times[0] <= t, times[1] <= t
    face = torch.where(on_x, (rays.dx < 0).long(), torch.where(on_y, 4 + (rays.dy < 0).long(), 2 + (rays.dz < 0).long()))
    if world.windows is None:
        return t, face, torch.full_like(t, -1.0)
    u = torch.where(face < 2, rays.oz + t * rays.dz, rays.ox + t * rays.dx)
    return t, face, _window_cover(world, face, u, -(rays.oy + t * rays.dy))


def _nearest(world: _World, rays: Rays, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """Distance (r,) and primitive index (r,) of the first hit; index -1 is sky."""
    boxes, ellipsoids, frusta, ids = world.subset(keep)
    best = torch.full_like(rays.dx, FAR)
    which = torch.full(rays.dx.shape, -1, dtype=torch.long, device=best.device)
    for table, hits, index in ((boxes, box_hits, ids[0]), (ellipsoids, ellipsoid_hits, ids[1]), (frusta, frustum_hits, ids[2])):
        if len(table):
            t, k = hits(table, rays).min(0)
            closer = t < best
            best = torch.where(closer, t, best)
            which = torch.where(closer, index[k], which)
    if world.scene.room is not None:
        t, face, glass = _room_exit(world, rays)
        closer = (t < best) & (glass <= 0)
        index = world.ground + torch.where(face == 4, 1, torch.where(face == 5, 2, 3))
        which = torch.where(closer, index, torch.where(t < best, -1, which))
        return torch.where(closer, t, torch.where(t < best, FAR, best)), which
    t = torch.where(rays.dy > 1e-6, -rays.oy / rays.dy.clamp_min(1e-6), FAR)
    closer = t < best
    closer &= t < 2000.0
    return torch.where(closer, t, best), torch.where(closer, world.ground, which)


def _shadow(world: _World, px: Tensor, py: Tensor, pz: Tensor, normal: Tensor, fw: Tensor) -> Tensor:
    """Sun visibility (r,) in [0, 1] at surface points."""
    sun = world.sun
    ox, oy, oz = px + normal[0] * 4e-3, py + normal[1] * 4e-3, pz + normal[2] * 4e-3
    rays = Rays(ox, oy, oz, sun[0], sun[1], sun[2])
    # Points and primitives projected along the sun: a primitive far from all points cannot shade any.
    low = torch.stack((px.amin(), py.amin(), pz.amin()))
    high = torch.stack((px.amax(), py.amax(), pz.amax()))
    middle, reach = (low + high) / 2, (high - low).norm() / 2
    away = world.centres - middle
    along = away @ sun
    side = torch.sqrt(((away * away).sum(1) - along * along).clamp_min(0))
    keep = ((side < reach + world.radii) & (along > -reach - world.radii)).cpu().numpy()
    boxes, ellipsoids, frusta, _ = world.subset(keep)
    blocked = torch.zeros_like(px, dtype=torch.bool)
    for table, hits in ((boxes, box_hits), (ellipsoids, ellipsoid_hits), (frusta, frustum_hits)):
        if len(table):
            blocked |= hits(table, rays).amin(0) < FAR
    lit = (~blocked).float()
    if world.scene.room is not None:
        full = Rays(ox, oy, oz, sun[0].expand_as(px), sun[1].expand_as(px), sun[2].expand_as(px))
        _, _, glass = _room_exit(world, full)
        lit = lit * (glass / fw.clamp_min(0.03) + 0.5).clamp(0, 1)
    return lit


def _contact(world: _World, px: Tensor, py: Tensor, pz: Tensor, which: Tensor, ny: Tensor) -> Tensor:
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


def _surface(world: _World, which: Tensor, p: tuple[Tensor, Tensor, Tensor], fw: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
        normal[:, sel] = n / n.norm(dim=0).clamp_min(1e-9)
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


def _shade(world: _World, rays: Rays, t: Tensor, which: Tensor, pixel: float) -> Tensor:
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
        visible[lit] = _shadow(world, px[lit], py[lit], pz[lit], normal[:, lit], length[lit] * pixel)
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


def _display(linear: Tensor, exposure: float) -> Tensor:
    """Display values in [0, 1]: a soft shoulder keeps bright walls and sky from clipping."""
    x = linear * exposure
    x = torch.where(x < 0.6, x, 0.6 + 0.4 * (1 - torch.exp(-(x - 0.6) / 0.4)))
    return x.clamp(0, 1) ** (1 / 2.2)


def _edges(picture: Tensor, which: Tensor) -> Tensor:
    """Mask (H, W) of pixels that differ from a neighbour in colour."""
    mask = torch.zeros(picture.shape[1:], dtype=torch.bool, device=picture.device)
    down = (picture[:, 1:] - picture[:, :-1]).abs().amax(0) > _EDGE
    right = (picture[:, :, 1:] - picture[:, :, :-1]).abs().amax(0) > _EDGE
    mask[1:] |= down
    mask[:-1] |= down
    mask[:, 1:] |= right
    mask[:, :-1] |= right
    return mask


def _tiles(height: int, width: int, rows: int = 48, columns: int = 80) -> list[tuple[int, int, int, int]]:
    return [
        (i, min(i + rows, height), j, min(j + columns, width))
        for i in range(0, height, rows)
        for j in range(0, width, columns)
    ]


def _check(c2w: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    c2w = np.asarray(c2w, np.float32)
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
        raise ValueError(f"c2w has shape {c2w.shape}; allowed is (f, 4, 4) with f >= 1, e.g. (65, 4, 4)")
    if not np.isfinite(c2w).all():
        raise ValueError("c2w holds NaN or infinite numbers; allowed are finite camera-to-world matrices, e.g. np.eye(4)[None]")
    k = np.asarray(intrinsics, np.float32)
    k = np.broadcast_to(k, (len(c2w), 4)) if k.shape == (4,) else k
    if k.shape != (len(c2w), 4) or not (k[:, :2] > 0).all():
        raise ValueError(f"intrinsics {k.shape} must be (4,) or ({len(c2w)}, 4) fx fy cx cy with fx, fy > 0, e.g. (114, 114, 80, 48)")
    if len(size) != 2 or min(size) < 8:
        raise ValueError(f"size is {size}; allowed is (H, W) with both >= 8, e.g. (96, 160)")
    return c2w, k


@torch.no_grad()
def render(
    scene: Scene,
    c2w: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
) -> Render:
    """Draw a scene from exact poses: colour and metric depth for every frame.

    c2w (f, 4, 4) OpenCV camera-to-world in metres, intrinsics (4,) or (f, 4) fx, fy, cx, cy in pixels, size (H, W). Raises
    ValueError on wrong shapes or non-finite poses.
    """
    c2w, k = _check(c2w, intrinsics, size)
    height, width = size
    where = torch.device(device)
    world = _World(scene, where)
    rgb = np.empty((len(c2w), height, width, 3), np.uint8)
    depth = np.empty((len(c2w), height, width), np.float32)
    rows = torch.arange(height, device=where, dtype=torch.float32) + 0.5
    columns = torch.arange(width, device=where, dtype=torch.float32) + 0.5
    for f in range(len(c2w)):
        fx, fy, cx, cy = (float(x) for x in k[f])
        pose = torch.from_numpy(np.ascontiguousarray(c2w[f])).to(where)
        pixel = 1.0 / math.sqrt(fx * fy)
        y = ((rows - cy) / fy)[:, None].expand(height, width)
        x = ((columns - cx) / fx)[None].expand(height, width)
        picture = torch.empty(3, height, width, device=where)
        t_all = torch.empty(height, width, device=where)
        id_all = torch.empty(height, width, dtype=torch.long, device=where)
        for top, bottom, left, right in _tiles(height, width):
            tile = (slice(top, bottom), slice(left, right))
            rays = _rays(pose, x[tile].reshape(-1), y[tile].reshape(-1))
            t, which = _nearest(world, rays, _visible(world, rays))
            t_all[tile] = t.reshape(bottom - top, right - left)
            id_all[tile] = which.reshape(bottom - top, right - left)
        rays = _rays(pose, x.reshape(-1), y.reshape(-1))
        linear = _shade(world, rays, t_all.reshape(-1), id_all.reshape(-1), pixel)
        picture = _display(linear, scene.light.exposure).reshape(3, height, width)
        edge = _edges(picture, id_all).reshape(-1).nonzero()[:, 0]
        if len(edge):
            ex, ey = x.reshape(-1)[edge], y.reshape(-1)[edge]
            shifted_x = torch.cat([ex + dx / fx for dx, _ in _OFFSETS])
            shifted_y = torch.cat([ey + dy / fy for _, dy in _OFFSETS])
            rays = _rays(pose, shifted_x, shifted_y)
            t, which = _nearest(world, rays, _visible(world, rays))
            extra = _display(_shade(world, rays, t, which, pixel), scene.light.exposure).reshape(3, 3, -1)
            flat = picture.reshape(3, -1)
            flat[:, edge] = 0.25 * flat[:, edge] + 0.25 * extra.sum(1)
        rgb[f] = (picture * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        depth[f] = torch.where(id_all < 0, math.inf, t_all).cpu().numpy()
    return Render(rgb, depth)


def _rays(pose: Tensor, x: Tensor, y: Tensor) -> Rays:
    """World rays through image-plane points (x, y, 1); distances along them are z-depths."""
    r, o = pose[:3, :3], pose[:3, 3]
    return Rays(
        o[0], o[1], o[2], *(r[i, 0] * x + r[i, 1] * y + r[i, 2] for i in range(3))
    )


def _visible(world: _World, rays: Rays) -> np.ndarray:
    """Which primitives' bounding spheres touch the cone around these rays."""
    d = torch.stack((rays.dx, rays.dy, rays.dz))
    d = d / d.norm(dim=0)
    axis = d.mean(1)
    axis = axis / axis.norm()
    spread = float((axis @ d).amin().clamp(-1, 1).arccos())
    away = world.centres - torch.stack((rays.ox, rays.oy, rays.oz))
    distance = away.norm(dim=1).clamp_min(1e-6)
    angle = ((away @ axis) / distance).clamp(-1, 1).arccos()
    reach = (world.radii / distance).clamp_max(1.0).arcsin()
    return ((angle < spread + reach + 1e-3) | (distance <= world.radii)).cpu().numpy()
