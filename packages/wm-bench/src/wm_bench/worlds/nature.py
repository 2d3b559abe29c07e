"""Outdoor nature: meadow, hills, a lake, conifers and leafy trees, rocks, sometimes a cabin."""

from __future__ import annotations

import math

import numpy as np

from wm_bench.worlds import textures as tx
from wm_bench.worlds.scene import Builder, Colour, Material, Scene, daylight, look

_GRASS: dict[str, tuple[Colour, Colour]] = {
    "green": ((0.42, 0.60, 0.24), (0.31, 0.50, 0.20)),
    "golden": ((0.76, 0.66, 0.34), (0.62, 0.55, 0.27)),
    "fresh spring-green": ((0.52, 0.70, 0.28), (0.38, 0.58, 0.25)),
}
_LEAVES: dict[str, tuple[Colour, Colour]] = {
    "green": ((0.36, 0.56, 0.20), (0.20, 0.40, 0.14)),
    "orange autumn": ((0.90, 0.55, 0.18), (0.72, 0.36, 0.14)),
    "yellow autumn": ((0.92, 0.76, 0.26), (0.74, 0.55, 0.18)),
    "pink blossoming": ((0.96, 0.68, 0.76), (0.86, 0.50, 0.62)),
}
BARK = Material(tx.PLAIN, (0.45, 0.32, 0.22), (0.34, 0.24, 0.16), 0.6)


def leafy_tree(b: Builder, rng: np.random.Generator, x: float, z: float, size: float, leaves: Material) -> None:
    """A trunk with a round crown of two or three ellipsoids."""
    b.frustum(x, z, (0.16 * size, 0.11 * size), 1.9 * size, BARK)
    b.ellipsoid(x, 2.7 * size, z, (1.25 * size, 1.1 * size, 1.25 * size), leaves)
    angle = rng.uniform(0, 2 * math.pi)
    b.ellipsoid(
        x + 0.7 * size * math.cos(angle),
        2.2 * size,
        z + 0.7 * size * math.sin(angle),
        (0.8 * size, 0.65 * size, 0.8 * size),
        leaves,
    )


def conifer(b: Builder, x: float, z: float, size: float, leaves: Material) -> None:
    """A trunk with two stacked cones."""
    b.frustum(x, z, (0.15 * size, 0.12 * size), 0.9 * size, BARK)
    b.frustum(x, z, (1.15 * size, 0.25 * size), 1.9 * size, leaves, base=0.7 * size)
    b.frustum(x, z, (0.80 * size, 0.0), 1.8 * size, leaves, base=2.0 * size)


def build(rng: np.random.Generator, seed: int) -> Scene:
    """One nature scene."""
    b = Builder()
    light, light_words = daylight(rng, fog=0.008)
    grass_name = str(rng.choice(list(_GRASS)))
    grass = _GRASS[grass_name]
    ground = Material(tx.TERRAIN, grass[0], grass[1], float(rng.uniform(2.2, 3.5)))
    words: list[str] = []
    mountains = bool(rng.random() < 0.5)
    hill = (0.50, 0.54, 0.60) if mountains else grass[1]
    for i in range(4):
        angle = math.radians(-60 + 40 * i + rng.uniform(-12, 12))
        far = rng.uniform(45, 75)
        tall = rng.uniform(14, 26) if mountains else rng.uniform(6, 12)
        wide = rng.uniform(18, 30)
        colour = tuple(c * rng.uniform(0.9, 1.08) for c in hill)
        mat = Material(tx.TERRAIN, colour, tuple(c * 0.82 for c in colour), 9.0)  # type: ignore[arg-type]
        b.ellipsoid(far * math.sin(angle), -1.5, far * math.cos(angle), (wide, tall, wide * 0.8), mat)
    words.append("blue-grey mountains in the distance" if mountains else "rolling hills in the distance")
    water = bool(rng.random() < 0.55)
    side = float(rng.choice([-1, 1]))
    lake_x, lake_z, lake_r = side * rng.uniform(5, 7), rng.uniform(10, 13), rng.uniform(3.6, 5.0)
    if water:
        sand = Material(tx.PLAIN, (0.82, 0.74, 0.55), (0.72, 0.64, 0.46), 1.5)
        lake = Material(tx.WATER, (0.16, 0.42, 0.52), (0.12, 0.34, 0.48), 2.0)
        b.frustum(lake_x, lake_z, (lake_r + 1.5, lake_r + 1.4), 0.02, sand)
        b.frustum(lake_x, lake_z, (lake_r, lake_r), 0.04, lake)
        words.append("a calm blue lake with a sandy shore")
    taken: list[tuple[float, float, float]] = [(0.0, 0.0, 2.0), (0.0, 2.5, 1.6), (0.0, 5.0, 1.3)]
    if water:
        taken.append((lake_x, lake_z, lake_r + 1.5))

    def place(reach: tuple[float, float], radius: float, spread: float) -> tuple[float, float] | None:
        for _ in range(30):
            far, angle = rng.uniform(*reach), math.radians(rng.uniform(-spread, spread))
            x, z = far * math.sin(angle), far * math.cos(angle)
            if all(math.hypot(x - tx_, z - tz) > radius + tr for tx_, tz, tr in taken):
                taken.append((x, z, radius))
                return x, z
        return None

    if rng.random() < 0.5:
        spot = place((8, 12), 2.6, 35)
        if spot:
            wall_name, wall = [
                ("red", (0.72, 0.24, 0.18)),
                ("brown", (0.58, 0.40, 0.25)),
                ("white", (0.92, 0.90, 0.86)),
            ][int(rng.integers(3))]
            yaw = float(rng.uniform(-35, 35))
            wood = Material(tx.PLANK, wall, tuple(c * 0.7 for c in wall), 0.35)  # type: ignore[arg-type]
            roof = Material(tx.PLAIN, (0.38, 0.26, 0.24), (0.32, 0.22, 0.20), 0.8)
            x, z = spot
            b.box(x, z, (3.4, 2.0, 2.8), wood, yaw=yaw)
            b.box(x, z, (3.9, 0.22, 3.3), roof, base=2.0, yaw=yaw)
            b.box(x, z, (2.9, 0.35, 2.3), roof, base=2.22, yaw=yaw)
            b.box(x, z, (1.7, 0.35, 1.3), roof, base=2.57, yaw=yaw)
            glow = Material(tx.GLOW, (0.96, 0.86, 0.58), (1, 1, 1), emit=0.35)
            c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
            b.box(x - 0.75 * c - 1.4 * s, z + 0.75 * s - 1.4 * c, (0.8, 0.7, 0.08), glow, base=0.9, yaw=yaw)
            door = Material(tx.PLAIN, (0.34, 0.22, 0.14), (0.28, 0.18, 0.12), 0.7)
            b.box(x + 0.7 * c - 1.4 * s, z - 0.7 * s - 1.4 * c, (0.8, 1.6, 0.08), door, yaw=yaw)
            words.append(f"a {wall_name} wooden cabin with a dark roof")
    leaf_names = [str(n) for n in rng.choice(list(_LEAVES), 2, replace=False)]
    leaves = [Material(tx.FOLIAGE, *_LEAVES[n], scale=0.9) for n in leaf_names]
    needle = Material(tx.FOLIAGE, (0.22, 0.44, 0.26), (0.12, 0.30, 0.18), 0.7)
    kinds = {0: 0, 1: 0, 2: 0}
    for i in range(7):
        size = float(rng.uniform(0.85, 1.5))
        spot = place((4.5, 9) if i < 3 else (9, 20), 1.1 * size, 42 if i < 3 else 48)
        if spot is None:
            continue
        kind = int(rng.integers(3))
        kinds[kind] += 1
        if kind == 2:
            conifer(b, *spot, size * 1.2, needle)
        else:
            leafy_tree(b, rng, *spot, size, leaves[kind])
    words += [f"{leaf_names[k]} leafy trees" for k in (0, 1) if kinds[k]]
    if kinds[2]:
        words.append("dark green conifers")
    stone = Material(tx.PLAIN, (0.62, 0.60, 0.58), (0.48, 0.47, 0.47), 0.5)
    rocks = 0
    for _ in range(4):
        size = float(rng.uniform(0.3, 0.75))
        spot = place((3, 8), size, 40)
        if spot:
            b.ellipsoid(spot[0], 0.25 * size, spot[1], (size, size * 0.75, size * 0.85), stone)
            rocks += 1
    if rocks:
        words.append("smooth grey rocks")
    caption = f"A {grass_name} meadow with {', '.join(words)}, under {light_words}."
    return b.scene("outdoor-nature", seed, caption, ground, light, look(0, 1.6, 0, float(rng.uniform(-6, 6)), -1.0))
