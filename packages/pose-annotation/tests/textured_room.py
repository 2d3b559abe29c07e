"""A textured room with exact poses and depth: 10 x 3 x 12 m, fourteen boxes, noise and tiles on every face.

The scene of annotate.md 7.1, for tests and the benchmark: plain NumPy, several samples a pixel, noise of one grey
level. Its six paths each break something: a walk, the same with a zoom, there and back again beside the way out, a
sideways step, a turn on the spot, a dolly zoom.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pose_annotation.rotations import exp_rotation

Array = NDArray[Any]
ROOM_LOW, ROOM_HIGH = np.array([-5.0, -1.5, 0.0]), np.array([5.0, 1.5, 12.0])
PATHS = ("fly", "fly_zoom", "loop", "side", "rot", "dz")


class RenderedClip(NamedTuple):
    """Frames (f, H, W, 3) uint8, c2w (f, 4, 4), intrinsics (f, 4) px, z-depth (f, H, W) metres."""

    frames: NDArray[np.uint8]
    c2w: Array
    intrinsics: Array
    depth: Array

    def points(self) -> Array:
        """(p, 3) what every pixel shows, in the world."""
        rows, columns = np.mgrid[: self.depth.shape[1], : self.depth.shape[2]] + 0.5
        fx, fy, cx, cy = self.intrinsics.T[:, :, None, None]
        seen = np.stack([(columns - cx) / fx * self.depth, (rows - cy) / fy * self.depth, self.depth], -1)
        world = np.einsum("fij,fyxj->fyxi", self.c2w[:, :3, :3], seen) + self.c2w[:, None, None, :3, 3]
        return world.reshape(-1, 3)


def camera_path(kind: str, frames: int, size: tuple[int, int] = (192, 320)) -> tuple[Array, Array]:
    """Poses (frames, 4, 4) in the room and intrinsics (frames, 4) of one of `PATHS`."""
    s = np.linspace(0.0, 1.0, frames)
    omega, centre, f = np.zeros((frames, 3)), np.zeros((frames, 3)), np.full(frames, 240.0)
    if kind in ("fly", "fly_zoom"):
        centre = np.stack([1.5 * np.sin(4.0 * s) - 0.5, -0.1 + 0.2 * np.sin(5 * s), 0.8 + 5.4 * s], 1)
        omega[:, 1], omega[:, 0] = np.radians(29) * np.sin(5.0 * s), np.radians(4) * np.sin(7 * s)
        if kind == "fly_zoom":
            f = 220.0 + 110.0 * s
    elif kind == "loop":
        out = 0.35 * (1.0 - np.cos(2 * np.pi * s))
        away = np.sin(2 * np.pi * s)
        centre = np.stack([1.5 * np.sin(4.0 * out) - 0.5 + 0.2 * away, -0.1 + 0.1 * away, 0.8 + 5.4 * out], 1)
        omega[:, 1], omega[:, 0] = np.radians(29) * np.sin(5.0 * out), np.radians(4) * away
    elif kind == "side":
        centre = np.stack([2.5 * s - 1.2, np.zeros(frames), np.full(frames, 1.5)], 1)
    elif kind == "rot":
        centre[:] = (0.0, 0.0, 2.0)
        omega[:, 1], omega[:, 0] = np.radians(57) * (s - 0.5), np.radians(6) * np.sin(6 * s)
    elif kind == "dz":
        # Held by hand: without any turn, a dolly fits every focal length.
        omega[:, 1], omega[:, 0] = np.radians(4) * np.sin(6 * s), np.radians(2) * np.sin(9 * s)
        f = 200.0 + 100.0 * s
        centre = np.stack([np.zeros(frames), np.zeros(frames), 8.0 - 6.0 * f / 200.0 + 0.5], 1)
    else:
        raise ValueError(f"path is {kind!r}; allowed: {', '.join(PATHS)}; example: 'fly'")
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = exp_rotation(omega)
    c2w[:, :3, 3] = centre
    height, width = size
    scale = width / 320.0
    k = np.stack([f * scale, f * scale, np.full(frames, width / 2), np.full(frames, height / 2)], 1)
    return c2w, k


def boxes(seed: int = 0) -> tuple[Array, Array]:
    """Lower and upper corners (14, 3) of the furniture, along both walls so that the middle stays free."""
    rng = np.random.default_rng(seed)
    side = np.where(np.arange(14) % 2 == 0, -1.0, 1.0)
    size = rng.uniform((0.5, 0.5, 0.5), (1.5, 2.2, 1.4), (14, 3))
    middle = np.stack([side * rng.uniform(2.9, 4.0, 14), 1.5 - size[:, 1] / 2, np.linspace(1.5, 11.3, 14)], 1)
    return middle - size / 2, middle + size / 2


def render(
    kind: str,
    frames: int,
    size: tuple[int, int] = (192, 320),
    samples: int = 2,
    seed: int = 0,
    count: int | None = None,
) -> RenderedClip:
    """Draw one of `PATHS`, or its first `count` frames; `samples` squared rays a pixel."""
    c2w, k = (part[:count] for part in camera_path(kind, frames, size))
    frames = len(c2w)
    rng = np.random.default_rng(seed)
    table = rng.uniform(0, 1, (8, 64, 64)).astype(np.float32)
    tints = rng.uniform(0.35, 1.0, (32, 3)).astype(np.float32)
    low, high = (corner.astype(np.float32) for corner in boxes(seed))
    height, width = size
    rgb, depth = np.empty((frames, height, width, 3), np.uint8), np.empty((frames, height, width), np.float32)
    offsets = (np.arange(samples) + 0.5) / samples
    for n in range(frames):
        fx, fy, cx, cy = k[n]
        total = np.zeros((height, width, 3), np.float32)
        for dy in offsets:
            for dx in offsets:
                x = ((np.arange(width) + dx - cx) / fx).astype(np.float32)
                y = ((np.arange(height) + dy - cy) / fy).astype(np.float32)
                rays = np.stack([*np.meshgrid(x, y), np.ones((height, width), np.float32)], -1).reshape(-1, 3)
                colour, _ = _trace(rays, c2w[n], low, high, table, tints)
                total += colour.reshape(height, width, 3)
        centre = np.stack([*np.meshgrid((np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy)], -1)
        rays = np.concatenate([centre, np.ones((height, width, 1))], -1).reshape(-1, 3).astype(np.float32)
        depth[n] = _trace(rays, c2w[n], low, high, table, tints)[1].reshape(height, width)
        noisy = 255 * total / samples**2 + rng.normal(0, 1.0, total.shape)
        rgb[n] = np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
    return RenderedClip(rgb, c2w, k, depth)


def _trace(rays: Array, c2w: Array, low: Array, high: Array, table: Array, tints: Array) -> tuple[Array, Array]:
    """Colour (r, 3) in [0, 1] and z-depth (r,) of camera rays (r, 3) with z = 1."""
    d = rays @ c2w[:3, :3].T.astype(np.float32)
    o = c2w[:3, 3].astype(np.float32)
    inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    exits = np.where(d > 0, (ROOM_HIGH - o).astype(np.float32), (ROOM_LOW - o).astype(np.float32)) * inverse
    axis = exits.argmin(1)
    t = exits[np.arange(len(d)), axis]
    face = axis * 2 + (d[np.arange(len(d)), axis] > 0)
    for b in range(len(low)):
        t0, t1 = (low[b] - o) * inverse, (high[b] - o) * inverse
        near, far = np.minimum(t0, t1), np.maximum(t0, t1)
        enter, leave = near.max(1), far.min(1)
        hit = (enter < leave) & (enter > 0.05) & (enter < t)
        t = np.where(hit, enter, t)
        axis = np.where(hit, near.argmax(1), axis)
        face = np.where(hit, 6 + b, face)
    at = o + d * t[:, None]
    u = np.where(axis == 0, at[:, 1], at[:, 0])
    v = np.where(axis == 2, at[:, 1], at[:, 2])
    shade = np.zeros(len(d), np.float32)
    for octave, (frequency, weight) in enumerate(((1.3, 0.3), (3.1, 0.3), (7.7, 0.25), (17.0, 0.15))):
        shade += weight * _noise(table, (face + octave) % 8, u * frequency, v * frequency)
    tile = ((np.floor(u / 0.5) + np.floor(v / 0.5)) % 2).astype(np.float32)
    colour = tints[face % len(tints)] * (0.25 + 0.75 * shade)[:, None] * (0.75 + 0.25 * tile)[:, None]
    return np.clip(colour, 0, 1), t


def _noise(table: Array, layer: Array, u: Array, v: Array) -> Array:
    """Bilinear value noise from layer (r,) of a table (8, 64, 64), repeating."""
    iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    a, b = table[layer, iu % 64, iv % 64], table[layer, (iu + 1) % 64, iv % 64]
    c, d = table[layer, iu % 64, (iv + 1) % 64], table[layer, (iu + 1) % 64, (iv + 1) % 64]
    return (a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv
