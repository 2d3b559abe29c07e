"""Our split: 4 categories x 20 rendered worlds x simple and hard paths, with exact geometry and no downloads.

Scene n of a category is the world of seed 8000 + n (never a training seed) and follows template (n - 1) mod 10.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wm_bench.splits.model import CATEGORIES, BenchScene, Split, Truth, revision_of
from wm_bench.splits.planning import Plan, Rules, plan_path, smoothness
from wm_bench.splits.revisits import find_revisits
from wm_bench.splits.templates import HARD, SIMPLE, Template
from wm_bench.worlds import Scene, make_scene, render

SPLITS = ("proc_simple_60s", "proc_hard_60s")
SOURCE_SIZE = (720, 1280)
FOV_DEG = 70.0
FIRST_SEED = 8_000
PER_CATEGORY = 20
VERSION = "procedural-1"
RULES = Rules()
_WORLD = dict(zip(CATEGORIES, ("game", "indoor", "outdoor-city", "outdoor-nature"), strict=True))
_DEPTH_SIZE = (72, 128)


def scene_ids() -> list[str]:
    """All 80 ids, such as indoor_007, category by category."""
    return [f"{category}_{number:03d}" for category in CATEGORIES for number in range(1, PER_CATEGORY + 1)]


def category_of(scene_id: str) -> str:
    """Everything before the last underscore: outdoor_city_017 is in outdoor_city."""
    return scene_id.rpartition("_")[0]


def pick_scenes(count: int) -> list[str]:
    """The first `count` ids taken from the categories in turn, so that a small run still sees all four."""
    if not 1 <= count <= PER_CATEGORY * len(CATEGORIES):
        raise ValueError(f"scenes is {count}; allowed: 1 to {PER_CATEGORY * len(CATEGORIES)}; example: 8")
    ids = [f"{category}_{number:03d}" for number in range(1, PER_CATEGORY + 1) for category in CATEGORIES]
    return sorted(ids[:count])


def load_procedural(name: str, scenes: Sequence[str] | None = None, seconds: float | None = None) -> Split:
    """Build the split, or some of its scenes, or their first seconds; the same call always gives the same data.

    `name` is proc_simple_60s or proc_hard_60s. Raises ValueError for unknown names, ids and lengths.
    """
    if name not in SPLITS:
        raise ValueError(f"split is {name!r}; allowed: {', '.join(SPLITS)}; example: 'proc_simple_60s'")
    known = scene_ids()
    ids = known if scenes is None else list(scenes)
    for scene_id in ids:
        if scene_id not in known:
            raise ValueError(f"unknown scene {scene_id!r}; allowed: {known[0]} to {known[-1]}; example: 'indoor_003'")
    if len(set(ids)) != len(ids):
        raise ValueError("a scene is named twice; allowed: each id once; example: indoor_001,indoor_002")
    if seconds is not None and not 1.0 <= seconds <= RULES.duration_s:
        raise ValueError(f"seconds is {seconds:g}; allowed: 1 to {RULES.duration_s:g}; example: 4")
    full = [bench_scene(name, scene_id) for scene_id in sorted(ids)]
    used = full if seconds is None else [scene.cut(seconds) for scene in full]
    label = name if seconds is None or seconds == RULES.duration_s else f"{name}[0-{seconds:g}s]"
    return Split(label, "procedural", revision_of(VERSION, used), used, first_frame, truth, len(known))


@functools.lru_cache(maxsize=256)
def bench_scene(split: str, scene_id: str) -> BenchScene:
    """Plan one scene of a split: its path, lens, prompt and revisit pairs."""
    category, number = category_of(scene_id), int(scene_id.rpartition("_")[2])
    template = (SIMPLE if split == "proc_simple_60s" else HARD)[(number - 1) % 10]
    world = world_of(scene_id)
    plan = _plan(world, template)
    frames = len(plan.c2w)
    lens = np.asarray(world.default_intrinsics(SOURCE_SIZE, FOV_DEG), np.float64)
    return BenchScene(
        scene_id,
        category,
        template.name,
        world.caption,
        plan.c2w,
        np.tile(lens, (frames, 1)),
        SOURCE_SIZE,
        RULES.fps,
        tuple(find_revisits(plan.c2w, RULES.fps)),
        {"collision": plan.collision, "smoothness": smoothness(plan.c2w, RULES.fps), "world_seed": world.seed},
    )


@functools.lru_cache(maxsize=128)
def world_of(scene_id: str) -> Scene:
    """The world behind a scene id; simple and hard share it."""
    return make_scene(_WORLD[category_of(scene_id)], FIRST_SEED + int(scene_id.rpartition("_")[2]))


def _plan(world: Scene, template: Template) -> Plan:
    start = world.start_pose().astype(np.float64)
    view = render(world, start[None], world.default_intrinsics(_DEPTH_SIZE, FOV_DEG), _DEPTH_SIZE, workers=1)
    near = view.depth[np.isfinite(view.depth)]
    # Centimetres are exact enough, and the same on every machine.
    depth_m = round(float(np.median(near)), 2)
    return plan_path(template, start, depth_m, world.distance, RULES)


def truth(
    scene: BenchScene,
    times_s: NDArray[np.float64],
    size: tuple[int, int],
    lens: NDArray[np.float64] | None = None,
) -> Truth:
    """Render what the camera sees at instants (n,) of the path, in a picture of (height, width).

    `lens` (4,) replaces the lens that follows from filling and centre-cropping the source picture.
    """
    poses, own = scene.trajectory(size).at(np.asarray(times_s, np.float64))
    assert own is not None
    drawn = render(world_of(scene.id), poses, own if lens is None else np.tile(lens, (len(own), 1)), size, workers=1)
    return Truth(drawn.rgb, drawn.depth)


def first_frame(scene: BenchScene, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) a model starts from."""
    return truth(scene, np.zeros(1), size).rgb[0]
