"""Scene tensors on a device, culling, nearest hits and sun visibility for chunks of neighbouring rays.

Rays come as (c, n): c chunks of n rays that lie close together in the picture. Each chunk meets only the primitives that its
view pyramid (or, for shadows, its column towards the sun) can touch, which keeps the working arrays inside the cache.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_bench.worlds.geometry import FAR, Rays, box_hits, ellipsoid_hits, frustum_hits
from wm_bench.worlds.scene import Scene


class World:
    """The tensors of one scene on one device."""

    def __init__(self, scene: Scene, device: torch.device) -> None:
        self.scene = scene
        self.device = device
        self.boxes = scene.boxes.to(device)
        self.ellipsoids = scene.ellipsoids.to(device)
        self.frusta = scene.frusta.to(device)
        self.materials = scene.materials.to(device)
        self.counts = (len(self.boxes), len(self.ellipsoids), len(self.frusta))
        self.ground = sum(self.counts)
        mid = self.frusta[:, :3].clone()
        mid[:, 1] -= self.frusta[:, 5] / 2
        self.centres = torch.cat((self.boxes[:, :3], self.ellipsoids[:, :3], mid))
        light = scene.light
        self.sun = torch.tensor(light.sun, device=device)
        self.sky = torch.tensor(light.sky, device=device)
        self.sun_colour = torch.tensor(light.sun_colour, device=device)[:, None]
        self.up = torch.tensor(light.ambient_up, device=device)[:, None]
        self.down = torch.tensor(light.ambient_down, device=device)[:, None]
        self.windows = None if scene.windows is None else scene.windows.tolist()
        self.patterns = sorted({int(x) for x in scene.materials[:, 0]})
        a = torch.linalg.cross(self.sun, torch.tensor((0.0, 1.0, 0.0), device=device))
        a = a / a.norm()
        b = torch.linalg.cross(self.sun, a)
        self.shadow_axes = torch.stack((a, b, a + b, a - b, self.sun))

    def support(self, n: Tensor) -> Tensor:
        """Half extent (m, k) of every primitive along directions n (m, 3)."""
        x, y, z = n.unsqueeze(-1).unbind(1)
        _, _, _, hx, hy, hz, c, s = self.boxes.unbind(1)
        boxes = hx * (c * x - s * z).abs() + hy * y.abs() + hz * (s * x + c * z).abs()
        rx, ry, rz = self.ellipsoids[:, 3:].unbind(1)
        ellipsoids = torch.sqrt((rx * x) ** 2 + (ry * y) ** 2 + (rz * z) ** 2)
        wide = torch.maximum(self.frusta[:, 3], self.frusta[:, 4])
        frusta = wide * torch.sqrt(x * x + z * z) + self.frusta[:, 5] / 2 * y.abs()
        return torch.cat((boxes, ellipsoids, frusta), 1)

    def subset(self, keep: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Per primitive type the kept rows of its table and their global indices."""
        out, first = [], 0
        for table, count in zip((self.boxes, self.ellipsoids, self.frusta), self.counts, strict=True):
            index = np.nonzero(keep[first : first + count])[0]
            ids = torch.from_numpy(index).to(self.device)
            out.append((table[ids], ids + first))
            first += count
        return out


_HITS = (box_hits, ellipsoid_hits, frustum_hits)


def in_view(world: World, pose: Tensor, x: Tensor, y: Tensor) -> np.ndarray:
    """Which primitives (c, k) can be seen through the rectangles around image-plane points x, y (c, n)."""
    one, zero = torch.ones(len(x), device=x.device), torch.zeros(len(x), device=x.device)
    planes = (
        torch.stack((one, zero, -x.amin(1)), 1),
        torch.stack((-one, zero, x.amax(1)), 1),
        torch.stack((zero, one, -y.amin(1)), 1),
        torch.stack((zero, -one, y.amax(1)), 1),
    )
    n = torch.cat(planes) @ pose[:3, :3].T
    reach = n @ (world.centres - pose[:3, 3]).T + world.support(n)
    return (reach.reshape(4, len(x), -1).amin(0) > -1e-3).cpu().numpy()


def nearest(world: World, rays: Rays, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """Distance (r,) and primitive index (r,) of the first hit; index -1 is sky."""
    best = torch.full_like(rays.dx, FAR)
    which = torch.full(rays.dx.shape, -1, dtype=torch.long, device=best.device)
    for (table, index), hits in zip(world.subset(keep), _HITS, strict=True):
        if len(table):
            t, k = hits(table, rays).min(0)
            closer = t < best
            best = torch.where(closer, t, best)
            which = torch.where(closer, index[k], which)
    if world.scene.room is not None:
        t, face, glass = room_exit(world, rays)
        closer = (t < best) & (glass <= 0)
        index = world.ground + torch.where(face == 4, 1, torch.where(face == 5, 2, 3))
        which = torch.where(closer, index, torch.where(t < best, -1, which))
        return torch.where(closer, t, torch.where(t < best, FAR, best)), which
    t = torch.where(rays.dy > 1e-6, -rays.oy / rays.dy.clamp_min(1e-6), FAR)
    closer = (t < best) & (t < 2000.0)
    return torch.where(closer, t, best), torch.where(closer, world.ground, which)


def sunlight(world: World, p: tuple[Tensor, Tensor, Tensor], normal: Tensor, fw: Tensor, chunk: int) -> Tensor:
    """Sun visibility (r,) in [0, 1] at surface points, `fw` being their pixel footprint in metres."""
    sun = world.sun
    ox, oy, oz = (p[i] + normal[i] * 4e-3 for i in range(3))
    count = len(ox)
    if world.ground:
        axes = world.shadow_axes
        at = axes @ torch.stack((ox, oy, oz))
        centre = axes @ world.centres.T
        half = world.support(axes)
        low, high = centre - half, centre + half
    lit = []
    for first in range(0, count, chunk):
        part = slice(first, min(first + chunk, count))
        rays = Rays(ox[part], oy[part], oz[part], sun[0], sun[1], sun[2])
        blocked = torch.zeros_like(rays.ox, dtype=torch.bool)
        if world.ground:
            near, far = at[:, part].amin(1, keepdim=True), at[:, part].amax(1, keepdim=True)
            keep = (high > near) & (low[:] < far)
            keep[4] = high[4] > near[4]
            for (table, _), hits in zip(world.subset(keep.all(0).cpu().numpy()), _HITS, strict=True):
                if len(table):
                    blocked |= hits(table, rays).amin(0) < FAR
        lit.append(~blocked)
    out = torch.cat(lit).float()
    if world.scene.room is not None:
        full = Rays(ox, oy, oz, sun[0].expand_as(ox), sun[1].expand_as(ox), sun[2].expand_as(ox))
        _, _, glass = room_exit(world, full)
        out = out * (glass / fw.clamp_min(0.03) + 0.5).clamp(0, 1)
    return out


def room_exit(world: World, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
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


def _window_cover(world: World, face: Tensor, u: Tensor, up: Tensor) -> Tensor:
    """Signed distance (r,) into the glass of the room's windows, negative on walls and glazing bars."""
    assert world.windows is not None
    best = torch.full_like(u, -1.0)
    for wall, cu, cv, hu, hv in world.windows:
        du, dv = (u - cu).abs(), (up - cv).abs()
        inside = torch.minimum(hu - du, hv - dv)
        bars = torch.minimum(du, dv) - 0.035
        best = torch.where(face == wall, torch.maximum(best, torch.minimum(inside, bars)), best)
    return best
