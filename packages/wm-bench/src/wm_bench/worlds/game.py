"""Game: bright block worlds with grass platforms, block trees, pipes, coins and floating islands."""

from __future__ import annotations

import math

import numpy as np

from wm_bench.worlds import textures as tx
from wm_bench.worlds.scene import Builder, Colour, Material, Scene, daylight, look

_BIOMES: dict[str, tuple[Colour, Colour]] = {
    "grassy": ((0.44, 0.76, 0.27), (0.60, 0.42, 0.27)),
    "desert": ((0.93, 0.80, 0.50), (0.82, 0.60, 0.36)),
    "snowy": ((0.93, 0.95, 0.98), (0.50, 0.56, 0.68)),
    "candy-pink": ((0.96, 0.66, 0.78), (0.62, 0.40, 0.54)),
}
_LEAVES: dict[str, Colour] = {"green": (0.28, 0.62, 0.24), "orange": (0.95, 0.56, 0.16), "teal": (0.20, 0.62, 0.58)}
_PIPES: dict[str, Colour] = {"green": (0.16, 0.66, 0.26), "blue": (0.18, 0.45, 0.85), "red": (0.85, 0.22, 0.18)}


def _dark(colour: Colour, k: float) -> Colour:
    return (colour[0] * k, colour[1] * k, colour[2] * k)


def build(rng: np.random.Generator, seed: int) -> Scene:
    """One platform-game scene on a unit-block grid."""
    b = Builder()
    light, light_words = daylight(rng, fog=0.009, kinds=("noon", "noon", "morning", "evening"))
    biome = str(rng.choice(list(_BIOMES)))
    top, dirt = _BIOMES[biome]
    ground = Material(tx.CHECKER, top, _dark(top, 0.90), 1.0)
    block = Material(tx.VOXEL, top, dirt, 1.0)
    words: list[str] = []
    taken: list[tuple[float, float, float, float]] = [(-1.2, 1.2, -2.0, 7.0)]

    def free(x0: float, x1: float, z0: float, z1: float) -> bool:
        if any(x0 < b1 and x1 > b0 and z0 < d1 and z1 > d0 for b0, b1, d0, d1 in taken):
            return False
        taken.append((x0, x1, z0, z1))
        return True

    def spot(w: int, d: int, reach: tuple[float, float], slope: float = 0.6) -> tuple[float, float] | None:
        for _ in range(40):
            z = math.floor(rng.uniform(*reach))
            side = max(2.0, slope * z + 1.0)
            x = math.floor(rng.uniform(-side, side))
            if free(x, x + w, z, z + d):
                return x + w / 2, z + d / 2
        return None

    # Stepped grass terraces left and right close the view; low ones stand nearer.
    for side in (-1, 1):
        for z0, steps in ((3, int(rng.integers(1, 3))), (8, int(rng.integers(1, 4))), (14, int(rng.integers(2, 6)))):
            w, d = int(rng.integers(3, 6)), int(rng.integers(3, 6))
            x0 = side * (3 + z0 * 0.25) if side > 0 else -(3 + z0 * 0.25) - w
            x0 = math.floor(x0)
            if free(x0, x0 + w, z0, z0 + d):
                b.box(x0 + w / 2, z0 + d / 2, (w, steps, d), block)
    for i in range(3):
        x, z = -24 + 20 * i + float(rng.uniform(-4, 4)), float(rng.uniform(26, 36))
        b.box(round(x), round(z), (float(rng.integers(9, 15)), float(rng.integers(3, 9)), 8.0), block)
    words.append(f"stepped {biome} block terraces")
    stone = Material(tx.BRICK, (0.66, 0.66, 0.72), (0.45, 0.45, 0.52), 0.5)
    brick = Material(tx.BRICK, (0.84, 0.46, 0.28), (0.56, 0.28, 0.18), 0.5)
    tower = spot(2, 2, (9, 15), 0.5)
    if tower:
        x, z = tower
        h = float(rng.integers(4, 7))
        b.box(x, z, (2, h, 2), stone)
        b.box(x, z, (2.6, 0.6, 2.6), stone, base=h)
        flag_name, flag = [("red", (0.9, 0.15, 0.15)), ("yellow", (1.0, 0.82, 0.1)), ("blue", (0.15, 0.4, 0.9))][
            int(rng.integers(3))
        ]
        b.frustum(x, z, (0.06, 0.06), 1.8, Material(tx.PLAIN, (0.95, 0.95, 0.95), (0.9, 0.9, 0.9)), base=h + 0.6)
        b.box(x + 0.5, z, (0.9, 0.6, 0.06), Material(tx.PLAIN, flag, _dark(flag, 0.9)), base=h + 1.7)
        words.append(f"a grey stone tower with a {flag_name} flag")
    leaf_name = str(rng.choice(list(_LEAVES)))
    leaf = Material(tx.VOXEL, _LEAVES[leaf_name], _dark(_LEAVES[leaf_name], 0.82), 0.5)
    bark = Material(tx.PLANK, (0.48, 0.33, 0.20), (0.36, 0.24, 0.15), 0.25)
    trees = 0
    for reach in ((4, 8), (6, 11), (9, 16)):
        place = spot(2, 2, reach)
        if place:
            x, z = place
            b.box(x, z, (0.5, 2.0, 0.5), bark)
            b.box(x, z, (2.0, 1.2, 2.0), leaf, base=1.6)
            b.box(x, z, (1.1, 0.6, 1.1), leaf, base=2.8)
            trees += 1
    if trees:
        words.append(f"square trees with {leaf_name} leaves")
    pipe_name = str(rng.choice(list(_PIPES)))
    pipe = Material(tx.PLAIN, _PIPES[pipe_name], _dark(_PIPES[pipe_name], 0.9), 2.0)
    place = spot(2, 2, (4, 9))
    if place:
        h = float(rng.uniform(0.9, 1.6))
        b.frustum(*place, (0.62, 0.62), h, pipe)
        b.frustum(*place, (0.78, 0.78), 0.35, pipe, base=h)
        words.append(f"a {pipe_name} pipe")
    gold = Material(tx.CHECKER, (1.0, 0.80, 0.16), (0.92, 0.62, 0.08), 0.5)
    place = spot(3, 1, (5, 9), 0.4)
    if place:
        x, z = place
        b.box(x - 1, z, (1, 1, 1), brick, base=2.4)
        b.box(x, z, (1, 1, 1), gold, base=2.4)
        b.box(x + 1, z, (1, 1, 1), brick, base=2.4)
        words.append("floating brick and gold blocks")
    coin = Material(tx.GLOW, (1.0, 0.82, 0.10), (1, 1, 1), emit=0.25)
    place = spot(1, 3, (3, 6), 0.5)
    if place:
        for i in range(3):
            b.ellipsoid(place[0], 0.75, place[1] - 1 + i, (0.26, 0.30, 0.10), coin)
        words.append("a row of golden coins")
    place = spot(2, 2, (6, 12))
    if place:
        b.box(*place, (2, 1, 2), brick)
        b.box(place[0] + 0.5, place[1] + 0.5, (1, 1, 1), brick, base=1.0)
        words.append("brick steps")
    caption = (
        f"A colourful {biome} block world in the style of a platform game with {', '.join(words)}, under {light_words}."
    )
    return b.scene("game", seed, caption, ground, light, look(0, 1.6, 0, float(rng.uniform(-8, 8)), 0.0))
