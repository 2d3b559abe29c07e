"""Surface patterns, sky and smooth noise, all filtered by distance so that a small codec sees clean edges and no grain.

Every pattern takes surface coordinates in metres and the pixel footprint in metres and fades to its mean
colour when its
features become smaller than a pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN, CHECKER, BRICK, PLANK, FACADE, TERRAIN, ROAD, VOXEL, WATER, STRIPES, RUG, GLOW, FOLIAGE = range(13)
_LATTICE = 32
_TABLE = 256


_tables: dict[str, Tensor] = {}


def prepare(device: torch.device) -> None:
    """Put the noise table on a device; must run before any pattern is evaluated there."""
    if str(device) not in _tables:
        _tables[str(device)] = _noise_table().to(device)


def _noise_table() -> Tensor:
    """Tileable smooth value noise (1, 1, 257, 257) from an integer hash; one lattice period is 32 units."""
    index = torch.arange(_LATTICE * _LATTICE, dtype=torch.int64)
    h = (index * 374761393 + 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    lattice = (((h ^ (h >> 15)) & 0xFFFF).float() / 65535.0).reshape(_LATTICE, _LATTICE)
    pos = torch.arange(_TABLE, dtype=torch.float32) * (_LATTICE / _TABLE)
    low = pos.floor().long()
    frac = pos - low
    smooth = frac * frac * (3 - 2 * frac)
    high = (low + 1) % _LATTICE
    rows = lattice[low] * (1 - smooth)[:, None] + lattice[high] * smooth[:, None]
    table = rows[:, low] * (1 - smooth) + rows[:, high] * smooth
    table = torch.cat((table, table[:1]), 0)
    return torch.cat((table, table[:, :1]), 1)[None, None]


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Smooth value noise in [0, 1], features about one unit across, repeating every 32 units."""
    fu, fv = u * (1.0 / _LATTICE), v * (1.0 / _LATTICE)
    fu, fv = (fu - fu.floor()) * 2 - 1, (fv - fv.floor()) * 2 - 1
    grid = torch.stack((fu, fv), -1)[None, None]
    return F.grid_sample(_tables[str(u.device)], grid, align_corners=True)[0, 0, 0]


def cell_value(i: Tensor, j: Tensor) -> Tensor:
    """A fixed random value in [0, 1) for every integer cell (i, j)."""
    h = i.to(torch.int32) * 374761393 + j.to(torch.int32) * 668265263
    h = (h ^ ((h >> 13) & 0x7FFFF)) * 1274126177
    return ((h ^ ((h >> 16) & 0xFFFF)) & 0xFFFF).float() * (1.0 / 65536.0)


def _fade(feature: Tensor, footprint: Tensor) -> Tensor:
    """1 while a feature of this size is well resolved, 0 when it is smaller than the footprint."""
    return (1.6 - 1.3 * footprint / feature).clamp(0.0, 1.0)


def _step(distance: Tensor, footprint: Tensor) -> Tensor:
    """Anti-aliased inside test: 1 where distance > 0, with a ramp one footprint wide."""
    return (distance / footprint.clamp_min(1e-4) + 0.5).clamp(0.0, 1.0)


def _line(u: Tensor, period: Tensor, width: Tensor, footprint: Tensor) -> Tensor:
    """Coverage of lines of this width centred on multiples of the period."""
    away = ((u / period + 0.5).floor() * period - u).abs()
    soft = torch.maximum(footprint, width * 0.2)
    return ((width * 0.5 - away) / soft + 0.5).clamp(0, 1) * (width / soft).clamp_max(1.0)


def _square_wave(u: Tensor, period: Tensor, footprint: Tensor) -> Tensor:
    """Filtered +-1 square wave."""
    tri = (u / period - (u / period).floor() - 0.5).abs() * 4 - 1
    return (tri * period / (4 * footprint.clamp_min(1e-3))).clamp(-1, 1)


def _mix(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return a + (b - a) * w


def albedo(kind: int, m: Tensor, u: Tensor, v: Tensor, flat: Tensor, fw: Tensor, local: Tensor) -> Tensor:
    """Colour (3, r) of one pattern at surface points.

    `m` (10, r) holds a rgb, b rgb, scale, extra, extra2, base height; u, v (r,) metres (v up); `flat` marks
    upward faces;
    `fw` footprint metres; `local` (2, r) coordinates in [-1, 1] over the face.
    """
    a, b, scale, extra = m[0:3], m[3:6], m[6], m[7]
    if kind == PLAIN:
        return _mix(a, b, 0.5 * noise(u / scale, v / scale))
    if kind == CHECKER:
        wave = _square_wave(u, 2 * scale, fw) * _square_wave(v, 2 * scale, fw) * _fade(scale, fw)
        return _mix(a, b, 0.5 - 0.5 * wave)
    if kind in (BRICK, PLANK):
        length = scale * (2.2 if kind == BRICK else 7.0)
        row = (v / scale).floor()
        offset = torch.where(row.remainder(2) > 0.5, 0.5, 0.0) if kind == BRICK else row * 0.37
        column = u / length + offset
        fade = _fade(scale, fw)
        tone = 1 + 0.22 * (cell_value(column.floor(), row) - 0.5) * fade
        gap = scale * (0.10 if kind == BRICK else 0.05)
        lines = torch.maximum(_line(v, scale, gap, fw), _line(u + offset * length, length, gap, fw))
        return _mix(a * tone, b, lines * fade)
    if kind == FACADE:
        high = extra
        cu, cv = u / scale, v / high
        iu, iv = cu.floor(), cv.floor()
        du = 0.30 * scale - ((cu - iu) - 0.5).abs() * scale
        dv = 0.31 * high - ((cv - iv) - 0.5).abs() * high
        inside = _step(torch.minimum(du, dv), fw) * (v > 0.25 * high)
        frame = _step(torch.minimum(du, dv) + 0.10 * scale, fw) * (v > 0.25 * high)
        glass = b * (0.75 + 0.6 * cell_value(iu, iv)) + 0.10 * (cv - iv)
        wall = a * (1 - 0.10 * noise(u * 0.3, v * 0.3))
        fade = _fade(scale * 0.5, fw)
        colour = _mix(_mix(wall, a * 0.3 + 0.55, frame * (1 - inside)), glass, inside)
        colour = _mix(_mix(wall, b, 0.33 * torch.ones_like(u)), colour, fade)
        return torch.where(flat, a * 0.6 + 0.15, colour)
    if kind == TERRAIN:
        n = 0.65 * noise(u / scale, v / scale) + 0.35 * noise(u * 3 / scale + 7.3, v * 3 / scale) * _fade(scale / 3, fw)
        return _mix(a, b, ((n - 0.3) * 2.2).clamp(0, 1))
    if kind == ROAD:
        half, walk = extra, m[8]
        x = u.abs()
        asphalt = b * (0.92 + 0.16 * noise(u * 0.35, v * 0.35))
        dash = _step(0.09 - x, fw) * (0.5 + 0.5 * _square_wave(v, torch.full_like(v, 4.0), fw))
        edge = _step(0.06 - (x - half + 0.35).abs(), fw)
        paint = torch.maximum(dash, edge)
        asphalt = _mix(asphalt, torch.full_like(asphalt, 0.78), paint * _fade(torch.full_like(fw, 0.25), fw))
        slab = a * (1 + 0.05 * _square_wave(u, 2 * scale, fw) * _square_wave(v, 2 * scale, fw) * _fade(scale, fw))
        kerb = _step(0.10 - (x - half - 0.1).abs(), fw)
        slab = _mix(slab, a * 1.25, kerb)
        grass = torch.stack((0.13 + 0 * u, 0.30 + 0.06 * noise(u * 0.5, v * 0.5), 0.07 + 0 * u))
        return _mix(_mix(asphalt, slab, _step(x - half, fw)), grass, _step(x - half - walk, fw))
    if kind == VOXEL:
        fade = _fade(scale, fw)
        lines = torch.maximum(_line(u, scale, scale * 0.05, fw), _line(v, scale, scale * 0.05, fw))
        tone = 1 + 0.16 * (cell_value((u / scale).floor(), (v / scale).floor()) - 0.5) * fade
        top = m[8] - v
        fringe = _step(scale * (0.22 + 0.18 * cell_value((u * 4 / scale).floor(), torch.zeros_like(u))) - top, fw)
        colour = torch.where(flat, a, _mix(b, a * 0.85, fringe)) * tone
        return colour * (1 - 0.25 * lines * fade)
    if kind == WATER:
        return _mix(a, b, noise(u / scale, v / scale))
    if kind == STRIPES:
        return _mix(a, b, 0.5 + 0.5 * _square_wave(u, 2 * scale, fw) * _fade(scale, fw))
    if kind == RUG:
        ring = torch.maximum(local[0].abs(), local[1].abs())
        size = fw / scale
        w = _step(0.10 - (ring - 0.84).abs(), size)
        medal = _step(0.34 - (local[0].abs() * 0.6 + local[1].abs() * 0.6), size)
        return _mix(_mix(a, b, w), b, medal)
    if kind == FOLIAGE:
        n = 0.6 * noise(u / scale, v / scale) + 0.4 * noise(u * 2.3 / scale + 3.1, v * 2.3 / scale) * _fade(
            scale / 2.3, fw
        )
        return _mix(a, b, ((n - 0.35) * 2.4).clamp(0, 1))
    return a


def sky_colour(sky: Tensor, sun: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    """Linear sky colour (3, r) in unit directions; `sky` (13,) zenith, horizon, sun, cloud rgb and cloud amount."""
    zenith, horizon, glow, cloud = (sky[i : i + 3, None] for i in (0, 3, 6, 9))
    up = (-dy).clamp_min(0.0)
    colour = _mix(horizon, zenith, 1 - (1 - up) ** 3)
    toward = (dx * sun[0] + dy * sun[1] + dz * sun[2]).clamp_min(0.0)
    flat = 1.0 / (up + 0.18)
    u, v = dx * flat * 1.6 + 11.0, dz * flat * 1.6 + 5.0
    n = 0.62 * noise(u, v) + 0.38 * noise(u * 2.1 + 9.0, v * 2.1)
    amount = ((n - 1 + sky[12]) * 3.0).clamp(0, 1)
    amount = amount * amount * (3 - 2 * amount) * (up * 6).clamp(0, 1)
    colour = _mix(colour, cloud * (0.86 + 0.14 * n), amount * 0.85)
    colour = colour + glow * (0.22 * toward**8 + 0.35 * toward**64) * (1 - 0.5 * amount)
    return colour + glow * 2.0 * ((toward - 0.9985) * 1500).clamp(0, 1) * (1 - 0.8 * amount)
