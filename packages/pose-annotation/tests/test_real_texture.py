"""Real texture, exact truth: a photograph turned, hung on the walls of a box, and behind something that moves."""

from functools import lru_cache

import matplotlib.cbook as cbook
import numpy as np
from pose_annotation.align import compare_paths
from pose_annotation.opencv import cv2
from pose_annotation.rotations import angle_deg, exp_rotation
from pose_annotation.solve import SolveConfig, solve_camera
from pose_annotation.tracking import KltTracker

SIZE = (120, 200)


@lru_cache(maxsize=1)
def photo():
    """The photograph that matplotlib brings along, as RGB."""
    with cbook.get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        data = np.frombuffer(file.read(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def noisy(frame, rng):
    return np.clip(frame + rng.normal(0, 1.0, frame.shape) + 0.5, 0, 255).astype(np.uint8)


def test_a_photograph_that_only_turns_gives_its_turns_and_its_lens():
    """Frames are homographies K R K^-1 of one picture, so the truth is exact."""
    rng, n = np.random.default_rng(0), 20
    s = np.linspace(-1, 1, n)
    lens = np.array([170.0, 170.0, 100.0, 60.0])
    k = np.array([[170.0, 0, 100], [0, 170, 60], [0, 0, 1]])
    wide = np.array([[380.0, 0, 256], [0, 380, 300], [0, 0, 1]])  # the photograph as another camera saw it
    omega = np.stack([0.22 * s + 0.05 * np.sin(5 * s), 0.26 * np.sin(2 * s), 0.04 * s], 1)
    turns = exp_rotation(omega)
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # OpenCV counts from the middle of the first pixel
    frames = []
    for turn in turns:
        move = half @ k @ turn.T @ np.linalg.inv(wide) @ np.linalg.inv(half)
        view = cv2.warpPerspective(photo(), move, SIZE[::-1], flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
        frames.append(noisy(view, rng))
    camera = solve_camera(KltTracker().track(frames), 16.0)
    truth = turns[0].T @ turns
    assert "pure_rotation" in camera.flags and np.array_equal(camera.c2w[:, :3, 3], np.zeros((n, 3)))
    assert angle_deg(camera.c2w[:, :3, :3], truth).max() < 0.5
    assert np.abs(np.median(camera.intrinsics[:, 0]) / lens[0] - 1) < 0.02


def walls(c2w, lens, low, high, samples=2):
    """One frame of a box from inside, the photograph four times on every face."""
    height, width = SIZE
    total = np.zeros((height, width, 3))
    picture = photo().astype(np.float32)
    for dy in (np.arange(samples) + 0.5) / samples:
        for dx in (np.arange(samples) + 0.5) / samples:
            x, y = np.meshgrid(
                (np.arange(width) + dx - lens[2]) / lens[0], (np.arange(height) + dy - lens[3]) / lens[1]
            )
            ray = np.stack([x, y, np.ones_like(x)], -1) @ c2w[:3, :3].T
            reach = np.where(ray > 0, high - c2w[:3, 3], low - c2w[:3, 3]) / np.where(np.abs(ray) < 1e-9, 1e-9, ray)
            axis = reach.argmin(-1)
            at = c2w[:3, 3] + ray * reach.min(-1)[..., None]
            share = (at - low) / (high - low)
            # Twice along every side and back again, like mirrored wallpaper.
            share = np.abs((2 * share) % 2 - 1)
            u = np.where(axis == 0, share[..., 2], share[..., 0])
            v = np.where(axis == 1, share[..., 2], share[..., 1])
            column, row = (
                (part * (side - 1)).astype(np.float32) for part, side in ((u, picture.shape[1]), (v, picture.shape[0]))
            )
            total += cv2.remap(picture, column, row, cv2.INTER_LINEAR)
    return total / samples**2


def test_a_box_hung_with_photographs_is_walked_through():
    rng, n = np.random.default_rng(0), 17
    s = np.linspace(0, 1, n)
    c2w = np.tile(np.eye(4), (n, 1, 1))
    c2w[:, :3, :3] = exp_rotation(np.stack([0.05 * np.sin(4 * s), 0.2 * np.sin(3 * s), 0 * s], 1))
    c2w[:, :3, 3] = np.stack([0.3 * np.sin(3 * s), 0.1 * s, 1.2 * s], 1)
    lens = np.array([170.0, 170.0, 100.0, 60.0])
    low, high = np.array([-1.2, -0.8, -1.0]), np.array([1.2, 0.8, 4.0])
    frames = [noisy(walls(pose, lens, low, high), rng) for pose in c2w]
    camera = solve_camera(KltTracker().track(frames), 16.0, lens, config=SolveConfig(level="fixed"))
    errors = compare_paths(camera.c2w, c2w)
    length = float(np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1).sum())
    assert errors.step_deg < 0.1 and errors.ate < 0.01 * length and "poor_fit" not in camera.flags


def test_a_camera_that_stands_still_stays_so_when_something_walks_by():
    rng, n = np.random.default_rng(0), 24
    still = cv2.resize(photo(), (200, 234), interpolation=cv2.INTER_AREA)[40:160]
    walker = cv2.resize(photo()[100:300, 150:350], (40, 60), interpolation=cv2.INTER_AREA)[..., ::-1]
    frames = []
    for i in range(n):
        frame = still.copy()
        frame[40:100, 5 + 6 * i : 45 + 6 * i] = walker
        frames.append(noisy(frame, rng))
    camera = solve_camera(KltTracker().track(frames), 16.0)
    assert "static_camera" in camera.flags
    assert angle_deg(camera.c2w[:, :3, :3], np.tile(np.eye(3), (n, 1, 1))).max() < 0.2
