"""Scene tensors on a device, culling, nearest hits and sun visibility for chunks of neighbouring rays.

Rays come as (c, n): c chunks of n rays that lie close together in the picture. Each chunk meets only the
primitives that its
view pyramid (or, for shadows, its column towards the sun) can touch, which keeps the working arrays inside the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wm_bench.worlds import textures
from wm_bench.worlds.geometry import FAR, Rays, box_hits, ellipsoid_hits, frustum_hits
from wm_bench.worlds.scene import Scene

_FAR_AWAY = {8: [0.0, 1e6, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0], 6: [0.0, 1e6, 0.0, 1.0, 1.0, 1.0]}


def _padded(table: Tensor) -> Tensor:
    """At least two rows, so that compiled code sees one kind of shape; the added primitives lie far below the
    ground."""
    missing = max(0, 2 - len(table))
    return torch.cat((table, torch.tensor(_FAR_AWAY[table.shape[1]]).expand(missing, -1))) if missing else table


class World:
    """The tensors of one scene on one device."""

    def __init__(self, scene: Scene, device: torch.device, compiled: bool = False) -> None:
        self.compiled = compiled
        textures.prepare(device)
        self.device = device
        tables, rows, first = [], [], 0
        for table in (scene.boxes, scene.ellipsoids, scene.frusta):
            tables.append(_padded(table))
            own = scene.materials[first : first + len(table)]
            rows.append(torch.cat((own, scene.materials[-1:].expand(len(tables[-1]) - len(table), -1))))
            first += len(table)
        self.boxes, self.ellipsoids, self.frusta = (table.to(device) for table in tables)
        self.materials = torch.cat((*rows, scene.materials[first:])).to(device)
        mid = self.frusta[:, :3].clone()
        mid[:, 1] -= self.frusta[:, 5] / 2
        self.centres = torch.cat((self.boxes[:, :3], self.ellipsoids[:, :3], mid))
        light = scene.light
        self.sun = torch.tensor(light.sun, device=device)
        self.sky = torch.tensor(light.sky, device=device)
        self.sun_colour = torch.tensor(light.sun_colour, device=device)[:, None]
        self.up = torch.tensor(light.ambient_up, device=device)[:, None]
        self.down = torch.tensor(light.ambient_down, device=device)[:, None]
        self.fog = torch.tensor(light.fog, device=device)
        self.exposure = torch.tensor(light.exposure, device=device)
        self.room = None if scene.room is None else torch.tensor(scene.room, device=device)
        self.windows = None if scene.windows is None else scene.windows.to(device)
        self.patterns = sorted({int(x) for x in scene.materials[:, 0]})
        a = torch.linalg.cross(self.sun, torch.tensor((0.0, 1.0, 0.0), device=device))
        a = a / a.norm()
        b = torch.linalg.cross(self.sun, a)
        self.shadow_axes = torch.stack((a, b, a + b, a - b, self.sun))

    @property
    def firsts(self) -> tuple[int, int, int, int]:
        """Index of the first box, ellipsoid, frustum and of the ground; floor, ceiling and walls follow the ground."""
        nb, ne, nf = len(self.boxes), len(self.ellipsoids), len(self.frusta)
        return 0, nb, nb + ne, nb + ne + nf

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
        out = []
        for table, first in zip((self.boxes, self.ellipsoids, self.frusta), self.firsts[:3], strict=True):
            ids = torch.from_numpy(np.nonzero(keep[first : first + len(table)])[0]).to(self.device)
            out.append((table[ids], ids + first))
        return out

    def everything(self) -> list[tuple[Tensor, Tensor]]:
        """All primitive tables with their global indices."""
        return [
            (table, torch.arange(len(table), device=self.device) + first)
            for table, first in zip((self.boxes, self.ellipsoids, self.frusta), self.firsts[:3], strict=True)
        ]


_HITS = (box_hits, ellipsoid_hits, frustum_hits)


def _first_hits(boxes: Tensor, ellipsoids: Tensor, frusta: Tensor, rays: Rays) -> tuple[Tensor, ...]:
    """Nearest distance and row per primitive type."""
    a, b, c = box_hits(boxes, rays).min(0), ellipsoid_hits(ellipsoids, rays).min(0), frustum_hits(frusta, rays).min(0)
    return a.values, a.indices, b.values, b.indices, c.values, c.indices


def _any_hit(boxes: Tensor, ellipsoids: Tensor, frusta: Tensor, rays: Rays) -> Tensor:
    near = torch.minimum(box_hits(boxes, rays).amin(0), ellipsoid_hits(ellipsoids, rays).amin(0))
    return torch.minimum(near, frustum_hits(frusta, rays).amin(0)) < FAR


@functools.cache
def _fused() -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]:
    """Both loops over all primitives as one compiled pass each, without arrays of primitives times rays."""
    return torch.compile(_first_hits, dynamic=True), torch.compile(_any_hit, dynamic=True)


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


def nearest(world: World, rays: Rays, keep: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Distance (r,) and primitive index (r,) of the first hit; index -1 is sky. `keep` None means all primitives."""
    ground = world.firsts[3]
    tables = world.everything() if keep is None else world.subset(keep)
    best = torch.full_like(rays.dx, FAR)
    which = torch.full(rays.dx.shape, -1, dtype=torch.long, device=best.device)
    if world.compiled:
        found = _fused()[0](world.boxes, world.ellipsoids, world.frusta, rays)
        pairs = [(found[2 * i], index[found[2 * i + 1]]) for i, (_, index) in enumerate(world.everything())]
    else:
        live = [
            (hits(table, rays).min(0), index) for (table, index), hits in zip(tables, _HITS, strict=True) if len(table)
        ]
        pairs = [(m.values, index[m.indices]) for m, index in live]
    for t, row in pairs:
        closer = t < best
        best = torch.where(closer, t, best)
        which = torch.where(closer, row, which)
    if world.room is not None:
        t, face, glass = room_exit(world, rays)
        closer = (t < best) & (glass <= 0)
        index = ground + torch.where(face == 4, 1, torch.where(face == 5, 2, 3))
        which = torch.where(closer, index, torch.where(t < best, -1, which))
        return torch.where(closer, t, torch.where(t < best, FAR, best)), which
    t = torch.where(rays.dy > 1e-6, -rays.oy / rays.dy.clamp_min(1e-6), FAR)
    closer = (t < best) & (t < 2000.0)
    return torch.where(closer, t, best), torch.where(closer, ground, which)


def sunlight(world: World, x: Tensor, y: Tensor, z: Tensor, normal: Tensor, fw: Tensor, chunk: int | None) -> Tensor:
    """Sun visibility (r,) in [0, 1] at surface points, `fw` being their pixel footprint in metres.

    Runs over neighbouring points in chunks that skip the primitives outside their column towards the sun;
    None: all at once.
    """
    sun = world.sun
    ox, oy, oz = x + normal[0] * 4e-3, y + normal[1] * 4e-3, z + normal[2] * 4e-3
    if world.compiled:
        out = (
            1
            - _fused()[1](world.boxes, world.ellipsoids, world.frusta, Rays(ox, oy, oz, sun[0], sun[1], sun[2])).float()
        )
    elif chunk is None:
        out = _unblocked(world.everything(), Rays(ox, oy, oz, sun[0], sun[1], sun[2])).float()
    else:
        axes = world.shadow_axes
        at = axes @ torch.stack((ox, oy, oz))
        centre, half = axes @ world.centres.T, world.support(axes)
        low, high = centre - half, centre + half
        # A primitive behind the points (seen from the sun) may reach any distance towards it, so that side stays open.
        low[4] = -torch.inf
        lit = []
        for first in range(0, len(ox), chunk):
            part = slice(first, min(first + chunk, len(ox)))
            near, far = at[:, part].amin(1, keepdim=True), at[:, part].amax(1, keepdim=True)
            keep = ((high > near) & (low < far)).all(0).cpu().numpy()
            lit.append(_unblocked(world.subset(keep), Rays(ox[part], oy[part], oz[part], sun[0], sun[1], sun[2])))
        out = torch.cat(lit).float()
    if world.room is not None:
        full = Rays(ox, oy, oz, sun[0].expand_as(ox), sun[1].expand_as(ox), sun[2].expand_as(ox))
        _, _, glass = room_exit(world, full)
        out = out * (glass / fw.clamp_min(0.03) + 0.5).clamp(0, 1)
    return out


def _unblocked(tables: list[tuple[Tensor, Tensor]], rays: Rays) -> Tensor:
    blocked = torch.zeros_like(rays.ox, dtype=torch.bool)
    for (table, _), hits in zip(tables, _HITS, strict=True):
        if len(table):
            blocked = blocked | (hits(table, rays).amin(0) < FAR)
    return ~blocked


def room_exit(world: World, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the room's shell, face index (0 +x, 1 -x, 2 +z, 3 -z, 4 floor, 5 ceiling) and depth into
    window glass."""
    assert world.room is not None
    cx, cy, cz, hx, hy, hz = world.room.unbind()
    times = []
    for o, d, c, h in ((rays.ox, rays.dx, cx, hx), (rays.oy, rays.dy, cy, hy), (rays.oz, rays.dz, cz, hz)):
        safe = torch.where(d.abs() < 1e-7, torch.full_like(d, 1e-7), d)
        times.append((c + torch.sign(safe) * h - o) / safe)
    t = torch.minimum(torch.minimum(times[0], times[1]), times[2])
    on_x, on_y = times[0] <= t, times[1] <= t
    face = torch.where(
        on_x, (rays.dx < 0).long(), torch.where(on_y, 4 + (rays.dy < 0).long(), 2 + (rays.dz < 0).long())
    )
    if world.windows is None:
        return t, face, torch.full_like(t, -1.0)
    u = torch.where(face < 2, rays.oz + t * rays.dz, rays.ox + t * rays.dx)
    return t, face, _window_cover(world, face, u, -(rays.oy + t * rays.dy))


def _window_cover(world: World, face: Tensor, u: Tensor, up: Tensor) -> Tensor:
    """Signed distance (r,) into the glass of the room's windows, negative on walls and glazing bars."""
    assert world.windows is not None
    best = torch.full_like(u, -1.0)
    for wall, cu, cv, hu, hv in (row.unbind() for row in world.windows.unbind()):
        du, dv = (u - cu).abs(), (up - cv).abs()
        inside = torch.minimum(hu - du, hv - dv)
        bars = torch.minimum(du, dv) - 0.035
        best = torch.where(face == wall, torch.maximum(best, torch.minimum(inside, bars)), best)
    return best
