"""Outdoor city: a street with house fronts on both sides, street trees, parked cars and lamps."""

from __future__ import annotations

import numpy as np

from wm_bench.worlds import textures as tx
from wm_bench.worlds.nature import leafy_tree
from wm_bench.worlds.scene import Builder, Colour, Material, Scene, daylight, look

_WALLS: dict[str, Colour] = {
    "terracotta": (0.80, 0.45, 0.33),
    "cream": (0.93, 0.86, 0.70),
    "yellow": (0.93, 0.76, 0.40),
    "pale blue": (0.62, 0.76, 0.86),
    "brick-red": (0.66, 0.31, 0.25),
    "mint-green": (0.66, 0.84, 0.72),
    "white": (0.93, 0.92, 0.90),
    "pink": (0.92, 0.70, 0.70),
}
_CARS: dict[str, Colour] = {
    "red": (0.80, 0.16, 0.14),
    "blue": (0.16, 0.36, 0.75),
    "yellow": (0.95, 0.75, 0.15),
    "white": (0.92, 0.92, 0.92),
    "green": (0.20, 0.52, 0.32),
}


def _car(b: Builder, x: float, z: float, colour: Colour) -> None:
    """A parked car along Z: body, cabin and dark wheels."""
    paint = Material(tx.PLAIN, colour, tuple(c * 0.9 for c in colour), 1.5)  # type: ignore[arg-type]
    glass = Material(tx.PLAIN, (0.25, 0.33, 0.42), (0.20, 0.27, 0.36), 1.0)
    tyre = Material(tx.PLAIN, (0.12, 0.12, 0.13), (0.10, 0.10, 0.11), 1.0)
    b.box(x, z, (1.5, 0.35, 3.4), tyre)
    b.box(x, z, (1.7, 0.52, 3.9), paint, base=0.30)
    b.box(x, z - 0.2, (1.5, 0.42, 2.0), glass, base=0.82)
    b.box(x, z - 0.2, (1.4, 0.08, 1.7), paint, base=1.24)


def build(rng: np.random.Generator, seed: int) -> Scene:
    """One street scene; the street runs along +Z."""
    b = Builder()
    light, light_words = daylight(rng, fog=0.006)
    half, walk = float(rng.uniform(3.4, 4.2)), float(rng.uniform(2.2, 3.0))
    paving = [(0.72, 0.70, 0.66), (0.74, 0.66, 0.58)][int(rng.integers(2))]
    ground = Material(tx.ROAD, paving, (0.46, 0.47, 0.50), 0.9, half, walk)
    names = list(_WALLS)
    used: list[str] = []
    for side in (-1, 1):
        z = float(rng.uniform(-7, -4))
        last = ""
        for _ in range(5):
            depth = float(rng.uniform(6, 10))
            storeys = int(rng.integers(2, 6))
            storey = float(rng.uniform(2.7, 3.2))
            name = str(rng.choice([n for n in names if n != last]))
            last = name
            used.append(name)
            glass = [(0.30, 0.42, 0.55), (0.24, 0.34, 0.44), (0.45, 0.55, 0.62)][int(rng.integers(3))]
            tall = storeys * storey
            wall = Material(tx.FACADE, _WALLS[name], glass, float(rng.uniform(1.7, 2.4)), storey)
            wide = 8.0
            x = side * (half + walk + wide / 2 + float(rng.uniform(0, 0.5)))
            b.box(x, z + depth / 2, (wide, tall, depth - 0.05), wall)
            z += depth + (float(rng.uniform(2, 4)) if rng.random() < 0.25 else 0.0)
    name = str(rng.choice(names))
    end = Material(tx.FACADE, _WALLS[name], (0.35, 0.45, 0.55), 2.4, 3.0)
    b.box(float(rng.uniform(-6, 6)), float(rng.uniform(46, 60)), (16, float(rng.uniform(14, 26)), 8), end)
    leaf_name, leaf = [
        ("green", ((0.40, 0.60, 0.24), (0.24, 0.44, 0.16))),
        ("orange", ((0.90, 0.55, 0.18), (0.72, 0.38, 0.14))),
        ("pink blossoming", ((0.96, 0.70, 0.78), (0.86, 0.52, 0.64))),
    ][int(rng.integers(3))]
    leaves = Material(tx.FOLIAGE, *leaf, scale=0.8)
    for side in (-1, 1):
        z = float(rng.uniform(5, 8))
        for _ in range(2):
            leafy_tree(b, rng, side * (half + 1.0), z, float(rng.uniform(0.85, 1.15)), leaves)
            z += float(rng.uniform(6, 9))
    cars: list[str] = []
    for side in (-1, 1):
        z = float(rng.uniform(5, 8))
        for _ in range(int(rng.integers(1, 3))):
            colour = str(rng.choice(list(_CARS)))
            cars.append(colour)
            _car(b, side * (half - 1.1), z, _CARS[colour])
            z += float(rng.uniform(6.5, 10))
    iron = Material(tx.PLAIN, (0.20, 0.24, 0.24), (0.16, 0.2, 0.2), 1.0)
    bulb = Material(tx.GLOW, (1.0, 0.92, 0.70), (1, 1, 1), emit=0.5)
    lamp_side = float(rng.choice([-1, 1]))
    b.frustum(lamp_side * (half + 0.4), 4.0, (0.07, 0.05), 3.6, iron)
    b.ellipsoid(lamp_side * (half + 0.4), 3.75, 4.0, (0.22, 0.22, 0.22), bulb)
    walls = list(dict.fromkeys(used))[:4]
    caption = (
        f"A city street with {', '.join(walls[:-1])} and {walls[-1]} house fronts with rows of windows, "
        f"{leaf_name} street trees, "
        f"parked {' and '.join(dict.fromkeys(cars))} cars, a street lamp and a grey asphalt road with white markings, "
        f"under {light_words}."
    )
    start_x = float(rng.uniform(-0.9, 0.9))
    return b.scene(
        "outdoor-city", seed, caption, ground, light, look(start_x, 1.6, -1.0, float(rng.uniform(-8, 8)), 1.0)
    )
