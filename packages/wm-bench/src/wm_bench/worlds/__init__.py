"""Procedural worlds: seeded scenes, an exact renderer for them, and smooth camera paths through them."""

from __future__ import annotations

import numpy as np

from wm_bench.worlds import city, game, indoor, nature
from wm_bench.worlds.render import Render, render
from wm_bench.worlds.scene import Scene

_BUILDERS = {"game": game.build, "indoor": indoor.build, "outdoor-city": city.build, "outdoor-nature": nature.build}
CATEGORIES = tuple(_BUILDERS)

__all__ = ["CATEGORIES", "Render", "Scene", "make_scene", "render"]


def make_scene(category: str, seed: int) -> Scene:
    """Build the world of this category and seed; the same pair always gives the same world.

    `category` is one of `CATEGORIES`, `seed` any integer >= 0. Raises ValueError otherwise.
    """
    if category not in _BUILDERS:
        raise ValueError(f"category is {category!r}; allowed are {', '.join(CATEGORIES)}, e.g. 'indoor'")
    if int(seed) != seed or seed < 0:
        raise ValueError(f"seed is {seed!r}; allowed are integers >= 0, e.g. 7")
    return _BUILDERS[category](np.random.default_rng([CATEGORIES.index(category), int(seed)]), int(seed))
