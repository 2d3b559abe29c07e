"""A benchmark split that costs nothing: cameras inside a box with wavy walls, rendered by one formula."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from wm_bench.splits.model import BenchScene, Split, Truth, revision_of
from wm_bench.splits.revisits import find_revisits

HALF = np.array([4.0, 2.0, 6.0])  # metres from the middle of the box to its walls
SOURCE = (72, 128)
LENS = np.array([90.0, 90.0, 64.0, 36.0])


def _texture(points, seed, fine):
    """Colours (..., 3) of wall points: three waves a channel, different in every scene, and short ones if fine."""
    rng = np.random.default_rng(seed)
    out = np.full(points.shape, 128.0)
    for channel in range(3):
        for most in (2.5, 2.5, 2.5) + (12.0,) * 4 * fine:
            wave = rng.uniform(-most, most, 3)
            out[..., channel] += (20 if fine else 38) * np.sin(points @ wave + rng.uniform(0, 6.28))
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def _render(scene, times_s, size, lens=None):
    """Exact pictures and z-depth from inside the box."""
    poses, own = scene.trajectory(size).at(np.asarray(times_s))
    fx, fy, cx, cy = own[0] if lens is None else lens
    v, u = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    rgb = np.empty((len(poses), *size, 3), np.uint8)
    depth = np.empty((len(poses), *size), np.float32)
    for i, pose in enumerate(poses):
        direction = rays @ pose[:3, :3].T
        direction[np.abs(direction) < 1e-9] = 1e-9
        reach = ((np.sign(direction) * HALF - pose[:3, 3]) / direction).min(-1)
        depth[i] = reach
        rgb[i] = _texture(pose[:3, 3] + direction * reach[..., None], scene.extra["seed"], scene.extra["fine"])
    return Truth(rgb, depth)


def _path(seconds, number):
    """Two rounds of a bent loop, the second a little wider: places are seen again from close by."""
    frames = round(seconds * 16) + 1
    turn = np.linspace(0, 4 * np.pi, frames)
    reach = (0.8 + 0.1 * number) * (1 + 0.1 * turn / turn[-1])
    centres = np.stack([reach * np.sin(turn), 0.2 * np.sin(2 * turn), reach * (1 - np.cos(turn))], 1)
    yaw = np.stack([0 * turn, np.radians(20 + 5 * number) * np.sin(turn), 0 * turn], 1)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.from_rotvec(yaw).as_matrix()
    c2w[:, :3, 3] = centres
    return c2w


@pytest.fixture(scope="session")
def box_split():
    """Make a split of box scenes: box_split(scenes=3, seconds=60, fine=False)."""

    def make(scenes=3, seconds=60.0, fine=False):
        categories = ("game_style", "indoor", "outdoor_city", "outdoor_nature")
        made = []
        for i in range(scenes):
            look = {"seed": i, "fine": fine}
            c2w = _path(seconds, i)
            category = categories[i % 4]
            made.append(
                BenchScene(
                    f"{category}_{i // 4 + 1:03d}", category, f"traj_{i % 3 + 1:02d}_loop", "A box.", c2w,
                    np.tile(LENS, (len(c2w), 1)), SOURCE, 16.0, tuple(find_revisits(c2w, 16.0)), look,
                )
            )  # fmt: skip

        def first_frame(scene, size):
            return _render(scene, np.zeros(1), size).rgb[0]

        made.sort(key=lambda scene: scene.id)
        return Split("box_60s", "user", revision_of("box", made), made, first_frame, _render, 80)

    return make
