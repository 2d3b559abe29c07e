"""Indoor: a furnished room with sunlit windows, a rug, a sofa, tables, shelves, plants, pictures and lamps."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from wm_bench.worlds import textures as tx
from wm_bench.worlds.scene import Builder, Colour, Light, Material, Scene, linear, look

_WALLS: dict[str, Colour] = {
    "white": (0.93, 0.91, 0.87),
    "sage-green": (0.70, 0.79, 0.68),
    "pale blue": (0.69, 0.79, 0.88),
    "warm yellow": (0.95, 0.85, 0.60),
    "blush-pink": (0.93, 0.78, 0.74),
    "teal": (0.38, 0.62, 0.64),
}
_FABRIC: dict[str, Colour] = {
    "red": (0.78, 0.22, 0.20),
    "blue": (0.20, 0.36, 0.66),
    "mustard": (0.88, 0.64, 0.18),
    "grey": (0.55, 0.57, 0.60),
    "green": (0.24, 0.50, 0.36),
    "orange": (0.92, 0.50, 0.20),
    "purple": (0.48, 0.30, 0.60),
}
_FLOORS: dict[str, Material] = {
    "oak plank": Material(tx.PLANK, (0.74, 0.55, 0.36), (0.50, 0.36, 0.23), 0.28),
    "dark walnut plank": Material(tx.PLANK, (0.50, 0.34, 0.23), (0.33, 0.22, 0.15), 0.28),
    "checkered tile": Material(tx.CHECKER, (0.90, 0.88, 0.83), (0.52, 0.60, 0.64), 0.6),
    "terracotta tile": Material(tx.CHECKER, (0.80, 0.50, 0.36), (0.72, 0.42, 0.30), 0.5),
}


def _fabric(colour: Colour, shade: float = 0.88) -> Material:
    return Material(tx.PLAIN, colour, tuple(c * shade for c in colour), 1.2)  # type: ignore[arg-type]


def _light(rng: np.random.Generator, wall: int) -> tuple[Light, str]:
    """Sun shining through the windows of one wall (0 +x, 1 -x, 2 +z)."""
    inward = {0: 90.0, 1: -90.0, 2: 0.0}[wall] + float(rng.uniform(-28, 28))
    if wall != 2:
        inward += -18.0 if wall == 0 else 18.0
    elevation, azimuth = math.radians(float(rng.uniform(26, 40))), math.radians(inward)
    sun = (math.cos(elevation) * math.sin(azimuth), -math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    warm = bool(rng.random() < 0.5)
    tint: Colour = (1.0, 0.86, 0.64) if warm else (1.0, 0.95, 0.86)
    horizon: Colour = (0.97, 0.90, 0.80) if warm else (0.80, 0.90, 0.97)
    sky = (*linear((0.36, 0.58, 0.90)), *linear(horizon), *linear(tint), *linear((1, 1, 1)), 0.4)
    colour = linear(tint)
    light = Light(
        sun, (2.0 * colour[0], 2.0 * colour[1], 2.0 * colour[2]), (0.72, 0.73, 0.75), (0.58, 0.53, 0.48), sky, 0.0
    )
    return light, "warm low sunlight" if warm else "bright daylight"


def build(rng: np.random.Generator, seed: int) -> Scene:
    """One furnished room; the first view looks along +Z from near the back wall."""
    b = Builder()
    wide, deep, tall = float(rng.uniform(6.0, 8.0)), float(rng.uniform(8.0, 10.0)), float(rng.uniform(2.8, 3.3))
    hx, mid = wide / 2, deep / 2 - 1.6
    far = mid + deep / 2
    window_wall = int(rng.integers(3))
    light, light_words = _light(rng, window_wall)
    wall_name = str(rng.choice(list(_WALLS)))
    wall_colour = _WALLS[wall_name]
    wall = Material(tx.PLAIN, wall_colour, tuple(c * 0.97 for c in wall_colour), 3.0)  # type: ignore[arg-type]
    floor_name = str(rng.choice(list(_FLOORS)))
    ceiling = Material(tx.PLAIN, (0.95, 0.94, 0.92), (0.93, 0.92, 0.90), 3.0)
    windows: list[tuple[float, ...]] = []
    spots = (-hx / 2, hx / 2) if window_wall == 2 else (mid + 0.3, mid + 2.9)
    for u in spots:
        windows.append((window_wall, u, 1.55, float(rng.uniform(0.75, 0.95)), 0.75))
    wood_colour = [(0.55, 0.37, 0.24), (0.72, 0.54, 0.36), (0.36, 0.25, 0.19)][int(rng.integers(3))]
    wood = _fabric(wood_colour, 0.85)
    fabrics = [str(n) for n in rng.choice(list(_FABRIC), 4, replace=False)]
    cloth = [_fabric(_FABRIC[n]) for n in fabrics]
    rug_z = mid + float(rng.uniform(0.2, 1.0))
    rug = Material(tx.RUG, _FABRIC[fabrics[0]], (0.93, 0.87, 0.74), 1.3)
    b.box(0, rug_z, (float(rng.uniform(2.4, 3.2)), 0.02, float(rng.uniform(2.6, 3.4))), rug)
    # The sofa stands along the wall that has no window, its cushions in a second colour.
    sofa_side = -1.0 if window_wall == 0 else 1.0 if window_wall == 1 else float(rng.choice([-1, 1]))
    sx = sofa_side * (hx - 0.55)
    b.box(sx, rug_z, (0.95, 0.42, 2.3), cloth[1])
    b.box(sx + sofa_side * 0.36, rug_z, (0.24, 0.85, 2.3), cloth[1])
    for end in (-1, 1):
        b.box(sx, rug_z + end * 1.2, (0.95, 0.62, 0.2), cloth[1])
    b.box(sx + sofa_side * 0.12, rug_z + 0.6, (0.18, 0.42, 0.45), cloth[2], base=0.45, yaw=8)
    table_z = rug_z + float(rng.uniform(-0.2, 0.3))
    tx_ = sx - sofa_side * 1.5
    if rng.random() < 0.5:
        b.frustum(tx_, table_z, (0.5, 0.5), 0.06, wood, base=0.38)
        b.frustum(tx_, table_z, (0.12, 0.12), 0.38, wood)
    else:
        b.box(tx_, table_z, (0.7, 0.07, 1.1), wood, base=0.36)
        b.box(tx_, table_z, (0.5, 0.36, 0.85), _fabric(wood_colour, 0.6))
    bowl = _fabric(_FABRIC[fabrics[3]])
    b.ellipsoid(tx_, 0.52, table_z, (0.16, 0.10, 0.16), bowl)
    # A bookshelf, a picture and a plant fill the far end.
    shelf_x = -sofa_side * float(rng.uniform(0.8, 1.4))
    words = [
        f"a {fabrics[1]} sofa with a {fabrics[2]} cushion",
        f"a {fabrics[0]} rug with a cream border",
        "a low wooden table with a bowl",
    ]
    if window_wall != 2:
        b.box(shelf_x, far - 0.22, (1.7, 2.0, 0.44), wood)
        for i in range(3):
            books = Material(tx.STRIPES, _FABRIC[fabrics[i]], _FABRIC[fabrics[(i + 1) % 4]], 0.16)
            b.box(shelf_x, far - 0.46, (1.5, 0.42, 0.06), books, base=0.25 + 0.6 * i)
        art = Material(tx.CHECKER, _FABRIC[fabrics[2]], (0.95, 0.90, 0.80), 0.42)
        b.box(
            sofa_side * 1.4,
            far - 0.03,
            (1.3, 0.95, 0.06),
            Material(tx.PLAIN, (0.97, 0.96, 0.93), (0.95, 0.94, 0.9)),
            base=1.2,
        )
        b.box(sofa_side * 1.4, far - 0.07, (1.06, 0.71, 0.06), art, base=1.32)
        words += ["a bookshelf with colourful books", "a framed abstract picture"]
    else:
        b.box(0, far - 0.3, (1.6, 0.75, 0.5), wood)
        b.frustum(0, far - 0.3, (0.10, 0.16), 0.34, bowl, base=0.75)
        b.box(
            -sofa_side * (hx - 0.05),
            rug_z,
            (0.06, 0.9, 1.3),
            Material(tx.RUG, _FABRIC[fabrics[2]], (0.95, 0.9, 0.8), 0.5),
            base=1.2,
        )
        words += ["a sideboard with a vase under the windows", "a picture on the wall"]
    pot = Material(tx.PLAIN, (0.80, 0.48, 0.34), (0.72, 0.42, 0.30), 0.5)
    leaf = Material(tx.FOLIAGE, (0.36, 0.62, 0.28), (0.18, 0.42, 0.20), 0.35)
    px, pz = -sofa_side * (hx - 0.6), far - 0.7
    b.frustum(px, pz, (0.22, 0.30), 0.45, pot)
    b.ellipsoid(px, 0.95, pz, (0.45, 0.55, 0.45), leaf)
    words.append("a green plant in a clay pot")
    lamp = Material(tx.GLOW, (1.0, 0.88, 0.66), (1, 1, 1), emit=0.55)
    metal = Material(tx.PLAIN, (0.25, 0.24, 0.24), (0.2, 0.2, 0.2))
    if rng.random() < 0.5:
        b.frustum(sx, rug_z + 1.75, (0.03, 0.03), 1.45, metal)
        b.frustum(sx, rug_z + 1.75, (0.28, 0.18), 0.34, lamp, base=1.4)
        words.append("a floor lamp")
    else:
        b.ellipsoid(0, tall - 0.62, rug_z, (0.27, 0.27, 0.27), lamp)
        b.frustum(0, rug_z, (0.012, 0.012), 0.4, metal, base=tall - 0.4)
        words.append("a round hanging lamp")
    cx, cz = -sofa_side * (hx - 1.2), mid - float(rng.uniform(0.0, 0.8))
    yaw = float(rng.uniform(-35, 35))
    b.box(cx, cz, (0.75, 0.42, 0.75), cloth[3], yaw=yaw)
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    back = -sofa_side * 0.32
    b.box(cx + back * c, cz - back * s, (0.16, 0.9, 0.75), cloth[3], yaw=yaw)
    words.append(f"a {fabrics[3]} armchair")
    caption = (
        f"A living room with {wall_name} walls and a {floor_name} floor, {', '.join(words)}, "
        f"{light_words} falling through two tall windows onto the floor."
    )
    room = (0.0, -tall / 2, mid, hx, tall / 2, deep / 2)
    start = look(float(rng.uniform(-0.3, 0.3)), 1.6, -0.7, float(rng.uniform(-7, 7)), -4.0)
    scene = b.scene(
        "indoor",
        seed,
        caption,
        ceiling,
        light,
        start,
        room=room,
        room_materials=(_FLOORS[floor_name], ceiling, wall),
        windows=windows,
    )
    return dataclasses.replace(scene, scale=0.75)
